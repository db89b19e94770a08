"""The tables: what each row of each task reached, and by how much it is above the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reproductions.lds.tasks import Task
from reproductions.lds.truth import Truth
from whence.evaluation import Datamodeling, Estimate, Mislabel
from whence.recipes import RemovalCurve

HEAD = (
    "# Data attribution against retraining",
    "",
    "Written by `python -m reproductions.lds` (`make reproduce-lds`), on real digits (MNIST).",
    "LDS: Spearman's correlation of summed scores with the margins of retrained models, mean over",
    "queries. Scores are of the margin of the query's true label, from models of all training",
    "images; seconds are processor time of one row. Rows of other libraries name the row of whence",
    "for the same method, and the paired difference: positive where whence is higher. These",
    "intervals do not know of the labels that K-FAC and EK-FAC draw from the model: how much these",
    "matter, the rows with another seed tell. dattri's EK-FAC is for linear layers only, and its",
    "conjugate gradients ran out of 18 GB of memory on the cnn: its solvers are left out there.",
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


def judged(truth: Truth, scores: Tensor) -> Datamodeling:
    """Return the linear datamodeling score of some scores."""
    found = Datamodeling()
    found.update(torch.arange(scores.shape[1]), scores, truth.keep, truth.margins)
    return found


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
        score = known[result.name].result().score
        row = f"{head} {score.mean:.3f} | {interval(score)} | {result.seconds:.0f} |"
        if not result.ours or result.ours not in known:
            lines.append(f"{row} | |")
            continue
        gap = known[result.ours].difference(known[result.name])
        lines.append(f"{row} {result.ours} | {gap.mean:+.3f} {interval(gap)} {verdict(gap)} |")
    return [*lines, "", *claims(known, results), ""]


def described(task: Task, truth: Truth, known: dict[str, Datamodeling]) -> str:
    """Return on what the table rests."""
    some = next(iter(known.values())).result() if known else None
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


def claims(known: dict[str, Datamodeling], results: Sequence[Result]) -> list[str]:
    """Return what the table says of the two claims, computed from it."""
    verdicts = [
        verdict(known[r.ours].difference(known[r.name]))
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
    for name in ("ekfac", "trak", "ekfac x models", "trak x models"):
        if name in known and "grad-cos" in known:
            gap = known[name].difference(known["grad-cos"])
            lines.append(
                f"{name} minus grad-cos: {gap.mean:+.3f} {interval(gap)} ({verdict(gap)})."
            )
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
