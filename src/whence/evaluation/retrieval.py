r"""Retrieval: are the training images that score highest the ones that must have mattered?

Scores are ``(n, q)``: a row per training image, a column per query. Each metric gives one number
per query, NaN where the query cannot say anything; :class:`~whence.evaluation.Mean` makes a mean
with its interval of them.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.core import Labels
from whence.errors import DataError, SettingError, ShapeError
from whence.evaluation.metric import MetricCard, membership
from whence.evaluation.ranking import average_precision, check_scores

__all__ = [
    "Cardinality",
    "IdenticalClass",
    "IdenticalSubclass",
    "MixedDataset",
    "ShortcutDetection",
    "TopCardinality",
]

QUANDA = "Bareeva et al. (2024), Quanda: An Interpretability Toolkit for TDA Evaluation"
HANAWA = "Hanawa et al. (2021), Evaluation of Similarity-based Explanations"


@final
@dataclass(frozen=True, kw_only=True)
class IdenticalClass:
    """The share of a query's highest training images that carry the query's class, or subclass.

    Give the query's predicted class where a prediction is explained. Under the name
    ``IdenticalSubclass`` it is given true subclasses, which the model was not trained on.

    Args:
        k: How many of the highest; images that tie for the last places share them.
    """

    k: int = 1

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="the class's share of the training images; of its group, for subclasses",
        reference=f"{HANAWA} (identical class test, identical subclass test)",
    )

    def __post_init__(self) -> None:
        """Check the number."""
        check_k(self.k)

    def __call__(
        self, scores: Tensor, labels: Int[Tensor, " n"], query_labels: Int[Tensor, " q"]
    ) -> Float[Tensor, " q"]:
        """Return one share per query.

        Raises:
            ShapeError: If there is not one label per training image and query.
        """
        return share_of_same(scores, labels, query_labels, self.k)


IdenticalSubclass = IdenticalClass
"""The same test with *subclasses* in the place of classes, for a model that was trained on groups
of classes and never saw which of them an image is of: scores that follow what it has learnt of
them still find their own kind."""


@final
@dataclass(frozen=True, kw_only=True)
class ShortcutDetection:
    """How well scores find the training images that taught a shortcut: average precision.

    Asked of the queries that took it: they carry the shortcut, are not of its class, and were
    predicted as it. NaN for all others.

    Args:
        shortcut_class: The class whose training images carry the shortcut.
    """

    shortcut_class: int

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="the share of training images that carry the shortcut",
        reference=f"{QUANDA} (shortcut detection)",
    )

    def __call__(
        self,
        scores: Tensor,
        carriers: Bool[Tensor, " n"],
        query_carries: Bool[Tensor, " q"],
        query_labels: Int[Tensor, " q"],
        predictions: Int[Tensor, " q"],
    ) -> Float[Tensor, " q"]:
        """Return one average precision per query.

        Args:
            scores: ``(n, q)``.
            carriers: Which training images carry the shortcut.
            query_carries: Which queries do.
            query_labels: The queries' true classes.
            predictions: Their predicted classes.

        Raises:
            DataError: If no training image carries it.
            ShapeError: If there is not one flag or class per training image and query.
        """
        asked = query_carries & (query_labels != self.shortcut_class)
        return precisions(scores, carriers, asked & (predictions == self.shortcut_class))


@final
@dataclass(frozen=True, kw_only=True)
class MixedDataset:
    """How well scores find training images that were smuggled in from another dataset.

    All of them were given one label, and queries from that dataset which are predicted as it must
    have got it from there. NaN for all other queries.

    Args:
        given_class: The class that the foreign training images were labelled with.
    """

    given_class: int

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="the share of foreign training images",
        reference=f"{QUANDA} (mixed datasets); Hammoudeh and Lowd (2022), Identifying a "
        f"Training-Set Attack's Target",
    )

    def __call__(
        self,
        scores: Tensor,
        foreign: Bool[Tensor, " n"],
        query_foreign: Bool[Tensor, " q"],
        predictions: Int[Tensor, " q"],
    ) -> Float[Tensor, " q"]:
        """Return one average precision per query.

        Args:
            scores: ``(n, q)``.
            foreign: Which training images come from the other dataset.
            query_foreign: Which queries do.
            predictions: The queries' predicted classes.

        Raises:
            DataError: If no training image is foreign.
            ShapeError: If there is not one flag or class per training image and query.
        """
        return precisions(scores, foreign, query_foreign & (predictions == self.given_class))


@final
@dataclass(frozen=True, kw_only=True)
class Cardinality:
    r"""How many different training images the queries' rankings show.

    Args:
        share: Different images over ``k`` times the number of queries.
        distinct: Different images.
        queries: Queries.
        k: Images shown for each.
    """

    share: float
    distinct: int
    queries: int
    k: int


@final
@dataclass(kw_only=True)
class TopCardinality:
    r"""Whether different queries get different training images: their number, without repeats.

    .. math:: \frac{|\bigcup_q \mathrm{top}_k(q)|}{k \, Q}

    Low where the same few images, outliers for example, head every ranking. At random it is
    :math:`\frac{n}{kQ} (1 - (1 - k / n)^Q)`. Of training images that tie, the first are taken.

    Args:
        k: Images of each ranking.
        seen: Numbers of the queries so far.
        shown: Places of the training images shown so far.
    """

    k: int = 1
    seen: frozenset[int] = frozenset()
    shown: frozenset[int] = field(default=frozenset(), repr=False)

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="n / (k Q) (1 - (1 - k / n)^Q) for n training images and Q queries",
        reference=f"{QUANDA} (top-k cardinality)",
    )

    def __post_init__(self) -> None:
        """Check the number."""
        check_k(self.k)

    def update(self, queries: Labels, scores: Tensor) -> None:
        """Take in the scores ``(n, q)`` of some queries, with the queries' numbers.

        Raises:
            DataError: If a query was taken in before.
            ShapeError: If there is not one number per query.
        """
        known = check_scores(scores)
        check_sizes(known, None, queries)
        new = frozenset(queries.tolist())
        if len(new) < len(queries) or new & self.seen:
            raise DataError(twice(new & self.seen))
        order = known.argsort(dim=0, descending=True, stable=True)
        self.shown |= frozenset(order[: self.k].flatten().tolist())
        self.seen |= new

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed.

        Raises:
            DataError: If the parts share a query.
            SettingError: If they differ in ``k``.
        """
        if self.k != other.k:
            msg = f"Parts of one cardinality need the same k; got {self.k} and {other.k}."
            raise SettingError(msg)
        if self.seen & other.seen:
            raise DataError(twice(self.seen & other.seen))
        return TopCardinality(k=self.k, seen=self.seen | other.seen, shown=self.shown | other.shown)

    def result(self) -> Cardinality:
        """Return the number and its share.

        Raises:
            DataError: If there is no query.
        """
        if not self.seen:
            msg = "A cardinality needs a query; none was taken in."
            raise DataError(msg)
        return Cardinality(
            share=len(self.shown) / (self.k * len(self.seen)),
            distinct=len(self.shown),
            queries=len(self.seen),
            k=self.k,
        )


def twice(shared: frozenset[int]) -> str:
    """Return what to say of a query that came twice."""
    which = min(shared) if shared else "of the batch"
    return f"Query {which} came twice, and would count twice. Give each query once."


def check_k(k: int) -> None:
    """Refuse less than one training image."""
    if k < 1:
        msg = f"k is the number of training images looked at, 1 or more; got {k}."
        raise SettingError(msg)


def check_sizes(scores: Float[Tensor, "n q"], rows: Tensor | None, columns: Tensor) -> None:
    """Refuse anything but one value per training image and one per query."""
    count, queries = scores.shape
    if (rows is not None and rows.shape != (count,)) or columns.shape != (queries,):
        got = "" if rows is None else f"{tuple(rows.shape)} for the training images and "
        msg = (
            f"Scores of shape {tuple(scores.shape)} need one value for each of {count} training "
            f"images and {queries} queries; got {got}{tuple(columns.shape)} for the queries."
        )
        raise ShapeError(msg)


def share_of_same(scores: Tensor, own: Tensor, query: Tensor, k: int) -> Float[Tensor, " q"]:
    """Return the share of each query's ``k`` highest training images whose class is its own."""
    known = check_scores(scores)
    check_sizes(known, own, query)
    most = min(k, len(known))
    columns = known.T.contiguous()
    chosen = membership(columns, columns.new_full((len(columns),), most))
    same = own[None].to(query.device) == query[:, None]
    return (chosen * same.to(chosen)).sum(dim=1) / most


def precisions(scores: Tensor, relevant: Tensor, asked: Tensor) -> Float[Tensor, " q"]:
    """Return the average precision of each query that is asked, NaN for the others."""
    known = check_scores(scores)
    check_sizes(known, relevant, asked)
    found = torch.full((known.shape[1],), torch.nan, dtype=known.dtype)
    for query in asked.nonzero().flatten().tolist():
        found[query] = average_precision(known[:, query], relevant)
    return found
