"""Optimiser: what an optimiser knows of its gradients, by the names of the parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from whence.curvature import Diagonal
from whence.errors import MismatchError

__all__ = ["preconditioner_of", "second_moments"]

KEYS = ("exp_avg_sq", "square_avg", "sum")
"""Where Adam and AdamW, RMSprop, and Adagrad keep squares of gradients."""

TINY = 1e-8
"""Added to the root of a second moment, as Adam does."""


def second_moments(
    optimiser: torch.optim.Optimizer | Mapping[str, Any], model: nn.Module
) -> dict[str, Tensor]:
    """Return an optimiser's running second moments of gradients, by the parameters' names.

    Args:
        optimiser: Adam, AdamW, RMSprop or Adagrad, or its state dict. A state dict without names
            is read in the order of ``model.parameters()``.
        model: The model that it trains.

    Raises:
        MismatchError: If it keeps none, or is of another model.
    """
    state = optimiser.state_dict() if isinstance(optimiser, torch.optim.Optimizer) else optimiser
    shapes = {name: p.shape for name, p in model.named_parameters()}
    names = named(optimiser, state, model)
    found: dict[str, Tensor] = {}
    for place, kept in state.get("state", {}).items():
        values = next((kept[key] for key in KEYS if key in kept), None)
        if isinstance(values, Tensor):
            found[names.get(place, str(place))] = values
    if not found:
        msg = (
            "The optimiser keeps no second moments of gradients: Adam, AdamW, RMSprop and Adagrad "
            "do, once they have made a step. Give one of those, or none."
        )
        raise MismatchError(msg)
    for name, values in found.items():
        if name not in shapes or values.shape != shapes[name]:
            got = tuple(values.shape)
            have = tuple(shapes[name]) if name in shapes else "no such parameter"
            msg = (
                f"The optimiser's state does not fit the model: {name!r} has a second moment of "
                f"shape {got}, and the model has {have}. Give the optimiser of this model."
            )
            raise MismatchError(msg)
    return found


def named(
    optimiser: torch.optim.Optimizer | Mapping[str, Any], state: Mapping[str, Any], model: nn.Module
) -> dict[int, str]:
    """Return the parameters' names by their number in an optimiser's state."""
    groups = state.get("param_groups", [])
    numbers = [number for group in groups for number in group["params"]]
    if isinstance(optimiser, torch.optim.Optimizer):
        known = {id(p): name for name, p in model.named_parameters()}
        every = [p for group in optimiser.param_groups for p in group["params"]]
        return {n: known.get(id(p), str(n)) for n, p in zip(numbers, every, strict=True)}
    own = [name for group in groups for name in group.get("param_names", [])]
    names = own if len(own) == len(numbers) else [name for name, _ in model.named_parameters()]
    return dict(zip(numbers, names, strict=False))


def preconditioner_of(moments: Mapping[str, Tensor], names: tuple[str, ...]) -> Diagonal:
    r"""Return what an adaptive optimiser multiplies gradients by, :math:`1 / (\sqrt v + 10^{-8})`.

    Times the mean root, which changes no cosine and keeps numbers near those of the gradients.

    Args:
        moments: Second moments by parameter.
        names: The parameters that are needed.

    Raises:
        MismatchError: If one of them has no second moment.
    """
    missing = [name for name in names if name not in moments]
    if missing:
        msg = (
            f"There is no second moment for {missing[0]!r} ({len(missing)} of {len(names)} "
            f"parameters have none). Give those of all that are compared, or compare fewer "
            f"parameters."
        )
        raise MismatchError(msg)
    roots = {name: moments[name].detach().double().sqrt() for name in names}
    total = sum(float(root.sum()) for root in roots.values())
    mean = total / sum(root.numel() for root in roots.values())
    return Diagonal(values={name: (mean or 1.0) / (root + TINY) for name, root in roots.items()})
