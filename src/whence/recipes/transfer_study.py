"""A study of harmony, step by step; each finished step is a file, and is not done again."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attribution import needs_network
from whence.core import ModelScalar, Progress, fingerprint_tensor, logit
from whence.errors import DataError, ReadError, ShapeError, WhenceError
from whence.evaluation.transfer import Transfer, TransferCell
from whence.evaluation.transfer_masks import ORIGINAL, soft_masks
from whence.network import Network
from whence.recipes.load import spread
from whence.recipes.transfer_asking import Asking, packed
from whence.recipes.transfer_methods import StudiedMethod, scale_of
from whence.recipes.transfer_networks import TransferNetwork, family_of
from whence.recipes.transfer_plan import Found, Originals, Plan, judged_originals
from whence.results.transfer import TransferWork

__all__ = ["Study"]

CHUNK = 64
"""Images whose maps are one step: what is lost at most when a study is stopped."""


@final
@dataclass(kw_only=True, eq=False)
class Study:
    """A study under way.

    Args:
        networks: Generators and evaluators.
        plan: What is studied.
        progress: Told how far it is.
    """

    networks: tuple[TransferNetwork, ...]
    plan: Plan
    progress: Progress
    read: dict[str, Network] = field(default_factory=dict, init=False, repr=False)
    seconds: dict[str, float] = field(default_factory=dict, init=False)

    def run(self, out: Path, *, overwrite: bool) -> Found:
        """Do the steps that are missing, and return what the study found."""
        families = {one.name: self.family(one) for one in self.networks}  # refused before all work
        fresh = not out.exists()
        work = TransferWork.open(out, self.identity(), overwrite=overwrite)
        started = perf_counter()
        try:
            originals = self.originals(work)
            kept = self.kept(originals)
        except WhenceError:
            if fresh:  # nothing is worth keeping of a study that cannot be made
                shutil.rmtree(out, ignore_errors=True)
            raise
        originals = {name: one.at(kept) for name, one in originals.items()}
        cube = Transfer(seed=self.plan.seed)
        for network in self.networks:
            cell = TransferCell(evaluator=network.name, shown=ORIGINAL)
            cube.update(cell, kept, originals[network.name].columns)
        self.noted("originals", started)
        self.maps(work, kept, originals)
        self.judge(work, kept, originals, cube)
        started = perf_counter()
        verdicts = cube.result()
        self.noted("intervals", started)
        masks = {
            (method.name, one.name): self.load_maps(work, method, one, len(kept))
            for method in self.plan.methods
            for one in self.networks
        }
        return Found(
            verdicts=verdicts,
            families=families,
            maps=masks,
            count=len(kept),
            seconds=self.seconds,
        )

    def noted(self, stage: str, started: float) -> None:
        """Note how long a stage took."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - started

    def network(self, one: TransferNetwork) -> Network:
        """Return the graph of a network, read once."""
        if one.name not in self.read:
            self.read[one.name] = Network.read(one.model, self.some(one))
        return self.read[one.name]

    def some(self, one: TransferNetwork) -> Tensor:
        """Return two images as a network takes them, or one if there is no other."""
        batch = next(iter(one.data.batches(2)), None)
        if batch is None:
            msg = f"{one.data.title} holds no usable image for {one.name}."
            raise DataError(msg)
        return batch.images.to(one.device)

    def family(self, one: TransferNetwork) -> str:
        """Return the kind of a network; its graph is read if that, or a method, needs it.

        Raises:
            ReadError: If a method needs the graph of a model that cannot be read.
        """
        some = self.some(one)
        made = (method.make(one.normalisation, some) for method in self.plan.methods)
        if any(needs_network(method) for method in made):
            self.network(one)
        if one.family:
            return one.family
        try:
            return family_of(self.network(one))
        except ReadError:
            return "other"

    def identity(self) -> dict[str, str]:
        """Return what the study is, by name, as text."""
        plan, first = self.plan, self.networks[0]
        masks = "none" if plan.masks is None else fingerprint_tensor(plan.masks)
        banks = "none" if first.bank is None else first.bank.fingerprint()
        return {
            **{f"network {one.name}": one.fingerprint for one in self.networks},
            **{f"method {one.name}": one.text for one in plan.methods},
            "networks": ", ".join(one.name for one in self.networks),
            "methods": ", ".join(one.name for one in plan.methods),
            "data": first.data.fingerprint(),
            "bank": banks,
            "object masks": masks,
            "fills": ", ".join(plan.fills),
            "coverages": ", ".join(map(str, plan.coverages)),
            "target": plan.target,
            "count": str(plan.count),
            "seed": str(plan.seed),
        }

    @cached_property
    def chosen(self) -> list[int]:
        """The numbers of the images, spread over the data."""
        total = len(self.networks[0].data)
        return spread(total, self.plan.count or total) if total else []

    def originals(self, work: TransferWork) -> dict[str, Originals]:
        """Return what every network says of the images as they are."""
        found = {}
        for at, one in enumerate(self.networks):
            self.progress("originals", at, len(self.networks))
            step = f"originals-{at}"
            if not work.has(step):
                work.save(step, judged_originals(one, self.chosen, self.plan.batch_size))
            arrays = {name: torch.from_numpy(array) for name, array in work.load(step).items()}
            found[one.name] = Originals(**arrays)
        self.progress("originals", len(self.networks), len(self.networks))
        return found

    def kept(self, originals: Mapping[str, Originals]) -> Tensor:
        """Return the numbers of the images that every network can see."""
        common = set.intersection(*(set(one.indices.tolist()) for one in originals.values()))
        if len(common) < 2:  # noqa: PLR2004 - masks are shuffled between images
            msg = (
                f"Masks are shuffled between images, so that a study needs two or more; "
                f"{len(common)} can be used."
            )
            raise DataError(msg)
        if self.plan.masks is not None:
            needed = len(self.networks[0].data)
            if len(self.plan.masks) != needed or self.plan.masks.ndim != 4:  # noqa: PLR2004 - n 1 h w
                msg = (
                    f"Object masks are ({needed}, 1, h, w), one for each image of the data; got "
                    f"{tuple(self.plan.masks.shape)}."
                )
                raise ShapeError(msg)
        return torch.tensor(sorted(common))

    def maps(self, work: TransferWork, kept: Tensor, originals: Mapping[str, Originals]) -> None:
        """Make the maps of every method on every network that are missing."""
        started = perf_counter()
        for number, method in enumerate(self.plan.methods):
            done, total = 0, len(self.networks) * len(kept)
            for at, one in enumerate(self.networks):
                for part, rows in enumerate(torch.split(kept, CHUNK)):
                    self.progress(f"maps {method.name}", done, total)
                    step = f"maps-{number}-{at}-{part}"
                    if not work.has(step):
                        work.save(step, self.made_maps(one, method, rows, kept, originals))
                    done += len(rows)
            self.progress(f"maps {method.name}", total, total)
        self.noted("maps", started)

    def made_maps(
        self,
        one: TransferNetwork,
        method: StudiedMethod,
        rows: Tensor,
        kept: Tensor,
        originals: Mapping[str, Originals],
    ) -> dict[str, NDArray[Any]]:
        """Return the soft masks of some images on one network, and which show nothing."""
        parts = list(one.data.batches(len(rows), rows.tolist()))
        images = torch.cat([part.images for part in parts]).to(one.device)
        said = originals[one.name].at(rows)
        classes = said.predictions if self.plan.target == "predicted" else said.labels
        made = method.make(one.normalisation, one.filling(kept.tolist()))
        model = self.network(one) if needs_network(made) else one.model
        values = made(ModelScalar(model, logit(classes.to(one.device))), images)
        masks, blank = soft_masks(values, scale_of(made))
        return {"masks": masks.float().cpu().numpy(), "blank": blank.cpu().numpy()}

    def load_maps(
        self, work: TransferWork, method: StudiedMethod, one: TransferNetwork, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return the soft masks of all images on one network, and which show nothing."""
        number = self.plan.methods.index(method)
        at = self.networks.index(one)
        parts = [work.load(f"maps-{number}-{at}-{p}") for p in range(-(-count // CHUNK))]
        masks = torch.from_numpy(np.concatenate([part["masks"] for part in parts]))
        return masks, torch.from_numpy(np.concatenate([part["blank"] for part in parts]))

    def judge(
        self,
        work: TransferWork,
        kept: Tensor,
        originals: Mapping[str, Originals],
        cube: Transfer,
    ) -> None:
        """Ask every network about features and controls, and put what it says into the cube."""
        started = perf_counter()
        asking = Asking(plan=self.plan, kept=kept)
        pairs = len(self.networks) ** 2 * len(self.plan.methods)
        total, done = pairs * len(kept), 0
        for number, method in enumerate(self.plan.methods):
            for g, generator in enumerate(self.networks):
                masks, _ = self.load_maps(work, method, generator, len(kept))
                for e, evaluator in enumerate(self.networks):
                    self.progress("judging", done, total)
                    step = f"judged-{number}-{g}-{e}"
                    if not work.has(step):
                        said = originals[evaluator.name]
                        asked = asking.asked(generator, evaluator, masks, said)
                        work.save(step, packed(asked))
                    self.take(cube, work.load(step), kept, evaluator, generator, method)
                    done += len(kept)
        for e, evaluator in enumerate(self.networks):
            if self.plan.masks is not None:
                step = f"object-{e}"
                if not work.has(step):
                    said = originals[evaluator.name]
                    work.save(step, packed(asking.objects(evaluator, said)))
                self.take(cube, work.load(step), kept, evaluator, None, None)
        self.progress("judging", total, total)
        self.noted("judging", started)

    def take(
        self,
        cube: Transfer,
        arrays: Mapping[str, NDArray[Any]],
        kept: Tensor,
        evaluator: TransferNetwork,
        generator: TransferNetwork | None,
        method: StudiedMethod | None,
    ) -> None:
        """Put what a network said into the cube."""
        for key, values in zip(arrays["keys"].tolist(), arrays["values"], strict=True):
            cell = TransferCell(
                evaluator=evaluator.name,
                shown=key[0],
                generator="" if generator is None else generator.name,
                method="" if method is None else method.name,
                mask=key[1],
                fill=key[2],
            )
            cube.update(cell, kept, torch.from_numpy(values))
