"""Method against method: sentences for text, and a table of claims for the page. Needs no torch."""

from dataclasses import dataclass
from typing import final

from whence.report.evaluation_tables import interval
from whence.results.evaluation import ComparisonRecord, EvaluationRecord

__all__ = ["PairRow", "difference_rows", "pair_lines", "pair_rows"]


@final
@dataclass(frozen=True, kw_only=True)
class PairCell:
    """How often a method is claimed better and worse than another, and under which metrics."""

    better: tuple[str, ...]
    worse: tuple[str, ...]
    tested: int

    @property
    def says(self) -> str:
        """The metrics, for a tooltip."""
        parts = [f"better under {', '.join(self.better)}"] if self.better else []
        parts += [f"worse under {', '.join(self.worse)}"] if self.worse else []
        rest = self.tested - len(self.better) - len(self.worse)
        return "; ".join([*parts, f"no claim under {rest} of {self.tested}"])


@final
@dataclass(frozen=True, kw_only=True)
class PairRow:
    """A method against every other one; None against itself."""

    name: str
    cells: tuple[PairCell | None, ...]


def pair_lines(record: EvaluationRecord, network: str) -> list[str]:
    """Return one sentence for each metric: which method is better than which."""
    lines = []
    for metric in record.metrics:
        those = [
            one
            for one in record.comparisons
            if (one.network, one.metric) == (network, metric.name) and one.difference is not None
        ]
        if not those:
            continue
        beaten: dict[str, list[str]] = {}
        for one in those:
            if one.winner:
                beaten.setdefault(one.winner, []).append(loser(one))
        ranks = record.ranks(network, metric.name)
        parts = [
            f"{name} is better than {', '.join(sorted(beaten[name], key=lambda n: ranks[n]))}"
            for name in sorted(beaten, key=lambda n: ranks[n])
        ]
        silent = [one for one in those if not one.winner]
        if silent:
            reasons = {one.reason for one in silent}
            why = f" ({reasons.pop()})" if len(reasons) == 1 else ""
            parts.append(f"no claim for {len(silent)} of {counted_pairs(len(those))}{why}")
        lines.append(f"{metric.name}: {'; '.join(parts)}.")
    return lines


def counted_pairs(number: int) -> str:
    """Return a number of pairs in words."""
    return "1 pair" if number == 1 else f"{number} pairs"


def loser(one: ComparisonRecord) -> str:
    """Return the method that is claimed to be worse."""
    return one.second if one.winner == one.first else one.first


def pair_rows(record: EvaluationRecord, network: str) -> tuple[PairRow, ...]:
    """Return every method against every other one, over all metrics; nothing for a single one."""
    those = [
        one for one in record.comparisons if one.network == network and one.difference is not None
    ]
    names = [
        one.name
        for one in record.methods
        if any(one.name in (each.first, each.second) for each in those)
    ]
    found = {
        (first, second): [one for one in those if {one.first, one.second} == {first, second}]
        for first in names
        for second in names
        if first != second
    }
    return tuple(
        PairRow(
            name=name,
            cells=tuple(
                None
                if name == other
                else PairCell(
                    better=tuple(one.metric for one in found[name, other] if one.winner == name),
                    worse=tuple(one.metric for one in found[name, other] if one.winner == other),
                    tested=len(found[name, other]),
                )
                for other in names
            ),
        )
        for name in names
    )


def difference_rows(
    record: EvaluationRecord, network: str, metric: str
) -> tuple[tuple[str, ...], ...]:
    """Return every pair of methods under a metric: both, their difference, and what is claimed."""
    return tuple(
        (
            one.first,
            one.second,
            interval(one.difference),
            f"{one.winner} is better" if one.winner else "no claim",
            one.reason,
        )
        for one in record.comparisons
        if (one.network, one.metric) == (network, metric)
    )
