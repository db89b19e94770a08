"""Part a: what a network without biases costs in accuracy, and what it saves in passes.

Accuracy of regular networks, of X-DNNs from scratch, and of converted ones; and how far input
times gradient is from integrated gradients. Both as in Table 1 of the paper, whose networks are
larger and whose images are ImageNet's.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from reproductions.xdnn.kept import Kept, Row, markdown
from reproductions.xdnn.networks import ARCHITECTURES, RESNET20, VGG, VIT
from reproductions.xdnn.pictures import BUILD, CIFAR, DATASETS, DIGITS, lossless, pictures
from reproductions.xdnn.training import (
    CALIBRATION,
    CONVERTED,
    EPOCHS,
    LONGER,
    REFITTED,
    REGULAR,
    SCRATCH,
    TUNED,
    VARIANTS,
    cost,
    trained,
    variants,
)
from whence.attribution import InputXGradient, IntegratedGradients
from whence.core import ModelScalar, Progress, TensorData, logit, silent
from whence.recipes.measure import measured

KEPT = Kept(path=BUILD / "networks.jsonl")
SEEDS = {DIGITS: 3, CIFAR: 1}
STEPS, BATCH = 128, 16
EXPLAINED = 64
"""Test images on which attributions are compared."""

GUARD = 1e-7
AIM = {DIGITS: 1.0, CIFAR: 2.0}
"""How many points a fine-tuned X-DNN may lose."""

PAPER = """\
| ImageNet (the paper) | AlexNet | VGG16 | ResNet-50 (Fixup) |
|:--|--:|--:|--:|
| top-5 accuracy, regular | 79.21 | 90.44 | 92.56 |
| top-5 accuracy, X-DNN from scratch | 78.54 | 90.25 | 91.12 |
| difference of IG and input x gradient, regular | 79.0 % | 97.8 % | 93.8 % |
| the same, X-DNN | 1.2 % | 0.4 % | 0.0 % |"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network of the experiment."""

    dataset: str
    architecture: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """The cell in a file."""
        return "/".join(str(value) for value in asdict(self).values())


def cells() -> tuple[Cell, ...]:
    """Return all networks: those of CIFAR-10 first, the longest to train."""
    return tuple(
        Cell(dataset=dataset, architecture=architecture, variant=variant, seed=seed)
        for dataset in reversed(DATASETS)
        for architecture in architectures(dataset)
        for seed in range(SEEDS[dataset])
        for variant in variants(architecture)
    )


def architectures(dataset: str) -> tuple[str, ...]:
    """Return the architectures for a dataset."""
    return (*ARCHITECTURES, RESNET20) if dataset == CIFAR else ARCHITECTURES


def expected(cell: Cell) -> float:
    """Return about how many seconds a cell takes on two cores, its training included."""
    if cell.dataset == DIGITS:
        return 12 if cell.architecture == VIT else 6
    measuring = 40 if cell.architecture == RESNET20 else 15
    first, later = EPOCHS[cell.dataset, cell.architecture]
    epochs = {TUNED: later, LONGER: later, REGULAR: first, SCRATCH: first}.get(cell.variant, 0)
    return measuring + epochs * {RESNET20: 30, VIT: 15}.get(cell.architecture, 8)


def measure(cell: Cell, progress: Progress = silent) -> Row:
    """Train or convert a network, if it is not there, and measure it."""
    model, _ = trained(cell.dataset, cell.architecture, cell.variant, cell.seed, progress)
    started = time.process_time()
    test = pictures(cell.dataset).test
    found = measured(model, test, batch_size=250)
    row = {
        "images": found.images,
        "accuracy": found.accuracy,
        "contrast": list(found.contrast),
        "proven": found.homogeneous,
        "scale_error": found.scale_error,
        "difference": difference(model, test),
    }
    if cell.architecture == RESNET20:
        row["lossless"] = accuracy(model, lossless())
    spent = cost(cell.dataset, cell.architecture, cell.variant, cell.seed)
    return {**row, "cpu": round(spent + time.process_time() - started, 1)}


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorData) -> float:
    """Return the share of images predicted right."""
    right = [(model(b.images).argmax(dim=1) == b.labels).float() for b in data.batches(250)]
    return float(torch.cat(right).mean())


def difference(model: nn.Module, data: TensorData, count: int = EXPLAINED) -> float:
    r"""Return how far input times gradient is from integrated gradients from zero.

    .. math:: \text{mean} |IG - I \times G| \;/\; (\text{mean} |IG| + 10^{-7})

    of the true class, as a mean over batches, as in the authors' script.
    """
    places = torch.linspace(0, len(data) - 1, min(count, len(data))).round().long()
    ratios = []
    for batch in data.batches(BATCH, places.tolist()):
        f = ModelScalar(model, logit(batch.labels))
        integrated = IntegratedGradients(steps=STEPS, rule="gauss-legendre")(f, batch.images)
        product = InputXGradient()(f, batch.images)
        ratios.append(relative(integrated, product))
    return statistics.fmean(ratios)


def relative(integrated: Tensor, product: Tensor) -> float:
    """Return the mean absolute difference relative to the first's mean absolute value."""
    return float((integrated - product).abs().mean() / (integrated.abs().mean() + GUARD))


def report(rows: Mapping[str, Row]) -> str:
    """Return the tables, beside the paper's."""
    first = (
        f"Test accuracy in per cent. Digits: mean and standard error of {SEEDS[DIGITS]} "
        f"trainings, 359 images. CIFAR-10: one training, 5 000 JPEG images."
    )
    columns = (
        "X-DNNs from scratch are the same networks without biases; batch norm trains without "
        "its mean, layer norm is a scale, attention compares queries and keys of unit length. "
        f"`{CONVERTED}`: no training at all. `{REFITTED}`: each layer fitted to the original's "
        f"outputs on {CALIBRATION} images, without labels. `{TUNED}`: that, and training for "
        f"half the epochs of the regular network (CIFAR-10 "
        f"{EPOCHS[CIFAR, VGG][1]} of {EPOCHS[CIFAR, VGG][0]}, ResNet-20 "
        f"{EPOCHS[CIFAR, RESNET20][1]}; digits {EPOCHS[DIGITS, VGG][1]} of "
        f"{EPOCHS[DIGITS, VGG][0]}, ViT {EPOCHS[DIGITS, VIT][1]} of {EPOCHS[DIGITS, VIT][0]})."
    )
    second = (
        f"Mean absolute relative difference of integrated gradients ({STEPS} Gauss-Legendre "
        f"steps, zero baseline) and input x gradient, in single precision, {EXPLAINED} images."
    )
    parts = [
        first,
        columns,
        table(rows, VARIANTS, shown_accuracy),
        "\n".join(verdicts(rows)),
        second,
        table(rows, VARIANTS, shown_difference),
        published(rows),
        "The paper's Table 1:",
        PAPER,
    ]
    return "\n\n".join(part for part in parts if part)


def table(
    rows: Mapping[str, Row], chosen: tuple[str, ...], shown: Callable[[list[Row]], str]
) -> str:
    """Return a table with a line for each network and a column for each variant."""
    lines = [
        [f"{dataset}, {architecture}"]
        + [shown(of_seeds(rows, dataset, architecture, variant)) for variant in chosen]
        for dataset in DATASETS
        for architecture in architectures(dataset)
    ]
    return markdown(["", *chosen], lines)


def of_seeds(rows: Mapping[str, Row], dataset: str, architecture: str, variant: str) -> list[Row]:
    """Return the rows of a network that are there, one for each seed."""
    wanted = [
        Cell(dataset=dataset, architecture=architecture, variant=variant, seed=seed).name
        for seed in range(SEEDS[dataset])
    ]
    return [rows[name] for name in wanted if name in rows]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean and its standard error; zero for a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread / math.sqrt(len(values))


def shown_accuracy(found: list[Row]) -> str:
    """Return accuracies as text."""
    if not found:
        return ""
    mean, error = mean_and_error([100 * row["accuracy"] for row in found])
    return f"{mean:.1f} ± {error:.1f}" if len(found) > 1 else f"{mean:.1f}"


def shown_difference(found: list[Row]) -> str:
    """Return differences as text."""
    if not found:
        return ""
    mean = 100 * statistics.fmean(row["difference"] for row in found)
    return f"{mean:.1f} %" if mean >= 0.1 else f"{mean:.0e} %"


def verdicts(rows: Mapping[str, Row]) -> list[str]:
    """Say for each network whether its fine-tuned X-DNN is as near as was aimed for."""
    lines = []
    for dataset in DATASETS:
        for architecture in architectures(dataset):
            control = LONGER if architecture == RESNET20 else REGULAR
            before = of_seeds(rows, dataset, architecture, control)
            after = of_seeds(rows, dataset, architecture, VARIANTS[-1])
            if not before or not after:
                continue
            gap = 100 * (mean(after, "accuracy") - mean(before, "accuracy"))
            kept = "within" if gap >= -AIM[dataset] else "not within"
            points = "point" if AIM[dataset] == 1 else "points"
            lines.append(
                f"- {dataset}, {architecture}: converted and fine-tuned {gap:+.1f} against "
                f"{control}, {kept} {AIM[dataset]:g} {points}."
            )
    return lines


def mean(found: list[Row], name: str) -> float:
    """Return the mean of a number over rows."""
    return statistics.fmean(row[name] for row in found)


def published(rows: Mapping[str, Row]) -> str:
    """Return the table of the network that others trained."""
    lines = []
    for variant in variants(RESNET20):
        for row in of_seeds(rows, CIFAR, RESNET20, variant):
            values = (f"{100 * row['accuracy']:.1f}", f"{100 * row['lossless']:.1f}")
            lines.append([variant, *values, shown_difference([row]), f"{row['scale_error']:.0e}"])
    if not lines:
        return ""
    head = ["", "5 000 JPEG", "500 lossless", "difference", "scale error"]
    return (
        "ResNet-20 of He et al., as published (trained on lossless images, so that JPEG costs it "
        "ten points); `regular, trained on` had the fine-tune's epochs on the JPEG images, too, "
        f"and is what to compare with.\n\n{markdown(head, lines)}"
    )
