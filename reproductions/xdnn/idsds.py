"""Part e: how good attributions are by deleting single cells, on a regular network and an X-DNN.

IDSDS of Hesse, Schaub-Meyer and Roth (2024), which came after the X-DNN and says what its axioms do
not: an axiomatic attribution is not the most faithful one. Networks are judged as they are, and
after the benchmark's fine-tune on images of which half have lost a cell, shortened; see
:mod:`whence.evaluation.idsds`.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reproductions.xdnn.kept import Kept, Row, markdown
from reproductions.xdnn.masking import RandomValues, chosen, estimated
from reproductions.xdnn.networks import RESNET, VGG, network
from reproductions.xdnn.pictures import BUILD, CIFAR, DATASETS, DIGITS, pictures
from reproductions.xdnn.training import REGULAR, SCRATCH, TUNED, alone, settings, trained
from whence.adapters.training import TrainingSettings
from whence.attribution import GradCAM, InputXGradient, IntegratedGradients, Occlusion, XGradient
from whence.attribution.quadrature import Rule
from whence.convert import load_x_dnn
from whence.core import (
    Method,
    ModelScalar,
    Normalisation,
    Progress,
    Uniform,
    logit,
    silent,
)
from whence.errors import UnsupportedOperation
from whence.evaluation import IDSDS, CellDropout, Cells
from whence.network import Network
from whence.recipes.fit import fit

KEPT = Kept(path=BUILD / "idsds.jsonl")
EXPLAINED = {DIGITS: 359, CIFAR: 500}
"""Test images."""

EPOCHS = {DIGITS: 20, CIFAR: 3}
"""Of the fine-tune on images with a deleted cell; the paper's takes 30."""

STEPS = 50
X_GRADIENT, PRODUCT, OCCLUSION = "X-Gradient", "Input x Gradient", "Occlusion"
AGAINST = ("IG", "IG, uniform baseline", "Grad-CAM", OCCLUSION)
BETWEEN = Normalisation(mean=(0.5,), std=(0.5,))
"""Pixels from 0 to 1 become numbers from -1 to 1: the uniform baseline is in the model's units."""

METHODS = (
    X_GRADIENT,
    PRODUCT,
    "IG",
    "IG, uniform baseline",
    "Grad-CAM",
    "Grad-CAM, signed",
    OCCLUSION,
    "Random",
)

PAPER = """\
The benchmark's scores on ImageNet, read off its figure:

| IDSDS | VGG-16 | ResNet-50 | Fixup ResNet-50 | X-ResNet-50 |
|:--|--:|--:|--:|--:|
| Input x Gradient | 0.15 | 0.07 | 0.17 | 0.24 |
| IG | 0.39 | 0.20 | 0.31 | 0.24 |
| IG, uniform baseline | 0.48 | 0.26 | 0.34 | 0.38 |
| Grad-CAM | 0.55 | 0.24 | 0.36 | 0.41 |"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network of the experiment, with all methods on it."""

    dataset: str
    architecture: str
    variant: str
    tuned: bool

    @property
    def name(self) -> str:
        """The cell in a file."""
        return "/".join(str(value) for value in asdict(self).values())


def methods(side: int) -> dict[str, Method]:
    """Return the methods of the tables, for images of so many pixels a side.

    Occlusion stands for methods that keep no axiom: windows of a quarter of a cell, one by one.
    """
    rule: Rule = "gauss-legendre"
    uniform = Uniform(normalisation=BETWEEN)
    window = side // 8
    made: tuple[Method, ...] = (
        XGradient(),
        InputXGradient(),
        IntegratedGradients(steps=STEPS, rule=rule),
        IntegratedGradients(steps=STEPS, rule=rule, baseline=uniform),
        GradCAM(),
        GradCAM(relu=False),
        Occlusion(window=window, stride=window),
        RandomValues(),
    )
    return dict(zip(METHODS, made, strict=True))


def cells() -> tuple[Cell, ...]:
    """Return the networks, as they are and after the fine-tune."""
    return tuple(
        Cell(dataset=dataset, architecture=architecture, variant=variant, tuned=tuned)
        for tuned in (False, True)
        for dataset in reversed(DATASETS)
        for architecture in (VGG, RESNET)
        for variant in (REGULAR, SCRATCH, TUNED)
    )


def deleted(cell: Cell, progress: Progress = silent) -> nn.Module:
    """Return a network after the fine-tune on images with a deleted cell; made only once."""
    place = folder(cell)
    biased = cell.variant == REGULAR
    file = place / ("weights.safetensors" if biased else "x-dnn.safetensors")
    with alone(place):
        if not file.is_file() or (place / "runs").is_dir():
            before, _ = trained(cell.dataset, cell.architecture, cell.variant, progress=progress)
            task = pictures(cell.dataset)
            fit(
                nn.Sequential(CellDropout(), before).eval(),
                task.train,
                task.validation,
                out=place,
                settings=tuning(cell),
                name=f"{cell.architecture}, {cell.variant}, cells deleted",
                resume=place.is_dir(),
                progress=progress,
            )
            shutil.rmtree(place / "runs")
    if not biased:
        return load_x_dnn(file).module
    found = network(cell.dataset, cell.architecture)
    held = load_file(file)
    found.load_state_dict({name.removeprefix("1."): value for name, value in held.items()})
    return found.eval()


def tuning(cell: Cell) -> TrainingSettings:
    """Return how a network is fine-tuned: as it was trained, shorter and at a quarter the rate."""
    usual = settings(cell.dataset, cell.architecture, REGULAR, 0)
    return TrainingSettings(
        epochs=EPOCHS[cell.dataset],
        batch_size=usual.batch_size,
        rate=usual.rate / 4,
        decay=usual.decay,
        clip=usual.clip,
        vary=usual.vary,
        precision=usual.precision,
    )


def folder(cell: Cell) -> Path:
    """Return where a fine-tuned network is kept."""
    words = f"{cell.dataset} {cell.architecture} {cell.variant} cells"
    return BUILD / "networks" / words.replace(",", "").replace(" ", "-").lower()


def measure(cell: Cell, progress: Progress = silent) -> Row:
    """Return the scores of all methods on a network, and its accuracy."""
    started = time.process_time()
    if cell.tuned:
        model = deleted(cell, progress)
    else:
        model, _ = trained(cell.dataset, cell.architecture, cell.variant, progress=progress)
    images, labels = chosen(cell.dataset, EXPLAINED[cell.dataset])
    reading = Network.read(model, images[:2])
    f = ModelScalar(reading, logit(labels))
    judge = IDSDS()
    drops = judge.drops(f, images)
    with torch.no_grad():
        right = (reading(images).argmax(dim=1) == labels).float().mean()
    row: Row = {"images": len(images), "accuracy": float(right), "scores": {}, "constant": {}}
    found: dict[str, Tensor] = {}
    for name, method in methods(images.shape[-1]).items():
        progress(f"{cell.name}, {name}", len(found), len(METHODS))
        try:
            values = method(f, images).detach()
        except UnsupportedOperation:
            continue  # X-Gradient, of a network that is no X-DNN
        judged = Cells(sums=judge.sums(images, values), drops=drops)
        found[name] = judged.correlation
        row["scores"][name] = estimated(found[name])
        row["constant"][name] = int(judged.constant.sum())
    row["over"] = {name: estimated(found[name] - found[PRODUCT]) for name in found}
    row["cpu"] = round(time.process_time() - started, 1)
    return row


def report(rows: Mapping[str, Row]) -> str:
    """Return the tables, beside the paper's."""
    said = (
        "IDSDS: Spearman's correlation of 4 x 4 cell sums with the fall of the true class's logit "
        "when the cell is zero; mean over test images with its 95 % bootstrap interval. A map that "
        "gives all cells one sum has 0. Occlusion hides one window after the other, a quarter of "
        "a cell each, and keeps no axiom."
    )
    parts = [said]
    for tuned, words in ((False, "As they are"), (True, "After a fine-tune with deleted cells")):
        for dataset in reversed(DATASETS):
            for architecture in (VGG, RESNET):
                own = [
                    cell
                    for cell in cells()
                    if (cell.tuned, cell.dataset, cell.architecture)
                    == (tuned, dataset, architecture)
                    and cell.name in rows
                ]
                if own:
                    count = rows[own[0].name]["images"]
                    parts.append(f"{words}: {dataset}, {architecture}, {count} images")
                    parts.append(table(own, rows))
    parts += ["\n".join(verdicts(rows)), PAPER]
    return "\n\n".join(part for part in parts if part)


def table(own: list[Cell], rows: Mapping[str, Row]) -> str:
    """Return a table with a column for each network."""
    lines = [
        [name, *(shown(rows[cell.name], name) for cell in own)]
        for name in METHODS
        if any(name in rows[cell.name]["scores"] for cell in own)
    ]
    accuracies = [f"{100 * rows[cell.name]['accuracy']:.1f} %" for cell in own]
    head = ["", *(cell.variant for cell in own)]
    return markdown(head, [*lines, ["accuracy on these images", *accuracies]])


def shown(row: Row, name: str) -> str:
    """Return a score with its interval, or that a method was refused."""
    if name not in row["scores"]:
        return "refused" if name == X_GRADIENT else ""
    mean, low, high = row["scores"][name]
    silent_on = row["constant"][name]
    note = f", {silent_on} constant" if silent_on else ""
    return f"{mean:.3f} ({low:.3f} to {high:.3f}{note})"


def verdicts(rows: Mapping[str, Row]) -> list[str]:
    """Say for each X-DNN which methods are above X-Gradient, and which below, beyond chance."""
    lines = []
    for cell in cells():
        row = rows.get(cell.name)
        if row is None or X_GRADIENT not in row["scores"]:
            continue
        told = []
        for name in (n for n in AGAINST if n in row["over"]):
            mean, low, high = row["over"][name]
            if low > 0 or high < 0:
                told.append(f"{name} {'above' if low > 0 else 'below'} it by {abs(mean):.3f}")
            else:
                told.append(f"{name} alike ({mean:+.3f})")
        state = ", after the fine-tune" if cell.tuned else ""
        lines.append(
            f"- {cell.dataset}, {cell.architecture}, {cell.variant}{state}: X-Gradient "
            f"{row['scores'][X_GRADIENT][0]:.3f}; paired over images, {'; '.join(told)}."
        )
    return lines
