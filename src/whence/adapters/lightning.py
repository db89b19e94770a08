"""The one door to Lightning: its trainer, without its voice.

Lightning brings the loop, checkpoints, resuming, mixed precision, several devices and nodes. What
is learnt comes from outside, as a loss; who reads its progress, as a function.
"""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from whence.adapters.torchvision import open_torchvision
from whence.adapters.training import (
    EpochRow,
    Loader,
    Losses,
    LossFn,
    TrainingSettings,
    optimisation,
    seed_of,
)
from whence.core import ImageData, Progress, check_logits, logits_of, silent
from whence.errors import MissingExtra, NumericsError, SettingError

__all__ = ["is_first_process", "train", "wait_for_all"]

CHECKPOINTS = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
LOUD = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities")


def train(
    module: nn.Module,
    loss: LossFn,
    training: ImageData,
    validation: ImageData,
    *,
    settings: TrainingSettings,
    folder: Path,
    watch: Callable[[tuple[EpochRow, ...]], None],
    progress: Progress = silent,
) -> tuple[EpochRow, ...]:
    """Train a network in place, from the last checkpoint in the folder if there is one.

    The network ends with the weights of the epoch of highest validation accuracy (of several the
    last), in eval mode. Stopped and resumed at the end of an epoch, the result is that of a run
    that was not stopped; an epoch that was cut short is repeated.

    Args:
        module: The network; changed in place, and moved to the device.
        loss: Returns the loss of a batch.
        training: Labelled images to learn from.
        validation: Labelled images to judge by.
        settings: How to train.
        folder: Where ``checkpoints/`` are kept, and TensorBoard's log if it is installed.
        watch: Told all rows after every epoch, before the next; may raise to stop.
        progress: Told after every step.

    Returns:
        One row for each epoch.

    Raises:
        MissingExtra: Lightning is not installed.
        NumericsError: The loss is not finite.
        KeyboardInterrupt: Ctrl-C; the last checkpoint stays.
    """
    lightning = opened()
    places = folder / CHECKPOINTS
    told = Told(watch=watch, progress=progress, settings=settings)
    with quiet(), torch.random.fork_rng(devices=cuda_devices(settings)):
        # The last comes after the best, whose state it holds.
        keep = kept(lightning, places, BEST, "validation_accuracy")
        callbacks = [callback(lightning, told), keep, kept(lightning, places, LAST, None)]
        trainer = trainer_of(lightning, settings, folder, callbacks)
        task = task_of(lightning, module, loss, settings, told)
        module.train()
        loaders = (
            Loader(data=training, settings=settings, trainer=trainer, shuffled=True),
            Loader(data=validation, settings=settings, trainer=trainer, shuffled=False),
        )
        last = places / LAST
        resumed = str(last) if last.is_file() else None
        told.rows = rows_in(last) if resumed else []
        if not ended(told.rows, settings):
            with interruptible(trainer):
                trainer.fit(task, *loaders, ckpt_path=resumed, weights_only=True)
        state = torch.load(places / BEST, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict({name.removeprefix("module."): v for name, v in state.items()})
    module.eval()
    return tuple(told.rows)


def ended(rows: Sequence[EpochRow], settings: TrainingSettings) -> bool:
    """Return whether a training has come to its end: all epochs, or enough without a better."""
    if not rows or settings.patience is None:
        return len(rows) >= settings.epochs
    best = max(rows, key=lambda row: (row.validation_accuracy, -row.epoch))
    return len(rows) >= settings.epochs or len(rows) - best.epoch >= settings.patience


def is_first_process() -> bool:
    """Return whether this process is the only one, or the one that writes."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
    return all(int(os.environ.get(name) or 0) == 0 for name in names)


def wait_for_all() -> None:
    """Wait until all processes of a training are here, if there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def opened() -> Any:  # noqa: ANN401 - an optional library
    """Return Lightning, which imports torchvision where there is one: through its own door.

    Raises:
        MissingExtra: It is not installed.
        SettingError: It is, and cannot be loaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if find_spec("torchvision") is not None:
                open_torchvision()
            import lightning.pytorch as lightning
    except ImportError as error:
        package = "lightning"
        raise MissingExtra(package, "fit", "Training") from error
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        msg = (
            f"Lightning is installed, but cannot be loaded: {reason}. Libraries beside it that "
            f"were built for another PyTorch, such as torchvision, are a usual cause; install "
            f"versions that belong together."
        )
        raise SettingError(msg) from error
    return lightning


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's warnings and messages; what matters of them is said by whence."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@contextmanager
def interruptible(trainer: Any) -> Iterator[None]:  # noqa: ANN401 - Lightning's
    """Turn Lightning's answer to Ctrl-C, the end of the program, back into an exception."""
    main = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not main:
            signal.signal(signal.SIGINT, main)


def trainer_of(
    lightning: Any,  # noqa: ANN401 - an optional library
    settings: TrainingSettings,
    folder: Path,
    callbacks: Sequence[Any],
) -> Any:  # noqa: ANN401 - Lightning's
    """Return a trainer that draws, prints and logs nothing of its own."""
    callbacks = list(callbacks)
    if settings.patience is not None:
        callbacks.append(
            lightning.callbacks.EarlyStopping(
                "validation_accuracy", mode="max", patience=settings.patience
            )
        )
    kind, _, which = settings.device.partition(":")
    logger: Any = False
    if find_spec("tensorboard") is not None:
        logger = lightning.loggers.TensorBoardLogger(folder, name="tensorboard", version="")
    alone = settings.devices == settings.nodes == 1
    return lightning.Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(which)] if which else settings.devices,
        num_nodes=settings.nodes,
        strategy="auto" if alone else "ddp",
        precision="32-true" if settings.precision == "32" else settings.precision,
        max_epochs=settings.epochs,
        gradient_clip_val=settings.clip,
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
    )


def kept(lightning: Any, places: Path, name: str, monitor: str | None) -> Any:  # noqa: ANN401 - an optional library
    """Return what keeps one checkpoint: of the epoch of the highest value, or of the last."""

    class Kept(lightning.callbacks.ModelCheckpoint):  # type: ignore[misc]
        """Keeps the last of several that are as good: a prior has worked on it for longest."""

        def check_monitor_top_k(self, trainer: Any, current: Tensor | None = None) -> bool:  # noqa: ANN401
            """Return whether an epoch is as good as the best before."""
            del trainer
            known = self.best_k_models.get(self.kth_best_model_path)
            return current is not None and (known is None or bool(current >= known))

    return Kept(
        dirpath=places,
        filename=name.removesuffix(".ckpt"),
        monitor=monitor,
        mode="max",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def cuda_devices(settings: TrainingSettings) -> list[int]:
    """Return the devices whose generators are used."""
    return list(range(torch.cuda.device_count())) if settings.device.startswith("cuda") else []


@final
@dataclass(kw_only=True, eq=False)
class Told:
    """What was learnt of each epoch, and who is told."""

    watch: Callable[[tuple[EpochRow, ...]], None]
    progress: Progress
    settings: TrainingSettings

    def __post_init__(self) -> None:
        """Start with no rows."""
        self.rows: list[EpochRow] = []


def rows_in(checkpoint: Path) -> list[EpochRow]:
    """Return the rows that a checkpoint holds."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return [EpochRow(**row) for row in content["callbacks"].get("Watch", {}).get("rows", [])]


def callback(lightning: Any, told: Told) -> Any:  # noqa: ANN401 - an optional library
    """Return the callback that keeps the rows, in checkpoints too, and tells of them."""

    class Watch(lightning.Callback):  # type: ignore[misc]
        """Keeps one row for each epoch."""

        state_key = "Watch"

        def state_dict(self) -> dict[str, Any]:
            """Return the rows as plain values."""
            return {"rows": [vars(row) for row in told.rows]}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            """Take the rows of a checkpoint."""
            told.rows = [EpochRow(**row) for row in state["rows"]]

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:  # noqa: ANN401
            """Let dropped units depend on seed, epoch and process alone."""
            del module
            kind = 3 + 4 * int(trainer.global_rank)
            fresh = torch.Generator().manual_seed(
                seed_of(told.settings.seed, int(trainer.current_epoch), kind)
            )
            torch.set_rng_state(fresh.get_state())
            if told.settings.device.startswith("cuda"):
                device = trainer.strategy.root_device
                own = torch.Generator(device).manual_seed(fresh.initial_seed())
                torch.cuda.set_rng_state(own.get_state(), device)

        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:  # noqa: ANN401
            """Tell how far the training is."""
            del rest
            total = max(1, int(trainer.estimated_stepping_batches))
            told.progress("training", min(int(trainer.global_step), total), total)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:  # noqa: ANN401
            """Keep the row of this epoch, and tell of it."""
            found = {name: float(value) for name, value in trainer.callback_metrics.items()}
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            told.rows.append(
                EpochRow(epoch=int(trainer.current_epoch) + 1, rate=rate, **module.row(found))
            )
            told.watch(tuple(told.rows))

    return Watch()


def task_of(
    lightning: Any,  # noqa: ANN401 - an optional library
    network: nn.Module,
    loss: LossFn,
    settings: TrainingSettings,
    told: Told,
) -> Any:  # noqa: ANN401 - Lightning's
    """Return what Lightning trains."""

    class Task(lightning.LightningModule):  # type: ignore[misc]
        """A network, its loss, and its optimiser."""

        def __init__(self) -> None:
            super().__init__()
            self.module = network

        def training_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
            """Return the loss of a batch."""
            del number
            indices, images, labels = batch
            found = loss(self.module, images, labels, indices, int(self.trainer.global_step))
            if not bool(found.total.isfinite()):
                raise exploded(found, len(told.rows) + 1)
            right = (found.logits.argmax(dim=1) == labels).float().mean()
            self.note(len(labels), task=found.task, penalty=found.penalty, accuracy=right)
            return found.total

        def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> None:
            """Note how the network does on images that it does not learn from."""
            del number
            _, images, labels = batch
            training = [part for part in self.module.modules() if part.training]
            self.module.eval()
            logits = check_logits(logits_of(self.module(images)), len(images)).float()
            for part in training:
                part.training = True
            spread = (logits.amax(dim=1) - logits.amin(dim=1)).mean()
            shifted = logits + torch.tensor(settings.intercept or [0.0]).to(logits)
            self.note(
                len(labels),
                validation_loss=functional.cross_entropy(shifted, labels),
                validation_accuracy=(shifted.argmax(dim=1) == labels).float().mean(),
                spread=spread,
            )

        def note(self, size: int, **values: Tensor) -> None:
            """Add to the means of the epoch."""
            found = {name: value.detach() for name, value in values.items()}
            self.log_dict(
                found, batch_size=size, on_step=False, on_epoch=True, sync_dist=True, prog_bar=False
            )

        def row(self, found: Mapping[str, float]) -> dict[str, float]:
            """Return the numbers of a row among all that were logged."""
            names = ("task", "penalty", "accuracy", "validation_loss", "validation_accuracy")
            return {name: found[name] for name in (*names, "spread")}

        def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's
            """Return optimiser and schedule over the parameters that are to be trained."""
            chosen = [p for p in self.module.parameters() if p.requires_grad]
            total = int(self.trainer.estimated_stepping_batches)
            steps, rate = optimisation(chosen, settings, total)
            return {"optimizer": steps, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    return Task()


def exploded(found: Losses, epoch: int) -> NumericsError:
    """Return the error for a loss that is not finite."""
    return NumericsError(
        f"The loss became {found.total.item()} in epoch {epoch} (task {found.task.item():g}, "
        f"penalty {found.penalty.item():g}). Lower the learning rate, clip the gradient, or lower "
        f"the prior's weight."
    )
