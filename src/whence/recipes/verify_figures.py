"""Figures of a verification: before, after, and the change over the same images."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from whence.evaluation import Bootstrap, wilson
from whence.results.verify import Figure, VerifyRow, figure_text

__all__ = ["row_of", "sentences_of"]

Better = Literal["higher", "lower", "neither"]

DRAWS = 2000


def row_of(  # noqa: PLR0913 - everything that a row says
    section: str,
    name: str,
    meaning: str,
    before: Tensor,
    after: Tensor,
    better: Better,
    *,
    share: bool = True,
    finding: str = "",
    reference: float | None = None,
    referred: str = "",
) -> VerifyRow:
    """Return a figure before and after, with intervals and what may be claimed.

    Args:
        section: Where it belongs.
        name: What it is.
        meaning: The same in a sentence.
        before: One value per image; of truths, the share with Wilson's interval is taken.
        after: The values of the same images.
        better: Which direction is better.
        share: Whether the values are shares.
        finding: The finding that it is of.
        reference: What chance would give.
        referred: What that is.
    """
    bootstrap = Bootstrap(draws=DRAWS)
    found = bootstrap.compare(after.double(), before.double(), better)
    change = found.difference
    return VerifyRow(
        section=section,
        name=name,
        meaning=meaning,
        better=better,
        share=share,
        before=figure_of(before, bootstrap),
        after=figure_of(after, bootstrap),
        change=None
        if change is None
        else Figure(value=change.mean, low=change.low, high=change.high, count=change.count),
        verdict=found.verdict,
        reason=found.reason,
        finding=finding,
        reference=reference,
        referred=referred,
    )


def figure_of(values: Tensor, bootstrap: Bootstrap) -> Figure | None:
    """Return the mean of values with its interval; None if no value is defined."""
    if values.dtype == torch.bool:
        if not len(values):
            return None
        found = wilson(int(values.sum()), len(values))
        return Figure(value=found.value, low=found.low, high=found.high, count=len(values))
    mean = bootstrap.estimate(values.double())
    if mean is None:
        return None
    return Figure(value=mean.mean, low=mean.low, high=mean.high, count=mean.count)


def sentences_of(rows: Sequence[VerifyRow]) -> tuple[str, ...]:
    """Return what the figures permit to say: where a change is beyond its interval, and not.

    Figures of single findings, and those of which no direction is better, are left out.
    """
    told = [row for row in rows if not row.finding and row.better != "neither"]
    found = []
    for verdict, word in (("better", "Better"), ("worse", "Worse")):
        for row in told:
            if row.verdict == verdict and row.before is not None and row.after is not None:
                unit = " %" if row.share else ""
                factor = 100 if row.share else 1
                digits = 1 if row.share else 3
                was, now = factor * row.before.value, factor * row.after.value
                found.append(
                    f"{word}: {row.name}, from {was:.{digits}f}{unit} to {now:.{digits}f}{unit} "
                    f"(change {figure_text(row.change, share=row.share, signed=True)}, "
                    f"{row.after.count} images)."
                )
    silent = [row.name for row in told if row.verdict == "no claim" and row.change is not None]
    if silent:
        found.append(
            f"No claim, since the interval of the change covers 0 or there are too few images: "
            f"{'; '.join(silent)}."
        )
    return tuple(found)
