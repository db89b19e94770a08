r"""Training again, a little or a lot: what attributed images do to the queries.

A *tail patch* takes one more training step on a retrieved image and looks whether the query's
class becomes likelier. *Brittleness* takes the highest images away, trains again, and looks
whether the prediction falls; random images, taken away in the same number, are its control.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from whence.core import Images, Labels, Logits, Margin, Scalars
from whence.errors import DataError, SettingError, ShapeError
from whence.evaluation.mean import Estimate, Mean
from whence.evaluation.metric import MetricCard
from whence.evaluation.ranking import check_scores
from whence.evaluation.retrieval import check_k, check_sizes

__all__ = ["Brittleness", "BrittlenessResult", "TailPatch"]


@final
@dataclass(frozen=True, kw_only=True)
class TailPatch:
    r"""The rise of a query's log-probability by one training step on a retrieved image.

    .. math:: \frac{1}{k} \sum_{i \in \mathrm{top}_k(q)}
              \log p_q(\theta - \eta \nabla \ell_i(\theta)) - \log p_q(\theta)

    Each of the ``k`` highest images is tried alone, by one step of plain gradient descent from
    the final weights. For a small :math:`\eta` this is :math:`\eta \langle \nabla \ell_i, \nabla
    \ell_q \rangle` of the retrieved images, so that Grad-Dot is the best of all rankings by
    construction, up to curvature; its use is to compare scores that are not made for it.

    Args:
        k: Retrieved images per query; of images that tie, the first are taken.
        rate: The learning rate :math:`\eta`; take the one of the last epoch.
    """

    k: int = 1
    rate: float = 1e-2

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-torch.inf,
        high=torch.inf,
        chance="the same metric of random scores",
        reference="Chang et al. (2024), Scalable Influence and Fact Tracing (tail patches)",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_k(self.k)
        if not self.rate > 0:
            msg = f"rate is a learning rate above 0; got {self.rate}."
            raise SettingError(msg)

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Tensor,
        queries: Float[Tensor, "q c h w"],
        query_labels: Tensor,
        scores: Tensor,
    ) -> Float[Tensor, " q"]:
        """Return one rise per query; costs a step and a forward pass per distinct image.

        Args:
            model: The trained model, in eval mode. It is not changed.
            images: Training images, ``(n, c, h, w)``.
            labels: Their labels.
            queries: Query images.
            query_labels: The classes whose probability counts.
            scores: ``(n, q)``.

        Raises:
            ShapeError: If scores, images and queries do not fit each other.
        """
        known = check_scores(scores)
        check_sizes(known, labels, query_labels)
        if len(images) != len(labels) or len(queries) != len(query_labels):
            msg = f"{len(labels)} labels for {len(images)} images; give one for each."
            raise ShapeError(msg)
        top = known.argsort(dim=0, descending=True, stable=True)[: self.k]
        weights = {name: value.detach() for name, value in model.named_parameters()}
        before = log_probabilities(model, weights, queries, query_labels)
        rises = torch.zeros_like(before)
        for image in sorted(set(top.flatten().tolist())):
            stepped = self.stepped(model, weights, images[image : image + 1], labels[image])
            asking = (top == image).any(dim=0).nonzero().flatten().to(queries.device)
            after = log_probabilities(model, stepped, queries[asking], query_labels[asking])
            rises[asking] += after - before[asking]
        return rises / len(top)

    def stepped(
        self, model: nn.Module, weights: dict[str, Tensor], image: Images, label: Tensor
    ) -> dict[str, Tensor]:
        """Return the weights after one step on an image."""
        with torch.enable_grad():
            leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
            logits = functional_call(model, leaves, (image,))
            loss = functional.cross_entropy(logits, label[None].to(logits.device))
            slopes = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return {
            name: value - self.rate * slope
            for (name, value), slope in zip(weights.items(), slopes, strict=True)
        }


@torch.no_grad()
def log_probabilities(
    model: nn.Module, weights: dict[str, Tensor], images: Images, labels: Labels
) -> Scalars:
    """Return the labels' log-probabilities under other weights, in double precision."""
    logits: Tensor = functional_call(model, weights, (images,))
    found = logits.double().log_softmax(dim=1)
    return found.gather(1, labels.to(found.device)[:, None])[:, 0]


@final
@dataclass(frozen=True, kw_only=True)
class BrittlenessResult:
    """What became of predictions without the training images that scored highest.

    Args:
        flips: Share of retrained models that predict another class, mean over queries.
        change: Change of the margin of the class that was predicted; negative if it lost.
        control_flips: The same without as many random images.
        control_change: As above.
        excess: How much further the margin falls than for random images, paired by query;
            positive if the scores know something.
    """

    flips: Estimate
    change: Estimate
    control_flips: Estimate
    control_change: Estimate
    excess: Estimate


@final
@dataclass(kw_only=True)
class Brittleness:
    """A statistic of predictions before and after training without the highest images.

    References:
        Ilyas et al. (2022), "Datamodels", section 4 (data counterfactuals); Koh and Liang (2017).
    """

    flips: Mean = field(default_factory=Mean, repr=False)
    change: Mean = field(default_factory=Mean, repr=False)
    control_flips: Mean = field(default_factory=Mean, repr=False)
    control_change: Mean = field(default_factory=Mean, repr=False)
    excess: Mean = field(default_factory=Mean, repr=False)

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="the flips after removal of as many random images, which are part of the result",
        reference="Ilyas et al. (2022), Datamodels (data counterfactuals, brittleness)",
    )

    def update(
        self,
        queries: Labels,
        before: Float[Tensor, "q k"],
        after: Float[Tensor, "r q k"],
        control: Float[Tensor, "s q k"],
    ) -> None:
        """Take in some queries.

        Args:
            queries: The queries' numbers.
            before: Logits of the model of all training images.
            after: Logits of models trained without the highest images, one or more seeds.
            control: Logits of models trained without as many random ones, one or more draws.

        Raises:
            DataError: If a query was taken in before, or there is no retrained model.
        """
        if not len(after) or not len(control):
            msg = (
                f"A retrained model is needed on both sides; got {len(after)} without the highest "
                f"images and {len(control)} without random ones."
            )
            raise DataError(msg)
        predicted = before.argmax(dim=1)
        start = Margin(predicted)(before.double())
        found = [outcome(part, predicted, start) for part in (after, control)]
        (flips, change), (control_flips, control_change) = found
        self.flips.update(queries, flips)
        self.change.update(queries, change)
        self.control_flips.update(queries, control_flips)
        self.control_change.update(queries, control_change)
        self.excess.update(queries, control_change - change)

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed.

        Raises:
            DataError: If the parts share a query.
        """
        return Brittleness(
            flips=self.flips.merge(other.flips),
            change=self.change.merge(other.change),
            control_flips=self.control_flips.merge(other.control_flips),
            control_change=self.control_change.merge(other.control_change),
            excess=self.excess.merge(other.excess),
        )

    def result(self) -> BrittlenessResult:
        """Return the means and their intervals over queries.

        Raises:
            DataError: If there is no query.
        """
        return BrittlenessResult(
            flips=self.flips.result(),
            change=self.change.result(),
            control_flips=self.control_flips.result(),
            control_change=self.control_change.result(),
            excess=self.excess.result(),
        )


def outcome(
    logits: Float[Tensor, "r q k"], predicted: Int[Tensor, " q"], start: Scalars
) -> tuple[Tensor, Tensor]:
    """Return each query's share of flipped predictions and mean change of its margin."""
    flips = torch.zeros_like(start)
    margins = torch.zeros_like(start)
    target: Margin = Margin(predicted)
    for rows in logits:
        own: Logits = rows.double()
        flips += (own.argmax(dim=1) != predicted).double()
        margins += target(own)
    return (flips / len(logits)).cpu(), (margins / len(logits) - start).cpu()
