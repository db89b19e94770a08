"""Survival from NHANES I: sparse attributions as a prior, where data are few.

A small network learns from a hundred people who lives for another fifteen years. A prior asks for
few features (the Gini coefficient of the mean absolute attribution), by four attributions; its
weight is chosen on another hundred. The paper's table has 118 one-hot columns, which are not
published; here are the 18 columns that are, alone and with 100 rare one-hot columns that mean
nothing. All repetitions of a cell are trained at once, and each finished cell is kept, so that the
run can be stopped at any time and goes on from there.

    python -m reproductions.xdnn.nhanes --repetitions 40
"""

import argparse
import csv
import gzip
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional

from reproductions.xdnn.kept import Clock, Kept, Row, each_new, markdown
from reproductions.xdnn.pictures import BUILD
from reproductions.xdnn.pictures import DATA as SHARED
from whence.core import gini

DATA = SHARED / "nhanes"
KEPT = Kept(path=BUILD / "nhanes.jsonl")
REPETITIONS = 20
WIDTHS = (512, 128, 32, 1)
WEIGHTS = (0.01, 0.1, 1.0, 10.0, 100.0)
METHODS = ("none", "none, bias-free", "RRR", "Grad", "EG(1)", "X-Gradient")
SWEEP = (2, 4, 8, 16)
VARIANTS = {"18 features": 0, "+ 100 rare one-hot": 100}
PAPER = {
    "none": 0.7077,
    "none, bias-free": 0.7056,
    "RRR": 0.7141,
    "Grad": 0.7150,
    "EG(1)": 0.7519,
    "X-Gradient": 0.7697,
}
"""Test AUC on the full table of 118 columns, mean of 200 repetitions."""

PAPER_SWEEP = {1: 0.749, 2: 0.752, 4: 0.760, 8: 0.761, 16: 0.764, 32: 0.768}
"""By the number of references, at the weight 1."""

YEARS, POINTS, EPOCHS, RATE, MOST = 15, 100, 100, 1e-3, 3000
SENTINELS = {"Red blood cells": 77.7, "Poverty index": 999.0}

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """One row of the experiment: all repetitions of a method with a weight."""

    variant: str
    method: str
    weight: float
    references: int = 1

    @property
    def name(self) -> str:
        """The cell in a file."""
        return f"{self.variant}/{self.method}/{self.weight:g}/{self.references}"


@dataclass(frozen=True)
class Split:
    """Repetitions of the task: features ``(r, n, d)`` and labels ``(r, n)`` of each part."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def table() -> tuple[Tensor, Tensor]:
    """Return features, NaN where unknown, and whether each person lived for so many years."""
    with gzip.open(DATA / "NHANESI_subset_X.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name]
    values = torch.tensor([[float(row[name] or "nan") for name in names] for row in rows])
    for name, code in SENTINELS.items():
        column = values[:, names.index(name)]
        column[(column - code).abs() < 1e-3] = torch.nan
    with gzip.open(DATA / "NHANESI_subset_y.csv.gz", "rt") as file:
        years = torch.tensor([float(row["y"]) for row in csv.DictReader(file)])
    known = (years > 0) | (-years >= YEARS)
    lived = years.abs() >= YEARS
    return values[known], lived[known].float()


def splits(values: Tensor, labels: Tensor, nuisance: int, repetitions: int) -> Split:
    """Return the repetitions; means and deviations are those of the training part."""
    parts: list[list[tuple[Tensor, Tensor]]] = [[], [], []]
    for seed in range(repetitions):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(values), generator=generator)[: 2 * POINTS + MOST]
        rare = 0.005 + 0.095 * torch.rand(nuisance, generator=generator)
        drawn = torch.rand(len(order), nuisance, generator=generator) < rare
        features = torch.cat([values[order], drawn.float()], dim=1)
        own = features[:POINTS]
        mean = own.nanmean(dim=0).nan_to_num()
        features = torch.where(features.isnan(), mean, features)
        spread = features[:POINTS].std(dim=0)
        features = (features - mean) / torch.where(spread > 0, spread, torch.ones_like(spread))
        cuts = (slice(0, POINTS), slice(POINTS, 2 * POINTS), slice(2 * POINTS, None))
        for part, cut in zip(parts, cuts, strict=True):
            part.append((features[cut], labels[order][cut]))
    joined = [
        (torch.stack([x for x, _ in part]), torch.stack([y for _, y in part])) for part in parts
    ]
    return Split(train=joined[0], validation=joined[1], test=joined[2])


def fresh(count: int, features: int, *, biased: bool) -> Parameters:
    """Return the weights of so many networks, drawn as PyTorch draws them."""
    found: Parameters = {}
    drawn: dict[str, list[Tensor]] = {}
    for seed in range(count):
        generator = torch.Generator().manual_seed(10_000 + seed)
        before = features
        for k, width in enumerate(WIDTHS):
            bound = before**-0.5
            weight = (2 * torch.rand(before, width, generator=generator) - 1) * bound
            drawn.setdefault(f"w{k}", []).append(weight)
            bias = (2 * torch.rand(width, generator=generator) - 1) * bound
            if biased:
                drawn.setdefault(f"b{k}", []).append(bias)
            before = width
    for name, tensors in drawn.items():
        found[name] = torch.stack(tensors)
    return found


def logits(parameters: Parameters, x: Tensor) -> Tensor:
    """Return one network's logits ``(n,)``."""
    for k in range(len(WIDTHS)):
        x = x @ parameters[f"w{k}"]
        if f"b{k}" in parameters:
            x = x + parameters[f"b{k}"]
        x = x if k == len(WIDTHS) - 1 else x.relu()
    return x[:, 0]


def attributions(
    cell: Cell, parameters: Parameters, x: Tensor, starts: Tensor, places: Tensor
) -> Tensor:
    """Return the attributions of one network; starts are ``(k, n, d)``, places on the path."""
    if cell.method == "RRR":
        return grad(
            lambda at: (
                2 * functional.logsigmoid(logits(parameters, at)) - logits(parameters, at)
            ).sum()
        )(x)
    slope = grad(lambda at: logits(parameters, at).sum())
    if cell.method == "Grad":
        return slope(x)
    if cell.method == "X-Gradient":
        return x * slope(x)
    points = starts + places * (x - starts)
    slopes = slope(points.flatten(0, 1)).reshape(points.shape)
    return ((x - starts) * slopes).mean(dim=0)


def loss(
    cell: Cell, parameters: Parameters, x: Tensor, y: Tensor, starts: Tensor, places: Tensor
) -> Tensor:
    """Return the loss of one network on all its training people."""
    task = functional.binary_cross_entropy_with_logits(logits(parameters, x), y)
    if not cell.weight:
        return task
    used = attributions(cell, parameters, x, starts, places).abs().mean(dim=0, keepdim=True)
    return task - cell.weight * gini(used)[0]


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the area under the ROC curve of each row; ties count half."""
    found = []
    for own, truth in zip(scores, labels, strict=True):
        positive, negative = own[truth > 0], own[truth == 0]
        apart = positive[:, None] - negative
        found.append(((apart > 0).double() + 0.5 * (apart == 0).double()).mean())
    return torch.stack(found)


def run(cell: Cell, split: Split) -> tuple[Tensor, Tensor]:
    """Train all repetitions of a cell; return validation and test AUC of their best epochs."""
    x, y = split.train
    count, points, features = x.shape
    biased = cell.method not in ("none, bias-free", "X-Gradient")
    parameters = {
        name: value.to(x.device).requires_grad_()
        for name, value in fresh(count, features, biased=biased).items()
    }
    steps = torch.optim.Adam(list(parameters.values()), lr=RATE)
    generator = torch.Generator().manual_seed(7)
    slopes = vmap(grad(lambda p, *rest: loss(cell, p, *rest)), in_dims=0)
    best = torch.full((count,), -1.0, dtype=torch.float64, device=x.device)
    kept = {name: value.detach().clone() for name, value in parameters.items()}
    k = cell.references
    for _ in range(EPOCHS):
        with torch.no_grad():
            known = auc(vmap(logits)(parameters, split.validation[0]), split.validation[1])
            better = known > best
            best = torch.where(better, known, best)
            for name, value in parameters.items():
                kept[name][better] = value[better]
        which = torch.randint(points, (count, k, points), generator=generator).to(x.device)
        starts = torch.stack([own[rows] for own, rows in zip(x, which, strict=True)])
        places = torch.rand(count, k, points, 1, generator=generator).to(x.device)
        plain = {name: value.detach() for name, value in parameters.items()}
        for name, slope in slopes(plain, x, y, starts, places).items():
            parameters[name].grad = slope
        steps.step()
    with torch.no_grad():
        scores = [vmap(logits)(kept, part) for part in torch.split(split.test[0], 500, dim=1)]
        return best, auc(torch.cat(scores, dim=1), split.test[1])


def cells() -> tuple[Cell, ...]:
    """Return all cells, the most telling first."""
    found = [
        Cell(variant, method, weight)
        for variant in VARIANTS
        for method in METHODS
        for weight in ((0.0,) if method.startswith("none") else WEIGHTS)
    ]
    return *found, *(Cell("+ 100 rare one-hot", "EG", 1.0, count) for count in SWEEP)


@lru_cache(maxsize=1)
def task(variant: str, repetitions: int, device: str) -> Split:
    """Return the repetitions of a variant on a device."""
    made = splits(*table(), VARIANTS[variant], repetitions)
    parts = [(x.to(device), y.to(device)) for x, y in (made.train, made.validation, made.test)]
    return Split(*parts)


def measure(cell: Cell, repetitions: int = REPETITIONS, device: str = "cpu") -> Row:
    """Train a cell and return its row."""
    validation, test = run(cell, task(cell.variant, repetitions, device))
    return {
        **asdict(cell),
        "repetitions": repetitions,
        "validation": validation.mean().item(),
        "test": test.mean().item(),
        "error": test.std().item() / math.sqrt(len(test)),
    }


def expected(cell: Cell) -> float:
    """Return about how many seconds a cell takes on two cores."""
    passes = {"none": 1.0, "none, bias-free": 1.0, "RRR": 3.0, "Grad": 3.0}
    return 6 * passes.get(cell.method, 2.0 + cell.references)


def report(rows: Mapping[str, Row]) -> str:
    """Return the table: our test AUC at the weight that validation chose, beside the paper's."""
    known = cells()
    done = {cell: rows[cell.name] for cell in known if cell.name in rows}
    if not done:
        return ""
    repetitions = next(iter(done.values()))["repetitions"]
    lines = []
    for method in METHODS:
        found = [chosen(done, variant, method) for variant in VARIANTS]
        lines.append([method, *(shown(row) for row in found), f"{PAPER[method]:.3f}"])
    first = f"Test AUC, mean and standard error of {repetitions} repetitions; weight by validation."
    parts = [
        first,
        markdown(["method", *VARIANTS, "the paper, 118 columns"], lines),
        "\n".join(f"- {line}" for line in ordering(done)),
        sweep(done),
        "Test AUC by the weight of the prior:",
        by_weight(done),
    ]
    return "\n\n".join(part for part in parts if part)


def shown(row: Row | None) -> str:
    """Return a test AUC with its error, and the weight."""
    if row is None:
        return ""
    weight = f" (weight {row['weight']:g})" if row["weight"] else ""
    return f"{row['test']:.3f} ± {row['error']:.3f}{weight}"


def sweep(done: Mapping[Cell, Row]) -> str:
    """Return the table of Expected Gradients by the number of references."""
    one = Cell("+ 100 rare one-hot", "EG(1)", 1.0)
    several = [Cell("+ 100 rare one-hot", "EG", 1.0, count) for count in SWEEP]
    found = [(c.references, done[c]) for c in (one, *several) if c in done]
    if not found:
        return ""
    rows = [
        [str(count), f"{row['test']:.3f} ± {row['error']:.3f}", f"{PAPER_SWEEP[count]:.3f}"]
        for count, row in found
    ]
    return "Expected Gradients at weight 1, with 100 rare one-hot columns:\n\n" + markdown(
        ["references", "ours", "the paper"], rows
    )


def by_weight(done: Mapping[Cell, Row]) -> str:
    """Return the table of all weights."""
    lines = []
    for variant in VARIANTS:
        for method in METHODS[2:]:
            own = [Cell(variant, method, weight) for weight in WEIGHTS]
            values = [f"{done[c]['test']:.3f}" if c in done else "" for c in own]
            lines.append([f"{variant}, {method}", *values])
    return markdown(["", *(f"{weight:g}" for weight in WEIGHTS)], lines)


def chosen(done: Mapping[Cell, Row], variant: str, method: str) -> Row | None:
    """Return the cell of a method at the weight that validation chose, if one is done."""
    among = [done[c] for c in done if (c.variant, c.method) == (variant, method)]
    return max(among, key=lambda row: row["validation"]) if among else None


def ordering(done: Mapping[Cell, Row]) -> list[str]:
    """Say for each variant whether the paper's ordering holds, by more than two standard errors."""
    lines = []
    for variant in VARIANTS:
        found = {method: chosen(done, variant, method) for method in METHODS}
        rows = {method: row for method, row in found.items() if row is not None}
        if len(rows) < len(METHODS):
            continue
        top = min((rows["EG(1)"], rows["X-Gradient"]), key=lambda row: row["test"])
        rest = max((rows[m] for m in METHODS[:4]), key=lambda row: row["test"])
        gap = top["test"] - rest["test"]
        error = math.hypot(top["error"], rest["error"])
        holds = "holds" if gap > 2 * error else "does not hold"
        lines.append(
            f"{variant}: that X-Gradient and EG are above RRR, Grad and none {holds} "
            f"({gap:+.3f} ± {error:.3f})"
        )
        one, other = rows["X-Gradient"], rows["EG(1)"]
        gap, error = one["test"] - other["test"], math.hypot(one["error"], other["error"])
        holds = "holds" if gap > 2 * error else "does not hold"
        lines.append(
            f"{variant}: that X-Gradient is above EG(1) {holds} ({gap:+.3f} ± {error:.3f})"
        )
    return lines


def main() -> int:
    """Run the cells that are missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"needs the table in {SHARED.parent.name}/data/nhanes beside the repository")
        return 1
    known = {cell.name: cell for cell in cells()}
    kept = KEPT if options.repetitions == REPETITIONS else other(options.repetitions)
    clock = Clock(left={name: expected(cell) for name, cell in known.items()})

    def one(name: str) -> Row:
        return measure(known[name], options.repetitions, options.device)

    for row in each_new(list(known), kept, one, clock):
        print(f"{row['cell']:45} {row['test']:.3f} ± {row['error']:.3f}  {clock.told()}")
    print(f"\n{report(kept.rows())}")
    return 0


def other(repetitions: int) -> Kept:
    """Return the file for another number of repetitions."""
    return Kept(path=BUILD / f"nhanes-{repetitions}.jsonl")


if __name__ == "__main__":
    sys.exit(main())
