r"""Contrastive relevance: what speaks for a class, less what speaks for the others as well."""

from dataclasses import dataclass, replace
from typing import Literal, final, get_args

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import check_batch_size
from whence.attribution.classes import Mixture, classes_of, logits_in_parts, of_a_class
from whence.attribution.gradient import observing, owned
from whence.attribution.graphs import graph_of
from whence.attribution.relevance import (
    LRP,
    AlphaBeta,
    Assignment,
    Composite,
    CompositeName,
    Weighed,
    ZBox,
)
from whence.attribution.relevance.layers import stable, unzero
from whence.core import Attributions, Images, Logits, ModelScalar, ScalarFn
from whence.errors import SettingError

__all__ = ["ContrastiveLRP", "Opposites"]

Dual = Literal["others", "negated", "softmax"]
"""What the relevance of a class is compared with."""


@final
@dataclass(frozen=True, kw_only=True)
class ContrastiveLRP:
    r"""Relevance of a class, less the relevance of its opposite.

    .. math:: a = \max\big(0,\; R(y_t) - \bar R\big)

    Ordinary relevance lies on much the same pixels for every class. What is taken off is relevance
    of a dual concept that starts with the same sum, so that what all classes share cancels:

    * ``others`` (CLRP1): every other class starts with :math:`|y_t| / (k - 1)`;
    * ``negated`` (CLRP2): the class itself, with the weights of the last layer negated: in that
      layer :math:`R` follows z+ and :math:`\bar R` what z+ would be for the negated weights;
    * ``softmax`` (SGLRP): relevance starts as the gradient of the softmax, with
      :math:`p_t (1 - p_t)` at the class and :math:`-p_t p_s` at another; as published, without
      the maximum.

    Rules are linear in the relevance, so the difference is propagated at once. A negative logit
    starts with its absolute value; otherwise the map would show what speaks against the class.
    Without the maximum the values add up to zero, but for what layers without positive input
    lose. In very deep networks z+ makes the relevance of all classes alike, so that little more
    than rounding is left of the difference, and a map may be zero; there take rules that keep
    signs, such as ``epsilon`` or ``gamma``. Cost: that of :class:`whence.attribution.LRP` with
    the same rules, and half a pass.

    Args:
        dual: ``others``, ``negated`` or ``softmax``.
        composite: Rules of the layers, by name or your own; if None, z+ everywhere and z-box in
            layers that read the images, as published.
        positive: Keep only what is positive; as published if None.
        attention: As in :class:`whence.attribution.LRP`.
        bias: ``"ignore"`` lets all relevance arrive, so that both parts stay comparable;
            ``"absorb"`` lets biases take their share of both.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: If what is explained is not the logit of a class of a network that was read.
        UnsupportedOperation: When relevance arrives at an operation without a rule.

    References:
        Gu, Yang and Tresp (2018), "Understanding Individual Decisions of CNNs via Contrastive
        Backpropagation", section 4; Iwana, Kuroki and Uchida (2019), "Explaining Convolutional
        Neural Networks using Softmax Gradient Layer-wise Relevance Propagation", section 3; Sixt,
        Granz and Landgraf (2020), "When Explanations Lie", on z+ in deep networks.
    """

    dual: Dual = "others"
    composite: CompositeName | Composite | None = None
    positive: bool | None = None
    attention: Literal["attnlrp", "cp-lrp"] = "attnlrp"
    bias: Literal["absorb", "ignore"] = "ignore"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        if self.dual not in get_args(Dual):
            msg = f"dual is one of {', '.join(get_args(Dual))}; got {self.dual!r}."
            raise SettingError(msg)
        self.propagation()

    def propagation(self) -> LRP:
        """Return the relevance propagation whose rules are followed."""
        plain = LRP(
            composite=PUBLISHED if self.composite is None else self.composite,
            attention=self.attention,
            bias=self.bias,
            batch_size=self.batch_size,
        )
        if self.dual != "negated":
            return plain
        rules = plain.chosen()
        last = Assignment(rule=Opposites(), height=(0, 0))
        return replace(plain, composite=replace(rules, assignments=(last, *rules.assignments)))

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the contrast, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the contrast with its cost."""
        graph_of(f, "ContrastiveLRP")
        f = of_a_class(f, "ContrastiveLRP")
        with observing():
            images = owned(images)
            logits = logits_in_parts(f, images, self.batch_size)
            explained = f.target(logits)
            starts = start_of_relevance(self.dual, logits, classes_of(f, logits))
            weights = Mixture(starts / unzero(logits))
        inner = self.propagation().account(ModelScalar(f.model, weights), images)
        positive = self.dual != "softmax" if self.positive is None else self.positive
        return Account(
            values=inner.values.clamp(min=0) if positive else inner.values,
            passes=inner.passes + FORWARD,
            explained=explained,
        )


def start_of_relevance(dual: Dual, logits: Logits, classes: Tensor) -> Tensor:
    """Return the relevance of each class that is handed down, ``(b, k)``."""
    count = logits.shape[1]
    if count < 2:  # noqa: PLR2004 - a class and another
        msg = (
            f"ContrastiveLRP needs at least two classes; the model's output has shape "
            f"{tuple(logits.shape)}."
        )
        raise SettingError(msg)
    own = functional.one_hot(classes, count).bool()
    if dual == "softmax":
        logarithms = logits.log_softmax(dim=1)
        both = logarithms + logarithms[own][:, None]
        rest = torch.where(own, -torch.inf, both)
        return torch.where(own, rest.exp().sum(dim=1, keepdim=True), -rest.exp())
    size = logits[own].abs()[:, None]
    elsewhere = 0.0 if dual == "negated" else -size / (count - 1)
    return torch.where(own, size, elsewhere)


@final
@dataclass(frozen=True, kw_only=True)
class Opposites:
    r"""The z+ rule of a layer, less the z+ rule of the same layer with negated weights.

    .. math:: R_{i \leftarrow j} = \Big(\frac{(x_i w_{ij})^+}{z_j^+}
              - \frac{(x_i w_{ij})^-}{z_j^-}\Big) R_j

    Hands down nothing in all: what speaks for the output as much as against it. Costs 2.5 passes
    of its layer.

    References:
        Gu, Yang and Tresp (2018), section 4.
    """

    @property
    def conserves(self) -> bool:
        """No: both parts have the same sum."""
        return False

    @property
    def passes(self) -> float:
        """It is one layer, usually the smallest; the others set the cost."""
        return 1.0

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input, and what the biases took."""
        rises, falls = at.weight.clamp(min=0), at.weight.clamp(max=0)
        high = None if at.bias is None else at.bias.clamp(min=0)
        low = None if at.bias is None else at.bias.clamp(max=0)
        more, took = share(at, rises, falls, high)
        less, lost = share(at, falls, rises, low)
        return more - less, None if took is None or lost is None else took - lost


def share(
    at: Weighed, direct: Tensor, crossed: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Share relevance by ``x+ direct + x- crossed``; return multipliers and the bias's part."""
    above, below = at.inputs.clamp(min=0), at.inputs.clamp(max=0)
    total = at.layer(above, direct) + at.layer(below, crossed)
    total = total if bias is None else total + bias
    per_unit = at.relevance / stable(total, STABLE)
    multiplier = torch.where(
        at.inputs < 0,
        at.layer.transposed(per_unit, crossed),
        at.layer.transposed(per_unit, direct),
    )
    return multiplier, None if bias is None else per_unit * bias


STABLE = 1e-6
"""What keeps a denominator from zero."""

PUBLISHED = Composite(assignments=(Assignment(rule=ZBox(), depth=(0, 0)),), otherwise=AlphaBeta())
"""The rules of the papers: z-box in layers that read the images, z+ in all others."""
