"""Ranking: where the true map, the methods and the controls stand by a metric."""

from dataclasses import dataclass
from statistics import mean

import torch

from whence.evaluation.bootstrap import Bootstrap
from whence.results.evaluation import EvaluationRecord, ScoreRecord

__all__ = ["RANDOM", "Standing", "beaten", "order", "picked", "standing"]

RANDOM = "random-map"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a metric says where the truth is known.

    Args:
        ranks: Place of each true map among itself and the methods; ties share the better place.
        truth: The true map that the metric likes best, beside which all others are held.
        judged: Methods that the metric gives a value.
        above: Methods that are above this true map, by the interval of the paired difference.
        lucky: Controls that are above it, by the same.
        winners: Methods that are above the random map, by the same.
        losers: Methods that are below the random map, by the same.
        control: The control with the best mean, the random map left out.
        outdone: Methods below that control, by the same.
    """

    ranks: dict[str, int]
    truth: str
    judged: int
    above: tuple[str, ...]
    lucky: tuple[str, ...]
    winners: tuple[str, ...]
    losers: tuple[str, ...]
    control: str
    outdone: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether a control, or one method in four, is above the truth."""
        return bool(self.lucky) or len(self.above) > self.judged / 4


def order(record: EvaluationRecord, network: str, metric: str) -> list[tuple[str, float]]:
    """Return what a metric gives a value, with its mean, the best first."""
    found = [
        (one.method, one.estimate.mean)
        for one in record.scores
        if (one.network, one.metric) == (network, metric) and one.estimate is not None
    ]
    up = direction(record, metric) == "higher"
    return sorted(found, key=lambda each: (-each[1] if up else each[1], each[0]))


def direction(record: EvaluationRecord, metric: str) -> str:
    """Return which direction of a metric is better."""
    return next(one.better for one in record.metrics if one.name == metric)


def beaten(record: EvaluationRecord, one: ScoreRecord, other: ScoreRecord) -> bool:
    """Return whether the first is above the second, by the interval of the paired difference."""
    values, others = (torch.from_numpy(each.values) for each in (one, other))
    better = direction(record, one.metric)
    if better not in ("higher", "lower"):
        return False
    up = better == "higher"
    found = Bootstrap().compare(values, others, "higher" if up else "lower")
    return found.verdict == "better"


def standing(
    record: EvaluationRecord,
    network: str,
    metric: str,
    truths: tuple[str, ...],
    apart: tuple[str, ...] = (),
) -> Standing | None:
    """Return where everything stands by a metric; None if it says nothing of the true maps.

    Args:
        record: What was found.
        network: One of its networks.
        metric: One of its metrics.
        truths: The true maps.
        apart: Controls that are none on these images, and are left out.
    """
    placed = [each for each in order(record, network, metric) if each[0] not in apart]
    means = dict(placed)
    known = [name for name, _ in placed if name in truths]
    if not known or direction(record, metric) not in ("higher", "lower"):
        return None
    kinds = {one.name: one.kind for one in record.methods}
    methods = [name for name in means if kinds[name] == "method"]
    controls = [name for name in means if kinds[name] == "control"]
    fixed = [name for name in controls if name != RANDOM]
    scores = {name: record.score(network, metric, name) for name in means}
    sign = 1 if direction(record, metric) == "higher" else -1

    def over(names: list[str], one: str) -> tuple[str, ...]:
        return tuple(name for name in names if beaten(record, scores[name], scores[one]))

    def under(names: list[str], one: str) -> tuple[str, ...]:
        return tuple(name for name in names if beaten(record, scores[one], scores[name]))

    return Standing(
        ranks={
            truth: 1 + sum(sign * means[name] > sign * means[truth] for name in methods)
            for truth in known
        },
        truth=known[0],
        judged=len(methods),
        above=over(methods, known[0]),
        lucky=over(controls, known[0]),
        winners=over(methods, RANDOM) if RANDOM in means else (),
        losers=under(methods, RANDOM) if RANDOM in means else (),
        control=fixed[0] if fixed else "",
        outdone=under(methods, fixed[0]) if fixed else (),
    )


def picked(
    sides: list[tuple[EvaluationRecord, str]], metrics: tuple[str, ...]
) -> list[tuple[str, float]]:
    """Return the methods by their mean place over networks and metrics, the best first.

    A place is counted among the methods that apply to the network, from 0, the best, to 1. Only
    methods that apply to every network given are placed.

    Args:
        sides: Records, each with one of its networks.
        metrics: The metrics to go by.
    """
    places: dict[str, list[float]] = {}
    for record, network in sides:
        kinds = {one.name: one.kind for one in record.methods}
        for metric in metrics:
            methods = [
                each for each in order(record, network, metric) if kinds[each[0]] == "method"
            ]
            for name, value in methods:
                ties = [k for k, each in enumerate(methods) if each[1] == value]
                places.setdefault(name, []).append(mean(ties) / max(len(methods) - 1, 1))
    full = len(sides) * len(metrics)
    found = [(name, mean(each)) for name, each in places.items() if len(each) == full]
    return sorted(found, key=lambda each: (each[1], each[0]))
