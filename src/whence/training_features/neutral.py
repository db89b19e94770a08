r"""Neutral queries: what a query has in common with an average image of a class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.core import ImageData, Margin
from whence.errors import DataError, SettingError
from whence.gradients import DirectBlock
from whence.influence import Influence, Member, QueryVectors
from whence.influence.query import residuals_of
from whence.training_features.influence_fn import InfluenceFn, Term, along
from whence.training_features.relevance import recorder_of

__all__ = ["Neutral", "neutral"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Neutral:
    """The mean direction of training gradients of each label, as the score transforms queries.

    Args:
        vectors: For each network of the score and each label, a vector like a query's, in full.
        counts: How many training images each label's mean is of.
    """

    vectors: tuple[Mapping[int, Mapping[str, Tensor]], ...]
    counts: Mapping[int, int]

    def beyond(self, f: InfluenceFn, label: int) -> InfluenceFn:
        r"""Return the influence on what of the query is not in an average image of the label.

        .. math:: u' = u - \frac{\langle u, n \rangle}{\langle n, n \rangle} \, n

        Raises:
            SettingError: If no image of this label was averaged.
        """
        if label not in self.counts:
            msg = (
                f"There is no neutral query for the label {label}; there are some for "
                f"{', '.join(map(str, sorted(self.counts)))}. Give neutral(..., labels=) all."
            )
            raise SettingError(msg)
        terms = [
            without(term, vectors[label])
            for term, vectors in zip(f.terms, self.vectors, strict=True)
        ]
        return replace(f, terms=tuple(terms))


def without(term: Term, neutral: Mapping[str, Tensor]) -> Term:
    """Return a term whose query has no part along a vector."""
    query = {name: value[0] for name, value in term.member.queries.dense().items()}
    size = sum(float((v * v).sum()) for v in neutral.values())
    shared = sum(float((query[n] * v).sum()) for n, v in neutral.items())
    factor = shared / size if size else 0.0
    blocks = {
        name: DirectBlock(
            values=(value - factor * neutral[name]).reshape(1, -1), shape=tuple(value.shape)
        )
        for name, value in query.items()
    }
    queries = QueryVectors(blocks=blocks, zero=term.member.queries.zero)
    member = replace(term.member, queries=queries)
    run = None if term.along is None else along(recorder_of(term), queries)
    return Term(member=member, along=run)


@torch.inference_mode(mode=False)
def neutral(
    influence: Influence,
    train: ImageData,
    *,
    labels: Sequence[int] | None = None,
    samples: int = 32,
    seed: int = 0,
    batch_size: int = 16,
) -> Neutral:
    """Return neutral queries for some labels; one step per training image that is averaged.

    Args:
        influence: Scores that were computed; the neutral queries serve all of its queries.
        train: The training data.
        labels: Labels of the training images whose maps are wanted; all by default.
        samples: Training images per label, drawn at random.
        seed: Seed of the draw.
        batch_size: Training images at a time.

    Raises:
        DataError: If a label has no training image.
        SettingError: If there are fewer than one sample.
    """
    if samples < 1:
        msg = f"samples must be at least 1; got {samples}."
        raise SettingError(msg)
    wanted = sorted(set(influence.labels.tolist() if labels is None else labels))
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[int, list[int]] = {}
    for label in wanted:
        places = influence.indices[influence.labels == label]
        if not len(places):
            msg = f"No training image has the label {label}, so that it has no neutral query."
            raise DataError(msg)
        order = torch.randperm(len(places), generator=generator)[:samples]
        chosen[label] = places[order].tolist()
    return Neutral(
        vectors=tuple(
            {k: mean_of(m, train, places, batch_size) for k, places in chosen.items()}
            for m in influence.members
        ),
        counts={k: len(places) for k, places in chosen.items()},
    )


def mean_of(
    member: Member, train: ImageData, places: Sequence[int], batch_size: int
) -> dict[str, Tensor]:
    """Return the mean unit gradient of some training images, as the score transforms queries."""
    device = member.recorder.network.example.device
    total: dict[str, Tensor] = {}
    for batch in train.batches(batch_size, places):
        target = Margin(batch.labels.to(device))
        recorded = member.recorder.record(batch.images.to(device), target)
        norms = recorded.norm()
        unit = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
        residuals = torch.ones_like(residuals_of(recorded.logits, target))
        blocks = {name: block.scaled(unit) for name, block in recorded.settled(1).items()}
        mapped = member.scoring.vectors(blocks, torch.ones_like(norms), residuals)
        for name, block in mapped.items():
            part = block.materialise().sum(dim=0).reshape(block.shape) / len(places)
            total[name] = total[name] + part if name in total else part
    return total
