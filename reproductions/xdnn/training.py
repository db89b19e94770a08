"""The networks of the experiments, trained and converted as ``whence fit`` and ``convert`` do.

Each is kept in its own folder under ``build/xdnn/networks`` and made only once; a training that
was stopped goes on from its last epoch.
"""

import fcntl
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from reproductions.xdnn.networks import RESNET, RESNET20, VGG, VIT, for_cpu, network
from reproductions.xdnn.pictures import BUILD, CIFAR, DIGITS, pictures
from whence.adapters.training import TrainingSettings
from whence.convert import (
    ROUTES,
    RefitLayers,
    ScaleOnlyBatchNorms,
    UncentredBatchNorms,
    load_x_dnn,
    save_x_dnn,
    x_dnn,
)
from whence.convert.names import AnyRoute
from whence.core import Normalisation, Progress, silent
from whence.recipes.fit import fit

REGULAR = "regular"
LONGER = "regular, trained on"
SCRATCH = "X from scratch"
CONVERTED = "converted"
REFITTED = "converted, refitted"
TUNED = "converted, fine-tuned"
VARIANTS = (REGULAR, SCRATCH, CONVERTED, REFITTED, TUNED)
X_VARIANTS = (SCRATCH, CONVERTED, REFITTED, TUNED)
NETWORKS = BUILD / "networks"
CALIBRATION = 512
"""Images for a conversion; it needs no labels."""

COST = "cpu-seconds.txt"
"""What a network cost, of which an earlier run may have paid a part."""

EPOCHS = {
    (DIGITS, VGG): (20, 10),
    (DIGITS, RESNET): (20, 10),
    (DIGITS, VIT): (40, 20),
    (CIFAR, VGG): (8, 4),
    (CIFAR, RESNET): (8, 4),
    (CIFAR, VIT): (8, 4),
    (CIFAR, RESNET20): (0, 3),
}
"""Of a training from scratch, and of a fine-tune."""


def variants(architecture: str) -> tuple[str, ...]:
    """Return the variants of an architecture; the published network has none from scratch."""
    if architecture == RESNET20:
        return (REGULAR, LONGER, CONVERTED, REFITTED, TUNED)
    return VARIANTS


def settings(dataset: str, architecture: str, variant: str, seed: int) -> TrainingSettings:
    """Return how a network is trained."""
    tuning = variant in (TUNED, LONGER)
    found = TrainingSettings(
        epochs=EPOCHS[dataset, architecture][int(tuning)],
        batch_size=64 if dataset == CIFAR else 32,
        rate=2e-3 if dataset == DIGITS or architecture == RESNET else 1e-3,
        decay=1e-2,
        clip=1.0,
        vary=dataset == CIFAR,
        seed=seed,
    )
    if tuning:
        found = replace(found, rate=found.rate / 2)
    if dataset == CIFAR and architecture != VIT:
        return replace(found, precision="bf16-mixed")
    return found


def trained(
    dataset: str, architecture: str, variant: str, seed: int = 0, progress: Progress = silent
) -> tuple[nn.Module, Normalisation]:
    """Return a network in eval mode, and what its units are; made if it is not there yet.

    Args:
        dataset: ``digits`` or ``CIFAR-10``.
        architecture: ``VGG``, ``ResNet``, ``ViT``, or ``ResNet-20`` on CIFAR-10.
        variant: One of :func:`variants`.
        seed: Of the first weights and of the order of the images.
        progress: Told how far a training is.
    """
    return made(dataset, architecture, variant, seed, progress), pictures(dataset).normalisation


def made(dataset: str, architecture: str, variant: str, seed: int, progress: Progress) -> nn.Module:
    """Return a network from its folder, or make it."""
    if variant == REGULAR and architecture == RESNET20:
        return network(dataset, architecture)
    place = folder(dataset, architecture, variant, seed)
    biased = variant in (REGULAR, LONGER)
    file = place / ("weights.safetensors" if biased else "x-dnn.safetensors")
    with alone(place):
        if not file.is_file() or (place / "runs").is_dir():
            started = time.process_time()
            make(dataset, architecture, variant, seed, place, progress)
            (place / COST).write_text(f"{time.process_time() - started:.1f}", "utf-8")
    if not biased:
        return load_x_dnn(file).module
    found = network(dataset, architecture, seed)
    found.load_state_dict(load_file(file))
    return found.eval()


def cost(dataset: str, architecture: str, variant: str, seed: int = 0) -> float:
    """Return the seconds of processor time that a network took to make."""
    path = folder(dataset, architecture, variant, seed) / COST
    return float(path.read_text("utf-8")) if path.is_file() else 0.0


def folder(dataset: str, architecture: str, variant: str, seed: int) -> Path:
    """Return where a network is kept."""
    words = f"{dataset} {architecture} {variant} {seed}"
    return NETWORKS / words.replace(",", "").replace(" ", "-").lower()


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Wait until no other process is making this network."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make(
    dataset: str, architecture: str, variant: str, seed: int, place: Path, progress: Progress
) -> None:
    """Train or convert a network into its folder."""
    if variant in (CONVERTED, REFITTED):
        routes: Sequence[AnyRoute] = ROUTES
        if variant == REFITTED:
            routes = (*ROUTES, RefitLayers())
        convert(dataset, architecture, seed, routes, place)
        return
    task = pictures(dataset)
    before = {TUNED: REFITTED, LONGER: REGULAR}.get(variant)
    if before is None:
        start = network(dataset, architecture, seed)
    else:
        start = made(dataset, architecture, before, seed, progress)
    fit(
        for_cpu(start),
        task.train,
        task.validation,
        test=task.test,
        out=place,
        settings=settings(dataset, architecture, variant, seed),
        convert=variant == SCRATCH,
        routes=from_scratch(architecture) if variant == SCRATCH else (),
        name=f"{architecture}, {variant}",
        resume=place.is_dir(),
        progress=progress,
    )
    shutil.rmtree(place / "runs")


def from_scratch(architecture: str) -> Sequence[AnyRoute]:
    """Return how an untrained network is made an X-DNN: batch norm stays, uncentred, to train."""
    if architecture != RESNET:
        return ROUTES
    return [UncentredBatchNorms() if isinstance(r, ScaleOnlyBatchNorms) else r for r in ROUTES]


def convert(
    dataset: str, architecture: str, seed: int, routes: Sequence[AnyRoute], place: Path
) -> None:
    """Convert the regular network, without any training, and write it with its certificate."""
    regular = made(dataset, architecture, REGULAR, seed, silent)
    images = pictures(dataset).some(CALIBRATION)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its activations may shrink: what the table is about
        found = x_dnn(regular, images, routes=routes)
    place.mkdir(parents=True, exist_ok=True)
    file = place / "x-dnn.safetensors"
    save_x_dnn(found.model, images, file, changes=found.report.changes, overwrite=True)
    (place / "report.txt").write_text(str(found.report), "utf-8")
