"""Composites: which layer follows which rule."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, final

from whence.attribution.relevance.first import Flat, ZBox
from whence.attribution.relevance.layers import LayerRule
from whence.attribution.relevance.rules import AlphaBeta, Epsilon, Gamma, GeneralisedGamma
from whence.errors import SettingError
from whence.network import Place

__all__ = ["Assignment", "Bounds", "Composite", "CompositeName", "composite_named"]

Bounds = float | tuple[float, ...] | None
"""The end of the range of an image's values: one per channel, one for all, or its own."""

CompositeName = Literal[
    "epsilon",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
    "epsilon-gamma-box",
    "gamma",
    "generalised-gamma",
    "pixel-wise",
    "excitation-backprop",
]
"""The composites that have a name."""

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose2d"})


@final
@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A rule, and the layers that follow it.

    Args:
        rule: How these layers hand relevance down.
        operations: Names of operations, such as ``{"conv2d"}``; every layer if None.
        path: A pattern of module paths, ``"layer1.*"`` (``*`` any text, ``?`` one character).
        depth: From and to (with it): how many layers lie between the images and the layer; a
            layer that reads the images has depth 0.
        height: From and to: how many layers lie between the layer and the logits.
        optional: Whether it may be that no layer fits; otherwise that is an error.
    """

    rule: LayerRule
    operations: frozenset[str] | None = None
    path: str = "*"
    depth: tuple[int, float] = (0, float("inf"))
    height: tuple[int, float] = (0, float("inf"))
    optional: bool = False

    def fits(self, place: Place) -> bool:
        """Return whether a layer follows this rule."""
        return (
            (self.operations is None or place.name in self.operations)
            and fnmatchcase(place.path, self.path)
            and self.depth[0] <= place.depth <= self.depth[1]
            and self.height[0] <= place.height <= self.height[1]
        )


@final
@dataclass(frozen=True, kw_only=True)
class Composite:
    """Rules for all layers: the first assignment that fits counts.

    Args:
        assignments: In order of precedence.
        otherwise: The rule of a layer that none fits.
    """

    assignments: tuple[Assignment, ...] = ()
    otherwise: LayerRule = Epsilon()  # noqa: RUF009 - a frozen value

    def rule_at(self, place: Place) -> LayerRule:
        """Return the rule of a layer."""
        return next((a.rule for a in self.assignments if a.fits(place)), self.otherwise)


def composite_named(
    name: str,
    *,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    low: Bounds = None,
    high: Bounds = None,
) -> Composite:
    """Return the composite of this name.

    Linear layers follow epsilon in all but the last four; the name says what convolutions follow.
    ``gamma`` is made for outputs behind a ReLU: where negative ones matter, before residual sums
    and in transformers, its denominators come close to zero and the map may blow up, which the
    result's warning tells. ``generalised-gamma`` stays finite there.

    ========================== ================================ ==========================
    name                       convolutions                     layers that read the images
    ========================== ================================ ==========================
    epsilon                    epsilon                          epsilon
    epsilon-plus               z+                               z+
    epsilon-plus-flat          z+                               flat
    epsilon-alpha2-beta1       alpha 2, beta 1                  alpha 2, beta 1
    epsilon-alpha2-beta1-flat  alpha 2, beta 1                  flat
    epsilon-gamma-box          generalised gamma                z-box
    gamma                      gamma, linear layers too         gamma
    generalised-gamma          generalised gamma, linear too    generalised gamma
    pixel-wise                 alpha 2, beta 1, linear too      alpha 2, beta 1
    excitation-backprop        z+, linear too                   z+
    ========================== ================================ ==========================

    Args:
        name: The composite.
        epsilon: Of linear layers, and of convolutions in ``epsilon``.
        gamma: Of layers that follow gamma or its generalised form.
        low: The lowest value of an image in the model's units, for z-box; its own if None.
        high: The highest, likewise.

    Raises:
        SettingError: If there is no composite of this name.

    References:
        Montavon et al. (2019), "Layer-Wise Relevance Propagation: An Overview"; Bach et al.
        (2015) for ``pixel-wise``; Zhang et al. (2016), "Top-down Neural Attention by Excitation
        Backprop", for ``excitation-backprop``.
    """
    named: dict[str, LayerRule] = {
        "epsilon": Epsilon(epsilon=epsilon),
        "epsilon-plus": AlphaBeta(),
        "epsilon-plus-flat": AlphaBeta(),
        "epsilon-alpha2-beta1": AlphaBeta(alpha=2, beta=1),
        "epsilon-alpha2-beta1-flat": AlphaBeta(alpha=2, beta=1),
        "epsilon-gamma-box": GeneralisedGamma(gamma=gamma),
        "gamma": Gamma(gamma=gamma),
        "generalised-gamma": GeneralisedGamma(gamma=gamma),
        "pixel-wise": AlphaBeta(alpha=2, beta=1),
        "excitation-backprop": AlphaBeta(),
    }
    if name not in named:
        msg = f"There is no composite {name!r}. There are: {', '.join(named)}."
        raise SettingError(msg)
    convolution = named[name]
    first: LayerRule | None = None
    if name.endswith("-flat"):
        first = Flat()
    if name.endswith("-box"):
        first = ZBox(low=low, high=high)
    assignments = [] if first is None else [Assignment(rule=first, depth=(0, 0))]
    assignments.append(Assignment(rule=convolution, operations=CONVOLUTIONS, optional=True))
    every = not name.startswith("epsilon")
    return Composite(
        assignments=tuple(assignments),
        otherwise=convolution if every else Epsilon(epsilon=epsilon),
    )
