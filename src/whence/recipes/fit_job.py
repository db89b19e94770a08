"""The trainings that are compared: the controls, then each weight of a prior."""

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from whence.adapters.lightning import is_first_process, train, wait_for_all
from whence.adapters.training import EpochRow, TrainingSettings
from whence.attribution.catalogue import CATALOGUE
from whence.convert import StripBiases, converted, x_dnn
from whence.convert.names import AnyRoute
from whence.core import ImageData, Progress, check_logits, logits_of
from whence.errors import NumericsError, SettingError, UnsupportedOperation, WhenceError
from whence.network import Network
from whence.priors import Prior, PriorLoss, prior_loss
from whence.recipes.fit_record import FitRow, log_text, read_row, save_row, spreads_in
from whence.recipes.fit_run import RUNS
from whence.recipes.fit_vary import masked, varied_together
from whence.recipes.measure import Measured, device_of, measured
from whence.results.folder import write_whole

__all__ = ["Candidate", "Job", "save_weights"]

COLLAPSED = 1e-3
"""Below this mean difference of the highest and the lowest logit a network says nothing."""

SILENT, TIMES = 0.5, 10
"""It says nothing, too, below this difference if without the prior it is so many times as far."""

MISSING = "derivative for aten::"
"""What PyTorch says where an operation cannot be differentiated again."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One training to compare.

    Args:
        name: What it is called.
        module: Where it starts from; None if there is no such network.
        weight: The prior's weight.
        bias_free: Whether the network is homogeneous.
        note: Why there is no such network.
    """

    name: str
    module: nn.Module | None
    weight: float
    bias_free: bool
    note: str = ""

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return self.name.replace(",", "").replace(" ", "-")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What all trainings of a comparison share."""

    original: nn.Module
    train: ImageData
    validation: ImageData
    some: Tensor
    settings: TrainingSettings
    prior: Prior | None
    folder: Path
    progress: Progress
    notes: list[str] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)
    routes: Sequence[AnyRoute] = ()

    def candidates(self, weights: Sequence[float], *, convert: bool) -> tuple[Candidate, ...]:
        """Return the trainings to compare: the controls, then the weights, each once."""
        start = self.converted() if convert else self.original
        free = convert or homogeneous(start, self.some)
        plain = "no prior, bias-free" if free else "no prior"
        found = [Candidate(name=plain, module=start, weight=0.0, bias_free=free)]
        if self.prior is None:
            return tuple(found)
        if not free:
            found.append(self.control())
        for weight in sorted({*(weights or (self.prior.weight,))} - {0.0}):
            name = f"weight {weight:g}"
            found.append(Candidate(name=name, module=start, weight=weight, bias_free=free))
        return tuple(found)

    def converted(self) -> nn.Module:
        """Return the network as an X-DNN, with what its conversion warns of among the notes."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            chosen = {"routes": self.routes} if self.routes else {}
            made = x_dnn(self.original, self.some, **chosen)
        self.notes.extend(str(one.message) for one in told)
        return made.model

    def control(self) -> Candidate:
        """Return the training without a prior and without biases."""
        name = "no prior, bias-free"
        try:
            return Candidate(name=name, module=self.converted(), weight=0.0, bias_free=True)
        except WhenceError as error:
            reason = str(error).splitlines()[0]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = converted(self.original, self.some, routes=(StripBiases(),))
        except WhenceError:
            return Candidate(name=name, module=None, weight=0.0, bias_free=True, note=reason)
        self.notes.append(
            f"The control without biases is no X-DNN, only stripped of the biases of its layers: "
            f"{reason}"
        )
        return Candidate(name=name, module=made.model, weight=0.0, bias_free=False)

    def tried(self, one: Candidate) -> None:
        """Try the loss of a candidate on two images, so that what cannot work ends at once."""
        module = copy.deepcopy(one.module)
        if module is None:
            return
        batch = next(self.train.batches(2, [0, len(self.train) - 1]))
        task = Task(prior=self.weighed(one.weight), settings=self.settings)
        with torch.random.fork_rng(devices=()), torch.enable_grad(), second_derivatives():
            found = task(module, batch.images, batch.labels, batch.indices, 0)
            torch.autograd.backward(found.total)

    def measured(self, module: nn.Module, data: ImageData) -> Measured:
        """Measure a network on the device of the training."""
        try:
            return measured(
                module.to(self.settings.device),
                data,
                batch_size=self.settings.batch_size,
                intercept=self.settings.intercept,
                progress=self.progress,
            )
        finally:
            module.to("cpu")

    def row(self, one: Candidate, *, alone: bool) -> FitRow:
        """Train a candidate, or read what came of it before."""
        place = self.folder / RUNS / one.slug
        finished = place / "finished.json"
        if finished.is_file():
            self.remember(one, place)
            return read_row(finished)
        if one.module is None:
            return failed(one, (), one.note)
        place.mkdir(parents=True, exist_ok=True)
        module, told = copy.deepcopy(one.module), list[EpochRow]()
        try:
            row = row_of(one, self.trained(one, module, place, told))
        except NumericsError as error:
            if alone or one.weight == 0:
                raise
            row = failed(one, told, str(error))
        if is_first_process():
            save_weights(module, place / "weights.safetensors")
            save_row(row, finished)
        wait_for_all()
        self.remember(one, place)
        return row

    def remember(self, one: Candidate, place: Path) -> None:
        """Keep how far apart the logits were, epoch by epoch, of a training without a prior."""
        if not one.weight and (place / "log.csv").is_file():
            self.usual[:] = spreads_in(place / "log.csv")

    def trained(
        self, one: Candidate, module: nn.Module, place: Path, told: list[EpochRow]
    ) -> tuple[EpochRow, ...]:
        """Train a candidate's network in place; ``told`` gets the rows as they come."""

        def watch(rows: tuple[EpochRow, ...]) -> None:
            told[:] = rows
            if is_first_process():
                write_whole(place / "log.csv", log_text(rows).encode())
            check_collapse(rows, one.weight, self.usual)

        together = self.settings.vary and masked(self.prior)
        return train(
            module,
            Task(prior=self.weighed(one.weight), settings=self.settings, together=together),
            self.train,
            self.validation,
            settings=replace(self.settings, vary=self.settings.vary and not together),
            folder=place,
            watch=watch,
            progress=partial(self.told, one.name),
        )

    def told(self, name: str, stage: str, done: int, total: int) -> None:
        """Tell how far the training of this name is."""
        self.progress(f"{stage}: {name}", done, total)

    def weighed(self, weight: float) -> Prior | None:
        """Return the prior with this weight, or none."""
        return replace(self.prior, weight=weight) if self.prior is not None and weight else None

    def loaded(self, one: Candidate) -> nn.Module:
        """Return the network that came of a candidate, in eval mode."""
        module = copy.deepcopy(one.module)
        if module is None:
            msg = f"There is no network {one.name}: {one.note}"
            raise SettingError(msg)
        module.load_state_dict(load_file(self.folder / RUNS / one.slug / "weights.safetensors"))
        return module.eval()


@final
@dataclass(kw_only=True, eq=False)
class Task:
    """The loss of a batch, with a prior or without.

    Args:
        prior: The prior, if there is one; a method that works on layers gets the network's graph,
            in eval mode.
        settings: Says what is added to the logits.
        together: Images are varied here, masks with them, and not where they are loaded.
    """

    prior: Prior | None
    settings: TrainingSettings
    together: bool = False

    def __post_init__(self) -> None:
        """Start without a graph."""
        self.network: Network | None = None

    def __call__(
        self, module: nn.Module, images: Tensor, labels: Tensor, rows: Tensor, step: int
    ) -> PriorLoss:
        """Return the loss."""
        prior = None if self.prior is None else self.prior.at(rows.cpu(), step)
        if self.together:
            images, prior = varied_together(images, prior, self.settings, step)
        if prior is None:
            logits = check_logits(logits_of(module(images)), len(images))
            own = self.task(logits, labels)
            return PriorLoss(total=own, task=own, penalty=torch.full_like(own, 0), logits=logits)
        run: Any = module
        if needs_network(prior):
            self.network = self.network or read(module, images)
            run = self.network
        return prior_loss(run, images, labels, prior=prior, task=self.task)

    def task(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy, the intercept added to the logits."""
        offset = self.settings.intercept
        shifted = logits if offset is None else logits + torch.tensor(offset).to(logits)
        return functional.cross_entropy(shifted, labels)


def needs_network(prior: Prior) -> bool:
    """Return whether the prior's method works on the layers of a network."""
    return any(
        type(prior.method) is entry.make and entry.card.needs.startswith("a network")
        for entry in CATALOGUE
    )


def read(module: nn.Module, images: Tensor) -> Network:
    """Return the graph of a network in eval mode; the network is as it was afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    network = Network.read(module, images)
    for part in training:
        part.training = True
    return network


def homogeneous(module: nn.Module, some: Tensor) -> bool:
    """Return whether a network is an X-DNN already."""
    try:
        return Network.read(module, some[:2].to(device_of(module))).homogeneity().holds
    except WhenceError:
        return False


def check_collapse(rows: Sequence[EpochRow], weight: float, control: Sequence[float]) -> None:
    """Stop where a prior has driven the network to zero.

    Args:
        rows: The epochs so far.
        weight: The prior's weight.
        control: How far apart the logits were, after each epoch without the prior.
    """
    last = rows[-1]
    usual = control[last.epoch - 1] if last.epoch <= len(control) else 0.0
    small = last.spread < SILENT and last.spread * TIMES < usual
    if not weight or not (small or last.spread < COLLAPSED):
        return
    beside = f" (without the prior {usual:.1e})" if usual else ""
    msg = (
        f"The network collapsed to zero in epoch {last.epoch}: under the prior's weight "
        f"{weight:g} its logits differ by {last.spread:.1e}{beside}, and its accuracy is "
        f"{100 * last.validation_accuracy:.1f} %, because no attribution costs least. Lower the "
        f"weight, or take a penalty that is relative to the whole map."
    )
    raise NumericsError(msg)


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Say which operation has no second derivative, if one has none."""
    try:
        yield
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
        operation = str(error).partition(MISSING)[2].split()[0].strip("'\"")
        msg = (
            f"PyTorch has no second derivative of {operation}, which a prior on attributions "
            f"needs. Replace the operation (--convert does for many), or train without a prior."
        )
        raise UnsupportedOperation(msg) from error


def failed(one: Candidate, rows: Sequence[EpochRow], note: str) -> FitRow:
    """Return the row of a training that has no result."""
    return FitRow(
        name=one.name,
        weight=one.weight,
        bias_free=one.bias_free,
        epochs=len(rows),
        best_epoch=0,
        validation_accuracy=0.0,
        validation_loss=math.inf,
        penalty=math.nan,
        note=note,
    )


def row_of(one: Candidate, rows: Sequence[EpochRow]) -> FitRow:
    """Return the row of a training, of its best epoch."""
    best = max(rows, key=lambda row: (row.validation_accuracy, row.epoch))
    return FitRow(
        name=one.name,
        weight=one.weight,
        bias_free=one.bias_free,
        epochs=len(rows),
        best_epoch=best.epoch,
        validation_accuracy=best.validation_accuracy,
        validation_loss=best.validation_loss,
        penalty=best.penalty if one.weight else math.nan,
    )


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights, each tensor on its own."""
    state = {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(state, part)
    part.replace(path)
