"""Part b: how good attributions are by masking, on a regular network and on an X-DNN.

Table 2 of the paper has four of six metrics, of AlexNet on ImageNet. Here are all six, of networks
that are small enough to train. What must come out is that on an X-DNN the row of X-Gradient, of
one pass, is the row of integrated gradients, of 128. See :mod:`whence.evaluation.masking`.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from reproductions.xdnn.kept import Kept, Row, markdown
from reproductions.xdnn.networks import RESNET, VGG
from reproductions.xdnn.pictures import BUILD, CIFAR, DATASETS, DIGITS, pictures
from reproductions.xdnn.training import REGULAR, SCRATCH, TUNED, trained
from whence.attribution import (
    ExpectedGradients,
    Gradient,
    IntegratedGradients,
    References,
    XGradient,
)
from whence.core import Images, Labels, Method, ModelScalar, Progress, ScalarFn, logit, silent
from whence.errors import UnsupportedOperation
from whence.evaluation import MASKING, MaskedArea, Mean, masked_areas
from whence.network import Network

KEPT = Kept(path=BUILD / "masking.jsonl")
EXPLAINED = {DIGITS: 359, CIFAR: 300}
"""Test images."""

REFERENCES = 200
"""Training images from which EG draws its references."""

X_GRADIENT, INTEGRATED, RANDOM = "X-Gradient (1)", "IG (128)", "Random"
METHODS = (INTEGRATED, RANDOM, "Grad (1)", "EG (1)", X_GRADIENT)
PASSES = "in brackets: gradient evaluations for an image"

COMPARED = ("KPM", "KNM", "KAM", "RAM")
"""The metrics of the paper's table, by which a random map is no better than a true one."""

PAPER = """\
| AlexNet, ImageNet (the paper) | KPM | KNM | KAM | RAM |
|:--|--:|--:|--:|--:|
| regular, IG (128) | 7.57 | 1.67 | 25.22 | 11.12 |
| regular, Random | 3.68 | 3.68 | 14.12 | 14.10 |
| regular, Grad (1) | 3.62 | 3.88 | 20.78 | 11.82 |
| regular, EG (1) | 4.92 | 2.97 | 20.49 | 13.76 |
| X-DNN, IG (128) | 7.38 | 2.21 | 21.79 | 11.68 |
| X-DNN, Random | 3.81 | 3.81 | 13.52 | 13.50 |
| X-DNN, Grad (1) | 3.87 | 4.34 | 19.75 | 11.25 |
| X-DNN, EG (1) | 5.41 | 3.19 | 19.47 | 13.19 |
| X-DNN, X-Gradient (1) | 7.38 | 2.21 | 21.83 | 11.68 |"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network of the experiment, with all methods on it."""

    dataset: str
    architecture: str
    variant: str

    @property
    def name(self) -> str:
        """The cell in a file."""
        return "/".join(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class RandomValues:
    """Values drawn uniformly from -0.5 to 0.5 for every channel and pixel, as in the paper.

    Args:
        seed: Of the draws; images differ.
    """

    seed: int = 0

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return the draws."""
        del f
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(images.shape, generator=generator).to(images) - 0.5


def cells() -> tuple[Cell, ...]:
    """Return the networks: with and without biases, with and without batch norm."""
    return tuple(
        Cell(dataset=dataset, architecture=architecture, variant=variant)
        for dataset in reversed(DATASETS)
        for architecture in (VGG, RESNET)
        for variant in (REGULAR, SCRATCH, TUNED)
    )


def chosen(dataset: str, count: int) -> tuple[Images, Labels]:
    """Return test images spread over the whole test set, and their labels."""
    test = pictures(dataset).test
    places = torch.linspace(0, len(test) - 1, min(count, len(test))).round().long().tolist()
    parts = list(test.batches(len(places), places))
    return torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])


def methods(dataset: str) -> dict[str, Method]:
    """Return the methods of the table."""
    bank = References(images=pictures(dataset).some(REFERENCES))
    made: tuple[Method, ...] = (
        IntegratedGradients(steps=128, rule="gauss-legendre"),
        RandomValues(),
        Gradient(),
        ExpectedGradients(references=bank, samples=1, shared=False),
        XGradient(),
    )
    return dict(zip(METHODS, made, strict=True))


def measure(cell: Cell, progress: Progress = silent) -> Row:
    """Return all metrics of all methods on a network, and how far X-Gradient's are from IG's."""
    started = time.process_time()
    model, _ = trained(cell.dataset, cell.architecture, cell.variant, progress=progress)
    images, labels = chosen(cell.dataset, EXPLAINED[cell.dataset])
    network = Network.read(model, images[:2])
    f = ModelScalar(network, logit(labels))
    row: Row = {"images": len(images), "methods": {}, "refused": ""}
    found: dict[str, dict[str, Tensor]] = {}
    for name, method in methods(cell.dataset).items():
        progress(f"{cell.name}, {name}", len(found), len(METHODS))
        try:
            values = method(f, images).detach()
        except UnsupportedOperation as error:
            row["refused"] = str(error).split("\n")[0]
            continue
        found[name] = masked_areas(network, labels, images, values)
        row["methods"][name] = {metric: estimated(a) for metric, a in found[name].items()}
    if X_GRADIENT in found:
        row["apart"] = {
            metric: float((found[X_GRADIENT][metric] - found[INTEGRATED][metric]).abs().mean())
            for metric in MASKING
        }
    row["cpu"] = round(time.process_time() - started, 1)
    return row


def estimated(values: Tensor) -> list[float]:
    """Return the mean over images and the ends of its bootstrap interval."""
    mean = Mean()
    mean.update(torch.arange(len(values)), values.cpu())
    result = mean.result()
    return [result.mean, result.low, result.high]


def report(rows: Mapping[str, Row]) -> str:
    """Return the tables, beside the paper's."""
    said = (
        f"Areas over the share of pixels ({PASSES}); mean over test images and half the width of "
        f"its 95 % bootstrap interval. KPM, RNM and KAM: higher is better; KNM, RPM and RAM: "
        f"lower. KAM and RAM times 100. RPM and RNM do not compare with Random, whose signs mean "
        f"nothing, so that it blurs other pixels."
    )
    parts = [said]
    for dataset in reversed(DATASETS):
        for architecture in (VGG, RESNET):
            own = [c for c in cells() if (c.dataset, c.architecture) == (dataset, architecture)]
            lines = [line for cell in own if cell.name in rows for line in shown(cell, rows)]
            if lines:
                count = next(rows[c.name]["images"] for c in own if c.name in rows)
                head = [f"{dataset}, {architecture}, {count} images", *MASKING]
                parts.append(markdown(head, lines))
    parts += ["\n".join(verdicts(rows)), "The paper's Table 2:", PAPER]
    return "\n\n".join(part for part in parts if part)


def shown(cell: Cell, rows: Mapping[str, Row]) -> list[list[str]]:
    """Return the lines of a network."""
    lines = []
    for method, areas in rows[cell.name]["methods"].items():
        told = []
        for metric in MASKING:
            mean, low, high = areas[metric]
            scale = 100 if metric.endswith("AM") else 1
            told.append(f"{scale * mean:.2f} ± {scale * (high - low) / 2:.2f}")
        lines.append([f"{cell.variant}, {method}", *told])
    return lines


def verdicts(rows: Mapping[str, Row]) -> list[str]:
    """Say what the tables show, beside what the paper's shows."""
    known = [rows[cell.name] for cell in cells() if cell.name in rows]
    free = [row for row in known if "apart" in row]
    refused = [row for row in known if row["refused"]]
    lines = []
    if free:
        most = max(value for row in free for value in row["apart"].values())
        lines.append(
            f"- X-Gradient has the row of {INTEGRATED} on all {len(free)} X-DNNs: on an image, "
            f"areas differ by {most:.0e} or less on average. So in the paper, but for a last digit."
        )
        told = ", ".join(f"{metric} on {wins(free, metric)}" for metric in COMPARED)
        lines.append(
            f"- Beside Random, Grad (1) and EG (1), X-Gradient is the best by {told} of "
            f"{len(free)} X-DNNs; KAM and RAM are mostly nearer to each other than their "
            f"intervals. In the paper it is the best by KPM, KNM and KAM, and Grad (1) by RAM."
        )
    if refused:
        said = refused[0]["refused"]
        lines.append(f"- X-Gradient is refused on all {len(refused)} regular networks. {said}")
    return lines


def wins(free: list[Row], metric: str) -> int:
    """Return on how many networks X-Gradient is better than the other methods of one pass."""
    higher = MaskedArea(metric=metric).card.better == "higher"
    best = max if higher else min
    count = 0
    for row in free:
        areas = {name: own[metric][0] for name, own in row["methods"].items()}
        count += best((n for n in areas if n != INTEGRATED), key=areas.__getitem__) == X_GRADIENT
    return count
