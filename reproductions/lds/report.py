"""The tables: what each row of each task reached, and by how much it is above the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from reproductions.lds.tasks import Task
from reproductions.lds.truth import Truth
from whence.evaluation import Datamodeling, Estimate, Mislabel
from whence.recipes import RemovalCurve

CLAIMS = (
    ("ekfac", "grad-cos"),
    ("trak", "grad-cos"),
    ("trak, sketch", "grad-cos"),
    ("ekfac x models", "grad-cos"),
    ("trak x models", "grad-cos"),
    ("ekfac", "kronfluence EK-FAC"),
    ("kfac", "kronfluence K-FAC"),
)
"""Rows that are compared below each table: whence's defaults with the usual retrieval, and with
the defaults of the library that has the same method."""

HEAD = (
    "# Data attribution against retraining",
    "",
    "Written by `python -m reproductions.lds` (`make reproduce-lds`), on real digits (MNIST).",
    "LDS: Spearman's correlation of summed scores with the margins of retrained models, mean over",
    "queries. Scores are of the margin of the query's true label, from models of all training",
    "images; seconds are processor time of one row. Rows of other libraries name the row of whence",
    "for the same method, and the paired difference: positive where whence is higher. K-FAC and",
    "EK-FAC draw labels or signs: theirs are the means of five fits, here and in kronfluence, and",
    "the intervals resample fits as well as queries. `0.1 x mean, labels` is whence with",
    "kronfluence's damping and draws; without a setting a row is what a user gets by default.",
    "dattri's EK-FAC is for linear layers only, and its conjugate gradients ran out of 18 GB of",
    "memory on the cnn: its solvers are left out there.",
    "",
)
"""How the page begins."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The scores of a row, or why there are none.

    Args:
        name: Of the row.
        setting: What was set other than by default.
        ours: The row of whence that it is compared with; empty for those of whence.
        scores: ``(n, q)``; None if it failed.
        seconds: Computing time.
        failure: Why there are no scores.
    """

    name: str
    setting: str
    ours: str
    scores: Tensor | None
    seconds: float
    failure: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """The linear datamodeling scores of a row.

    Args:
        values: One for each fit and query, ``(s, q)``; NaN where it is not defined.
        ceiling: What the noise of the retrainings' seeds leaves to reach.
    """

    values: Tensor
    ceiling: Estimate | None

    @property
    def score(self) -> Estimate:
        """The mean over fits and queries."""
        return resampled(self.values)

    def above(self, other: "Judged") -> Estimate:
        """Return by how much this is above another, paired by query."""
        return resampled(self.values, other.values)


def judged(truth: Truth, scores: Tensor) -> Judged:
    """Return the linear datamodeling scores of ``(n, q)`` scores, or of ``(s, n, q)``."""
    rows, ceiling = [], None
    for fit in scores if scores.ndim == 3 else scores[None]:
        found = Datamodeling()
        found.update(torch.arange(fit.shape[1]), fit, truth.keep, truth.margins)
        rows.append([found.scores.values[query] for query in range(fit.shape[1])])
        ceiling = ceiling or found.result().ceiling
    return Judged(values=torch.tensor(rows, dtype=torch.float64), ceiling=ceiling)


def resampled(one: Tensor, other: Tensor | None = None, count: int = 1000) -> Estimate:
    """Return a mean, or a difference of means, with its interval.

    Queries are drawn with replacement, the same on both sides; and so are the fits of each side,
    which differ in the labels or signs that were drawn for the curvature.

    Args:
        one: ``(s, q)``.
        other: What is taken from it, ``(t, q)``.
        count: Resamples.
    """
    generator = torch.Generator().manual_seed(0)
    size = one.shape[1]
    queries = torch.randint(size, (count, 1, size), generator=generator)

    def means(values: Tensor) -> Tensor:
        fits = torch.randint(len(values), (count, len(values), 1), generator=generator)
        return values[fits, queries].flatten(1).nanmean(dim=1)

    found, mean = means(one), one.nanmean()
    if other is not None:
        found, mean = found - means(other), mean - other.nanmean()
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    undefined = int(one.isnan().any(dim=0).sum())
    return Estimate(
        mean=float(mean), low=low, high=high, count=size - undefined, undefined=undefined
    )


def table(task: Task, truth: Truth, results: Sequence[Result]) -> list[str]:
    """Return the lines of a task's table, in Markdown."""
    known = {r.name: judged(truth, r.scores) for r in results if r.scores is not None}
    lines = [
        f"## {task.name}",
        "",
        described(task, truth, known),
        "",
        "| scores | set | LDS | 95 % | seconds | whence's row | whence minus it |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        head = f"| {result.name} | {result.setting} |"
        if result.name not in known:
            lines.append(f"{head} - | {result.failure} | {result.seconds:.0f} | | |")
            continue
        score = known[result.name].score
        row = f"{head} {score.mean:.3f} | {interval(score)} | {result.seconds:.0f} |"
        if not result.ours or result.ours not in known:
            lines.append(f"{row} | |")
            continue
        gap = known[result.ours].above(known[result.name])
        lines.append(f"{row} {result.ours} | {gap.mean:+.3f} {interval(gap)} {verdict(gap)} |")
    return [*lines, "", *claims(known, results), ""]


def described(task: Task, truth: Truth, known: dict[str, Judged]) -> str:
    """Return on what the table rests."""
    some = next(iter(known.values())) if known else None
    ceiling = (
        f"the seeds' noise sets a ceiling of {some.ceiling.mean:.3f} {interval(some.ceiling)}"
        if some and some.ceiling
        else "training is deterministic, so no noise of seeds bounds the score"
    )
    return (
        f"{task.train} training images, {task.queries} queries, {task.subsets} random halves x "
        f"{task.seeds} seed{'s' if task.seeds > 1 else ''} = {task.subsets * task.seeds} "
        f"retrainings ({truth.seconds:.0f} s); {ceiling}. Intervals: bootstrap over queries, "
        f"differences paired by query."
    )


def interval(estimate: Estimate) -> str:
    """Return the ends of an interval."""
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def verdict(gap: Estimate) -> str:
    """Return whether a difference is one."""
    if gap.low > 0:
        return "better"
    return "worse" if gap.high < 0 else "equal"


def claims(known: dict[str, Judged], results: Sequence[Result]) -> list[str]:
    """Return what the table says of the two claims, computed from it."""
    verdicts = [
        verdict(known[r.ours].above(known[r.name]))
        for r in results
        if r.ours in known and r.name in known
    ]
    lines = [
        (
            f"Same method elsewhere: of {len(verdicts)} rows, whence better in "
            f"{verdicts.count('better')}, equal in {verdicts.count('equal')}, worse in "
            f"{verdicts.count('worse')}."
        )
    ]
    for name, other in CLAIMS:
        if name in known and other in known:
            gap = known[name].above(known[other])
            lines.append(f"{name} minus {other}: {gap.mean:+.3f} {interval(gap)} ({verdict(gap)}).")
    return [f"* {line}" for line in lines]


def mislabel_table(
    found: Sequence[tuple[str, str, dict[str, Tensor] | None]],
) -> list[str]:
    """Return the table of wrong labels: task, row, and its self-scores."""
    lines = [
        "## Wrong labels",
        "",
        (
            "A tenth of the training labels changed; models trained on them; ranking by "
            "self-score. Chance: AUROC 0.5, AUPRC 0.1, found in the first tenth 10 %."
        ),
        "",
        "| task | scores | AUROC | AUPRC | found in 10 % | in 20 % |",
        "|---|---|---|---|---|---|",
    ]
    for task, name, cell in found:
        if cell is None:
            lines.append(f"| {task} | {name} | does not apply | | | |")
            continue
        statistic = Mislabel()
        scores = cell["scores"]
        statistic.update(torch.arange(len(scores)), scores, cell["wrong"])
        result = statistic.result()
        lines.append(
            f"| {task} | {name} | {result.auroc:.3f} | {result.auprc:.3f} | "
            f"{result.found_at(0.1):.0%} | {result.found_at(0.2):.0%} |"
        )
    return [*lines, ""]


def removal_table(curves: Sequence[tuple[str, RemovalCurve]]) -> list[str]:
    """Return the table of removal curves of the logistic model."""
    lines = ["## Removal curves (logistic)", ""]
    if not curves:
        return lines
    counts = curves[0][1].counts
    lines += [
        (
            "Each query's highest training images are removed and the model trained again: mean "
            "change of the margin of the query's label, and the share of predictions that flip."
        ),
        "",
        "| scores | " + " | ".join(f"{count} removed" for count in counts) + " |",
        "|---|" + "---|" * len(counts),
    ]
    for name, curve in curves:
        cells = [
            f"{change:+.2f}, {flips:.0%}"
            for change, flips in zip(
                curve.change.mean(dim=1).tolist(), curve.flips.mean(dim=1).tolist(), strict=True
            )
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    control = curves[0][1]
    cells = [
        f"{change:+.2f}, {flips:.0%}"
        for change, flips in zip(
            control.control_change.mean(dim=1).tolist(),
            control.control_flips.mean(dim=1).tolist(),
            strict=True,
        )
    ]
    return [*lines, "| random images | " + " | ".join(cells) + " |", ""]


def time_table(folders: Sequence[Path]) -> list[str]:
    """Return the table of processor times, summed over the cells of each task."""
    lines = [
        "## Processor time",
        "",
        "| task | retrainings and models | rows of whence | other libraries | all |",
        "|---|---|---|---|---|",
    ]
    every = [0.0] * 4
    for folder in folders:
        spent = {"whence": 0.0, "peer": 0.0, "": 0.0}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                kind = path.stem.partition("-")[0]
                kind = {"whence": "whence", "mislabel": "whence", "peer": "peer"}.get(kind, "")
                spent[kind] += float(file.get_tensor("seconds"))
        row = [spent[""], spent["whence"], spent["peer"], sum(spent.values())]
        every = [a + b for a, b in zip(every, row, strict=True)]
        lines.append(f"| {folder.name.partition('-')[0]} | {minutes(row)} |")
    return [*lines, f"| all | {minutes(every)} |", ""]


def minutes(seconds: Sequence[float]) -> str:
    """Return times as cells of a table."""
    return " | ".join(f"{value / 60:.1f} min" for value in seconds)
