r"""LRP as a method: relevance from the explained value down to the pixels."""

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from whence.attribution.account import Account, Loss
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.gradient import check_values, owned, recording
from whence.attribution.graphs import graph_of, remade
from whence.attribution.relevance.assembly import layer_rules, under_composite
from whence.attribution.relevance.composites import (
    Bounds,
    Composite,
    CompositeName,
    composite_named,
)
from whence.attribution.relevance.first import ZBox
from whence.attribution.relevance.layers import LEDGER, LayerRule, Ledger, unzero
from whence.attribution.relevance.trace import not_finite, traced
from whence.core import (
    Attributions,
    Images,
    ModelScalar,
    Normalisation,
    ScalarFn,
    Target,
    check_logits,
)
from whence.errors import SettingError
from whence.network import Network

__all__ = ["LRP"]


@final
@dataclass(frozen=True, kw_only=True)
class LRP:
    r"""Layer-wise relevance propagation: the explained value, handed down layer by layer.

    .. math:: R_i = \sum_j R_{i \leftarrow j}, \qquad
              R_k = y_k \, \partial f / \partial y_k \text{ at the logits } y

    What convolutions and linear layers do is the composite's choice. Everything else follows the
    same rules in every network, with nothing to set up per architecture: batch norms are folded
    into the layer before them, or are a scale and a bias; a sum (a residual connection) hands each
    part its share; activations pass relevance on; of a maximum the winner takes all; averages
    share by value; a gate counts as a constant; of the products of two signals each gets half;
    layer norms count their deviation as a constant (AttnLRP). An operation without a rule raises
    instead of handing relevance on wrongly.

    Conservation: the values add up to ``R`` at the logits (the explained logit itself) less what
    biases took, for every rule but alpha-beta with beta; epsilon takes its part, softmax adds or
    takes in networks with attention, and so do constants that are concatenated (class tokens).
    The account holds what was to be shared out and what biases took. Cost: 1 pass for epsilon,
    1.5 for z+ and gamma, 2 for generalised gamma (1.5 between ReLUs), 2.5 with beta.

    Args:
        composite: A name (see :func:`whence.attribution.composite_named`), or one of
            your own.
        epsilon: Of layers that follow epsilon in a named composite; 0 gives LRP-0.
        gamma: Of layers that follow gamma in a named composite.
        low: The lowest value of an image in the model's units, for z-box: one per channel or one
            for all; that of a black pixel if None, where the normalisation is known, otherwise
            each image's own lowest per channel.
        high: The highest, likewise: that of a white pixel, or each image's own.
        normalisation: The model's, for z-box; :func:`whence.explain` fills it in where the
            model's preprocessing is known, and the result's method shows it.
        attention: ``"attnlrp"`` shares relevance between attention weights and values;
            ``"cp-lrp"`` counts the weights as constants.
        bias: ``"absorb"`` lets biases take their share, ``"ignore"`` gives that to the inputs too,
            so that the values add up, at the price of large values where an output is small.
        fold: Fold batch norms into the layers before them.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: When called on a function whose model is no :class:`whence.network.Network`.
        UnsupportedOperation: When relevance arrives at an operation without a rule.

    References:
        Bach et al. (2015), Eq. 2 and 56 to 60; Montavon et al. (2019); Achtibat et al. (2024),
        "AttnLRP", section 3; Ali et al. (2022), "XAI for Transformers" (cp-lrp), section 4.
    """

    composite: CompositeName | Composite = "epsilon-plus"
    epsilon: float = 1e-6
    gamma: float = 0.25
    low: Bounds = None
    high: Bounds = None
    normalisation: Normalisation | None = None
    attention: Literal["attnlrp", "cp-lrp"] = "attnlrp"
    bias: Literal["absorb", "ignore"] = "absorb"
    fold: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        if self.attention not in ("attnlrp", "cp-lrp") or self.bias not in ("absorb", "ignore"):
            msg = (
                f"attention is attnlrp or cp-lrp, and bias is absorb or ignore; got "
                f"{self.attention!r} and {self.bias!r}."
            )
            raise SettingError(msg)
        self.chosen()

    def chosen(self) -> Composite:
        """Return the composite; its z-boxes without bounds get those of a pixel, if known."""
        if isinstance(self.composite, Composite):
            made = self.composite
        else:
            made = composite_named(
                self.composite,
                epsilon=self.epsilon,
                gamma=self.gamma,
                low=self.low,
                high=self.high,
            )
        return made if self.normalisation is None else boxed(made, self.normalisation)

    def conserves(self, network: Network) -> bool:
        """Return whether every layer of a network hands down what it receives, but for biases."""
        return all(rule.conserves for rule in layer_rules(network, self.chosen()))

    def passes(self, network: Network) -> float:
        """Return the cost on a network in passes: that of its costliest rule."""
        return max((rule.passes for rule in layer_rules(network, self.chosen())), default=1.0)

    def prepared(self, network: Network) -> Network:
        """Return the network under this method's rules; made once, and again for new weights."""

        def make(network: Network) -> Network:
            network = network.folded() if self.fold else network
            return under_composite(
                network,
                self.chosen(),
                weights=self.attention == "attnlrp",
                bias=self.bias == "absorb",
            )

        return remade(network, replace(self, batch_size=None), make)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the relevance of each value of the images, shaped like them."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the relevance with its cost, what was shared out, and what biases took."""
        network, scalar = graph_of(f, "LRP")
        network.check(images)
        parts, ledgers = [], []
        with recording():
            images = owned(images)
            other = self.prepared(network)
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            for start, stop in pace.spans(len(images)):
                rows = torch.arange(start, stop, device=images.device)
                ledger: Ledger = []
                target = scalar.at(rows).target
                with pace.watching(stop - start):
                    parts.append(shared_out(other, target, images[start:stop], ledger))
                ledgers.append(ledger)
        relevance, values, reference = (torch.cat(p) for p in zip(*parts, strict=True))
        taken = by_operation(ledgers)
        absorbed = sum((rows for _, _, rows in taken), torch.zeros_like(values))

        def trace(row: int) -> tuple[Loss, ...]:
            return searched(other, scalar, images, row)[0]

        if values.isfinite().all() and images.isfinite().all() and not relevance.isfinite().all():
            bad = int((~relevance.isfinite()).flatten(1).any(dim=1).nonzero()[0, 0])
            raise not_finite(images, relevance, searched(other, scalar, images, bad)[1])
        return Account(
            values=relevance,
            passes=remade(network, ("passes", replace(self, batch_size=None)), self.passes),
            explained=values,
            reference=reference,
            absorbed=absorbed,
            taken=taken,
            trace=trace,
        )


def boxed(composite: Composite, normalisation: Normalisation) -> Composite:
    """Return the composite whose z-boxes reach from black to white, where they have no bounds."""
    count = max(len(normalisation.mean), len(normalisation.std))
    pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, count, 1, 1).double()
    black, white = (tuple(row.flatten().tolist()) for row in normalisation.to_model(pixels))

    def within(rule: LayerRule) -> LayerRule:
        if not isinstance(rule, ZBox):
            return rule
        low = black if rule.low is None else rule.low
        return replace(rule, low=low, high=white if rule.high is None else rule.high)

    return Composite(
        assignments=tuple(replace(a, rule=within(a.rule)) for a in composite.assignments),
        otherwise=within(composite.otherwise),
    )


def by_operation(ledgers: list[Ledger]) -> tuple[tuple[str, str, Tensor], ...]:
    """Return what biases took at each operation of all images, from one ledger per batch."""
    return tuple(
        (entries[0][0].name, entries[0][0].path, torch.cat([rows for _, rows in entries]))
        for entries in zip(*ledgers, strict=True)
    )


def searched(
    network: Network, scalar: ModelScalar, images: Images, row: int
) -> tuple[tuple[Loss, ...], str | None]:
    """Return what each operation keeps of an image's relevance, and where it is not finite."""
    target = scalar.at(torch.tensor([row], device=images.device)).target

    def seed(logits: Tensor) -> Tensor:
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(target(leaf).sum(), leaf)[0]

    with recording():
        return traced(network, images[row : row + 1], seed)


def shared_out(
    network: Network, target: Target, images: Images, ledger: Ledger
) -> tuple[Tensor, Tensor, Tensor]:
    """Return relevance, explained values and what was shared out; note what biases took."""
    displacement = torch.zeros_like(images, requires_grad=True)
    token = LEDGER.set(ledger)
    try:
        logits = check_logits(network(images + displacement), len(images))
    finally:
        LEDGER.reset(token)
    values = target(logits)
    check_values(values, len(images))
    ones = torch.ones_like(values)
    (seed,) = torch.autograd.grad(values, logits, ones, retain_graph=True)
    (multiplier,) = torch.autograd.grad(logits, displacement, seed)
    reference = (logits.detach() * seed).sum(dim=1)
    return unzero(images).mul_(multiplier), values.detach(), reference
