"""Names: how a command line calls the routes."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TypeAlias

from whence.convert.change import Route, Wrapping
from whence.convert.coordinate import HomogeneousCoordinate
from whence.convert.cures import (
    ClampGuards,
    ScaleOnlyNorms,
    SizedConstants,
    UnitAttention,
    UnitGates,
)
from whence.convert.refit import RefitLayers, Refitting
from whence.convert.routes import (
    ReplaceActivations,
    ScaleOnlyBatchNorms,
    StripBiases,
    UncentredBatchNorms,
)
from whence.convert.wrapper import NormWrapper
from whence.errors import SettingError

__all__ = ["ROUTES", "ROUTE_NAMES", "AnyRoute", "routes_named"]

AnyRoute: TypeAlias = Route | Wrapping | Refitting

ROUTES: tuple[Route, ...] = (
    StripBiases(),
    ScaleOnlyBatchNorms(),
    ReplaceActivations(),
    ClampGuards(),
    UnitAttention(),
    UnitGates(),
    ScaleOnlyNorms(),
    SizedConstants(),
)
"""Everything that can be exchanged operation by operation, in the order in which it is done."""

ROUTE_NAMES: dict[str, AnyRoute] = {
    "strip-biases": StripBiases(),
    "scale-batch-norms": ScaleOnlyBatchNorms(),
    "uncentred-batch-norms": UncentredBatchNorms(),
    "activations": ReplaceActivations(),
    "guards": ClampGuards(),
    "attention": UnitAttention(),
    "gates": UnitGates(),
    "norms": ScaleOnlyNorms(),
    "constants": SizedConstants(),
    "drop-constants": SizedConstants(keep=False),
    "homogeneous-coordinate": HomogeneousCoordinate(),
    "norm-wrapper": NormWrapper(),
    "refit": RefitLayers(),
}
"""Every route by its name."""


def routes_named(names: Sequence[str]) -> tuple[AnyRoute, ...]:
    """Return the routes of these names, or those that are taken by default.

    Raises:
        SettingError: If there is no route of a name.

    Example:
        >>> routes_named(["strip-biases", "activations"])
        (StripBiases(), ReplaceActivations())
    """
    for name in names:
        if name not in ROUTE_NAMES:
            close = get_close_matches(name, ROUTE_NAMES, n=2, cutoff=0.4)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            msg = f"Unknown route {name!r}.{hint} There are: {', '.join(ROUTE_NAMES)}."
            raise SettingError(msg)
    return tuple(ROUTE_NAMES[name] for name in names) or ROUTES
