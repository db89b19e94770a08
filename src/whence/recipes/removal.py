r"""Removal: what becomes of predictions when the training images that scored highest are gone.

Scores say what training images did. Taking them away and training again is the test of it, and
needs nothing but a function that trains: these recipes ask it for the logits of the queries after
training on some of the images, for several such subsets at once, so that who can may train them
together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whence.core import Images, Margin, Progress, silent
from whence.errors import DataError, SettingError, ShapeError
from whence.influence import Influence

__all__ = [
    "GroupInfluence",
    "RemovalCurve",
    "Retrain",
    "group_influence",
    "removal_curve",
    "retrain_each",
]


@runtime_checkable
class Retrain(Protocol):
    """Trains on subsets of the training images, and says what becomes of the queries."""

    def __call__(self, keep: Bool[Tensor, "m n"]) -> Float[Tensor, "m q k"]:
        """Return the logits of the ``q`` queries after training on each of ``m`` subsets.

        Args:
            keep: Which training images each subset keeps, by their places in the training set.
        """
        ...


def retrain_each(trained: Callable[[Tensor], nn.Module], images: Images) -> Retrain:
    """Return a :class:`Retrain` of a function that trains one model.

    Args:
        trained: Takes the places of the training images to train on, ``(n',)``, and returns a
            trained model. Fix its seed, or average over several runs.
        images: The query images, ``(q, c, h, w)``.
    """

    def retrain(keep: Bool[Tensor, "m n"]) -> Float[Tensor, "m q k"]:
        found = []
        for row in keep:
            model = trained(row.nonzero().flatten())
            with torch.no_grad():
                found.append(model(images).cpu())
        return torch.stack(found)

    return retrain


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class GroupInfluence:
    """What groups of training images did to queries, together.

    Args:
        names: Names of the groups.
        sizes: Training images of each, ``(g,)``.
        scores: Sums of the images' scores, ``(g, q)``.
        means: Mean scores per image, ``(g, q)``; NaN for an empty group.
        others: Mean scores of the training images outside each group, ``(g, q)``: what a group
            must exceed to be more than average.
    """

    names: tuple[str, ...]
    sizes: Tensor
    scores: Tensor
    means: Tensor
    others: Tensor

    def strongest(self, query: int) -> tuple[str, ...]:
        """Return the names of the groups, the highest mean score for a query first."""
        means = self.means[:, query].nan_to_num(-torch.inf)
        return tuple(self.names[i] for i in means.argsort(descending=True, stable=True).tolist())


def group_influence(
    influence: Influence,
    groups: Bool[Tensor, "g n"],
    names: Sequence[str] | None = None,
) -> GroupInfluence:
    r"""Return the influence of whole groups of training images: the sum of their scores.

    .. math:: S_{Gq} = \sum_{i \in G} S_{iq}

    To first order this is the effect of the group, for scores that are additive: influence
    functions, TRAK, Grad-Dot, TracIn. It leaves out how members of a group stand in for each
    other, so that the true effect of a large group is mostly greater; :func:`removal_curve`
    measures it. Sums of cosines are no effects of anything, but still rank groups.

    Args:
        influence: Scores of the training images for the queries.
        groups: Which training images belong to each group, by their places in the training set:
            a class, a source, all that carry a patch. Groups may overlap.
        names: Their names; ``"0"``, ``"1"``, ... by default.

    Raises:
        ShapeError: If a group does not have one value for every training image, or there is not
            one name per group.
    """
    places = influence.indices.long()
    if not len(places) or int(places.max()) >= groups.shape[1]:
        msg = (
            f"A group needs a value for every training image; got {groups.shape[1]} columns, and "
            f"scores of images up to number {int(places.max()) if len(places) else -1}."
        )
        raise ShapeError(msg)
    named = tuple(str(i) for i in range(len(groups))) if names is None else tuple(names)
    if len(named) != len(groups):
        msg = f"{len(groups)} groups need {len(groups)} names; got {len(named)}."
        raise ShapeError(msg)
    scores = influence.scores.double()
    inside = groups.to(places.device)[:, places].double()
    sizes = inside.sum(dim=1)
    sums = inside @ scores
    outside = scores.sum(dim=0) - sums
    return GroupInfluence(
        names=named,
        sizes=sizes.long(),
        scores=sums,
        means=sums / sizes[:, None],
        others=outside / (len(places) - sizes)[:, None],
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RemovalCurve:
    """What became of queries after training without their highest images.

    Args:
        counts: How many training images were removed at each point.
        before: Margins with all training images, ``(q,)``.
        change: Change of the margin, ``(p, q)``: negative if the removed images spoke for it.
        flips: Whether the prediction is another one, ``(p, q)``, 0 or 1.
        control_change: The same for as many random images, mean over draws, ``(p, q)``.
        control_flips: As above, the share of draws.
        before_right: Whether the truth was predicted with all images, ``(q,)``; None if no truth
            was given.
        right: Whether it is predicted, ``(p, q)``, 0 or 1.
        control_right: As above, the share of draws.
    """

    counts: tuple[int, ...]
    before: Tensor
    change: Tensor
    flips: Tensor
    control_change: Tensor
    control_flips: Tensor
    before_right: Tensor | None = None
    right: Tensor | None = None
    control_right: Tensor | None = None

    @property
    def excess(self) -> Tensor:
        """How much further the margin falls than for random images, ``(p, q)``."""
        return self.control_change - self.change

    @property
    def area(self) -> Tensor:
        """The mean excess over the points, ``(q,)``: one number for the curve of each query."""
        return self.excess.mean(dim=0)


def removal_curve(  # noqa: PLR0913 - keywords, each with a default
    influence: Influence,
    retrain: Retrain,
    labels: Int[Tensor, " q"],
    *,
    counts: Sequence[int],
    truth: Int[Tensor, " q"] | None = None,
    together: bool = False,
    draws: int = 3,
    seed: int = 0,
    at_once: int = 64,
    progress: Progress = silent,
) -> RemovalCurve:
    """Remove the training images that score highest, train again, and look at the queries.

    Random images, removed in the same numbers, are the control: training on fewer images changes
    predictions anyhow. Its cost is ``1 + len(counts) * (q + draws)`` trainings, or
    ``1 + len(counts) * (1 + draws)`` if all queries are asked about together.

    Args:
        influence: Scores of all training images for the queries.
        retrain: Trains on subsets; see :func:`retrain_each`. The subsets are by place in the
            training set, ``n`` being the number of scored images, so all must be usable.
        labels: The classes of the queries whose margins are looked at, ``(q,)``.
        counts: How many images to remove, ascending.
        truth: The true classes of the queries, to see which predictions become right; -1 where
            there is none.
        together: Remove the images with the highest mean score over all queries, one ranking for
            all of them, instead of each query's own.
        draws: Random subsets for each count.
        seed: Seed of these.
        at_once: Subsets given to ``retrain`` at a time.
        progress: Told how many trainings are done.

    Raises:
        DataError: If images are missing from the scores, or as many are to be removed as exist.
        SettingError: If the counts do not ascend from 1, or a number is less than 1.
        ShapeError: If ``retrain`` returns something else than logits for each subset and query.
    """
    total, queries = influence.scores.shape
    check_counts(counts, total)
    check_numbers(draws, at_once)
    if not torch.equal(influence.indices.sort().values, torch.arange(total)):
        msg = (
            f"Subsets are told by place, so every one of the training images must have a score; "
            f"got {total} scores for places up to {int(influence.indices.max())}."
        )
        raise DataError(msg)
    if labels.shape != (queries,):
        msg = f"{queries} queries need {queries} labels; got shape {tuple(labels.shape)}."
        raise ShapeError(msg)
    scores = torch.empty_like(influence.scores)
    scores[influence.indices] = influence.scores
    ranked = scores.mean(dim=1, keepdim=True) if together else scores
    order = ranked.argsort(dim=0, descending=True, stable=True)
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.stack([torch.randperm(total, generator=generator) for _ in range(draws)], dim=1)
    orders = torch.cat([order.cpu(), mixed], dim=1)
    subsets = [torch.ones(total, dtype=torch.bool)]
    for count in counts:
        for column in range(orders.shape[1]):
            keep = torch.ones(total, dtype=torch.bool)
            keep[orders[:count, column]] = False
            subsets.append(keep)
    logits = trained_on(torch.stack(subsets), retrain, queries, at_once, progress)
    return curve_of(logits, labels.cpu(), tuple(counts), order.shape[1], truth)


def curve_of(
    logits: Tensor,
    labels: Tensor,
    counts: tuple[int, ...],
    columns: int,
    truth: Tensor | None = None,
) -> RemovalCurve:
    """Return the curve of the logits of all subsets: with all images, then count by count."""
    subsets, queries, _ = logits.shape
    margins = torch.stack([Margin(labels)(row) for row in logits])
    predictions = logits.argmax(dim=2)
    shape = (len(counts), (subsets - 1) // len(counts), queries)
    change = (margins[1:] - margins[0]).reshape(shape)
    flips = (predictions[1:] != predictions[0]).double().reshape(shape)
    right = None if truth is None else (predictions == truth.cpu()).double()
    later = None if right is None else right[1:].reshape(shape)

    def own(values: Tensor) -> Tensor:
        if columns == 1:
            return values[:, 0]
        return values[:, :columns].diagonal(dim1=1, dim2=2)

    return RemovalCurve(
        counts=counts,
        before=margins[0],
        change=own(change),
        flips=own(flips),
        control_change=change[:, columns:].mean(dim=1),
        control_flips=flips[:, columns:].mean(dim=1),
        before_right=None if right is None else right[0],
        right=None if later is None else own(later),
        control_right=None if later is None else later[:, columns:].mean(dim=1),
    )


def trained_on(
    keep: Tensor, retrain: Retrain, queries: int, at_once: int, progress: Progress
) -> Tensor:
    """Return the logits after training on each subset, in double precision."""
    parts = []
    progress("retraining", 0, len(keep))
    for start in range(0, len(keep), at_once):
        some = keep[start : start + at_once]
        found = retrain(some)
        if found.ndim != 3 or found.shape[:2] != (len(some), queries):  # noqa: PLR2004 - m q k
            msg = (
                f"retrain() must return logits of shape ({len(some)}, {queries}, classes): one "
                f"row per subset and query; it returned {tuple(found.shape)}."
            )
            raise ShapeError(msg)
        parts.append(found.detach().double().cpu())
        progress("retraining", start + len(some), len(keep))
    return torch.cat(parts)


def check_counts(counts: Sequence[int], total: int) -> None:
    """Refuse counts that do not ascend from 1, or leave nothing."""
    if not counts or list(counts) != sorted(set(counts)) or counts[0] < 1:
        msg = f"counts are numbers of images to remove, ascending from 1; got {list(counts)}."
        raise SettingError(msg)
    if counts[-1] >= total:
        msg = f"Of {total} training images {counts[-1]} cannot be removed: none would be left."
        raise DataError(msg)


def check_numbers(draws: int, at_once: int) -> None:
    """Refuse less than one draw, or one subset at a time."""
    for name, value in (("draws", draws), ("at_once", at_once)):
        if value < 1:
            msg = f"{name} must be at least 1; got {value}."
            raise SettingError(msg)
