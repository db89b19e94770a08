"""Influence: exact scores of all training images for some queries, in one pass over the data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, final

import torch
from torch import Tensor

from whence.core import ImageData, Images, Progress, Target, check_images, silent
from whence.display import card, facts, table
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.influence.batches import images_per_batch
from whence.influence.checkpoints import Checkpoint
from whence.influence.execution import Execution, Route, Way, plan
from whence.influence.members import Member, fitted
from whence.influence.passes import Facts, one_pass
from whence.influence.query import QueryVectors, joined, query_vectors
from whence.influence.scorers import GradCos
from whence.influence.scoring import Records, Scorer
from whence.influence.select import choose_parameters
from whence.network import Network

__all__ = ["Influence", "Ranking", "influence"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The training images that matter most for each query.

    Args:
        indices: Places in the training set, ``(q, k)``, strongest first.
        scores: Their scores, ``(q, k)``.
    """

    indices: Tensor
    scores: Tensor

    def _repr_html_(self) -> str:
        """Show the ranking in a notebook: a row for each query, strongest first."""
        rows = [
            (query, *(f"{place}: {score:+.3g}" for place, score in zip(*row, strict=True)))
            for query, row in enumerate(
                zip(self.indices.tolist(), self.scores.tolist(), strict=True)
            )
        ]
        head = ("query", *(str(rank + 1) for rank in range(self.indices.shape[1])))
        return card("Ranking", table(head, rows, title="training image: score, by rank"))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Influence:
    """Scores of training images for queries, and what the pass learnt on its way.

    With several checkpoints, predictions, residuals and norms are those of the last one.

    Args:
        scores: ``(n, q)``; positive for proponents.
        indices: Places in the training set, ``(n,)``; unusable images are not among them.
        labels: Labels of the training images, ``(n,)``.
        predictions: Predicted classes of the training images, ``(n,)``.
        confidences: Probabilities of the predicted classes, ``(n,)``.
        residuals: ``1 - p`` of the labels, ``(n,)``.
        squared_norms: Squared Euclidean norms of the margins' gradients, ``(n,)``; NaN if they
            were neither asked for nor met on the way.
        weights: The weights ``w`` of training images for each member, ``(n, m)``.
        parameters: Names of the parameters compared.
        coverage: Their share of all of the model's parameters.
        members: The networks of the score, each with its scoring and its queries.
        scorer: How gradients became scores.
        passes: Passes over the training data, beside those that the scorer's fitting made.
        routes: For each member how the products were made, and what other ways would cost.
    """

    scores: Tensor
    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor
    residuals: Tensor
    squared_norms: Tensor
    weights: Tensor
    parameters: tuple[str, ...]
    coverage: float
    members: tuple[Member, ...]
    scorer: Scorer
    passes: int
    routes: tuple[Route, ...]

    @property
    def route(self) -> Route:
        """How the last member's products were made."""
        return self.routes[-1]

    @property
    def recorder(self) -> Records:
        """What recorded the gradients of the last member."""
        return self.members[-1].recorder

    @property
    def queries(self) -> QueryVectors:
        """The query vectors of the last member."""
        return self.members[-1].queries

    @property
    def zero_queries(self) -> Tensor:
        """Which queries have no gradient at all, ``(q,)``; all their scores are 0."""
        return torch.stack([m.queries.zero for m in self.members]).all(dim=0).cpu()

    @property
    def self_influence(self) -> Tensor:
        """Squared norm of each training image's loss gradient, ``(n,)``.

        High for images that the model fits only with effort: mislabelled and odd ones.

        Raises:
            SettingError: If norms were left out.
        """
        return self.residuals.square() * self.known_norms()

    @property
    def zero_gradients(self) -> int:
        """How many training images have no gradient at all."""
        return int((self.known_norms() == 0).sum())

    def known_norms(self) -> Tensor:
        """Return the squared norms, if there are any."""
        if self.squared_norms.isnan().any():
            msg = (
                "These scores were computed without norms of gradients (norms=False, in forward "
                "mode). Ask influence() for them with norms=True, or call self_influence()."
            )
            raise SettingError(msg)
        return self.squared_norms

    def combined(self, coefficients: Tensor) -> "Influence":
        """Return the scores for linear combinations of the queries, and for their maps.

        An average of queries asks where several predictions come from; a difference, what speaks
        for the one *rather than* for the other. Costs no pass.

        Args:
            coefficients: ``(q,)`` for one combination, or ``(p, q)`` for several.

        Raises:
            SettingError: If there is not one coefficient per query.
        """
        count = self.scores.shape[1]
        if coefficients.ndim not in (1, 2) or coefficients.shape[-1] != count:
            msg = (
                f"Combining {count} queries needs {count} coefficients, (q,) or (p, q); got shape "
                f"{tuple(coefficients.shape)}."
            )
            raise SettingError(msg)
        rows = coefficients.reshape(-1, count).to(self.scores)
        return replace(
            self,
            scores=self.scores @ rows.T,
            members=tuple(m.combined(rows) for m in self.members),
        )

    def _repr_html_(self) -> str:
        """Show the scores in a notebook: the strongest images for and against each query."""
        count, queries = self.scores.shape
        told = {
            "training images": count,
            "queries": queries,
            "scorer": self.scorer,
            "parameters": f"{self.coverage:.0%}",
            "passes": self.passes,
        }
        sides = (("for", self.proponents(3)), ("against", self.opponents(3)))
        rows = [
            (query, side, *(f"{place}: {score:+.3g}" for place, score in zip(*found, strict=True)))
            for query in range(queries)
            for side, ranking in sides
            for found in [(ranking.indices[query].tolist(), ranking.scores[query].tolist())]
        ]
        head = ("query", "speaks", *(str(rank + 1) for rank in range(min(3, count))))
        return card(
            "Influence", facts(told), table(head, rows, title="training image: score, by rank")
        )

    def proponents(self, k: int) -> Ranking:
        """Return the ``k`` training images with the highest scores for each query.

        They speak for it as far as their scores are above 0.
        """
        return self.top(k, largest=True)

    def opponents(self, k: int) -> Ranking:
        """Return the ``k`` training images with the lowest scores for each query.

        They speak against it as far as their scores are below 0.
        """
        return self.top(k, largest=False)

    def top(self, k: int, *, largest: bool) -> Ranking:
        """Return the highest or lowest scores of each query, with their places."""
        if k < 1:
            msg = f"At least one training image must be asked for; got k={k}."
            raise SettingError(msg)
        found = self.scores.T.topk(min(k, len(self.scores)), dim=1, largest=largest)
        return Ranking(indices=self.indices[found.indices], scores=found.values)


@torch.inference_mode(mode=False)
def influence(  # noqa: PLR0913 - keywords, each with a default
    network: Network,
    train: ImageData,
    images: Images,
    target: Target,
    *,
    scorer: Scorer | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    parameters: str | Sequence[str] = "all",
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    norms: bool = True,
    way: Way | None = None,
    tolerance: float | None = None,
    progress: Progress = silent,
) -> Influence:
    """Return the exact scores of all training images for some queries.

    The cost per training image is about one forward pass and two backward passes for each
    checkpoint, however many queries there are, as long as their vectors fit into ``memory``; else
    several passes are made. Scorers that must be fitted make their own passes before.

    Args:
        network: The network.
        train: Training images with labels.
        images: Queries, ``(q, c, h, w)``.
        target: What is asked about each query; ``Margin(predicted classes)`` for "where does
            this prediction come from?", ``Margin(true classes)`` for "what spoke against it?".
        scorer: How gradients become scores; :class:`GradCos` by default.
        checkpoints: Weights over which scores are added up, in the order of training; the
            network's own by default.
        parameters: Over which parameters; see :func:`choose_parameters`.
        batch_size: Training images at a time; chosen by memory if not given.
        memory: Bytes for the query vectors, and as many again for the batch.
        norms: Whether norms of training gradients are wanted where the score needs none, for
            ``self_influence`` and ``zero_gradients``. Without them one query may go in forward
            mode.
        way: How products are made; the cheapest way by default, see :func:`plan`. The result's
            ``route`` says which it was.
        tolerance: Shorten queries to a low rank where that is cheaper, with at most this
            relative error; None keeps them exact.
        progress: Told how many training images are done.

    Raises:
        DataError: If there are no usable training images, or one has no label.
        MismatchError: If a checkpoint does not fit the network.
        TargetError: If a label is not one of the model's classes.
        NumericsError: If a gradient is NaN or infinite.
    """
    check_images(images)
    names = choose_parameters(network, parameters)
    scorer = scorer or GradCos()
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1; got {batch_size}."
        raise SettingError(msg)
    made = fitted(
        network,
        train,
        scorer,
        names,
        checkpoints=checkpoints,
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
    size = batch_size or min(images_at_once(m.recorder, memory) for m in made)
    at_once = queries_at_once(network, names, memory // len(made))
    columns, members, facts = [], [], None
    work: tuple[Execution, ...] = ()
    starts = range(0, len(images), at_once)
    for number, start in enumerate(starts):
        rows = torch.arange(start, min(start + at_once, len(images)))
        asked = (images[rows.to(images.device)], target.at(rows))
        some = tuple(
            Member(scoring=m.scoring, factor=m.factor, queries=query_vectors(m.scoring, *asked))
            for m in made
        )
        pass_name = "influence" if len(starts) == 1 else f"influence {number + 1}/{len(starts)}"
        work = tuple(
            plan(
                m.recorder,
                m.queries.blocks,
                norms=norms or m.scoring.normalised,
                way=way,
                tolerance=tolerance,
            )
            for m in some
        )
        facts = one_pass(train, some, work, size, progress, pass_name)
        columns.append(facts.scores)
        members.append(some)
    facts = cast("Facts", facts)
    compared = made[-1].recorder.names
    return Influence(
        scores=torch.cat(columns, dim=1),
        indices=facts.indices,
        labels=facts.labels,
        predictions=facts.predictions,
        confidences=facts.confidences,
        residuals=facts.residuals,
        squared_norms=facts.squared_norms,
        weights=facts.weights,
        parameters=tuple(compared),
        coverage=coverage(network, compared),
        members=tuple(
            replace(parts[0], queries=joined([p.queries for p in parts]))
            for parts in zip(*members, strict=True)
        ),
        scorer=scorer,
        passes=len(starts),
        routes=tuple(execution.route for execution in work),
    )


def coverage(network: Network, names: Sequence[str]) -> float:
    """Return the share of all parameters that the named ones are; 0 for features."""
    sizes = {name: value.numel() for name, value in network.parameters.items()}
    return sum(sizes.get(name, 0) for name in names) / sum(sizes.values())


def images_at_once(recorder: Records, memory: int) -> int:
    """Return how many training images fit into memory with all that is recorded of them."""
    return images_per_batch(recorder, memory) if isinstance(recorder, Recorder) else 64


def queries_at_once(network: Network, names: Sequence[str], memory: int) -> int:
    """Return how many query vectors fit into memory."""
    per_query = sum(
        network.parameters[n].numel() * network.parameters[n].element_size() for n in names
    )
    return max(1, memory // max(per_query, 1))
