"""Head: another last layer, for another number of classes."""

import copy

import torch
from torch import Tensor, nn

from whence.core import logits_from
from whence.errors import UnsupportedOperation, WhenceError

__all__ = ["with_new_head"]

Layer = nn.Linear | nn.Conv2d

MATRIX = 2
"""Axes of a linear layer's weight; a convolution's has more."""


def with_new_head(
    model: nn.Module, images: Tensor, classes: int, generator: torch.Generator
) -> nn.Module:
    r"""Return a copy of a classifier with a new last layer, for so many classes.

    The new layer has a bias only if the old one had: a network without biases stays one. Its
    weights are drawn evenly from :math:`\pm 1 / \sqrt{n}`, ``n`` inputs; a bias is zero.

    Args:
        model: The classifier, in eval mode; it is not touched.
        images: Some images ``(b, c, h, w)`` to try the copy on.
        classes: How many outputs the copy shall have.
        generator: Draws the new weights.

    Raises:
        UnsupportedOperation: If no linear layer or 1 x 1 convolution makes the logits.
    """
    with torch.no_grad():
        before = logits_from(model, images)
    outputs = before.shape[1]
    names = [
        name
        for name, part in model.named_modules()
        if (isinstance(part, nn.Linear) and part.out_features == outputs)
        or (isinstance(part, nn.Conv2d) and part.out_channels == outputs)
    ]
    for name in reversed(names):
        made = copy.deepcopy(model)
        parent, _, own = name.rpartition(".")
        old = made.get_submodule(name)
        if not isinstance(old, Layer):
            continue
        if not name:
            return drawn(old, classes, generator)
        setattr(made.get_submodule(parent), own, drawn(old, classes, generator))
        if fits(made, images, before, classes):
            return made
    bare = with_new_weight(model, images, before, classes, generator)
    if bare is not None:
        return bare
    msg = (
        f"No linear layer of the model was found that makes its {outputs} logits, so its head "
        f"cannot be replaced for {classes} classes. Build the model with {classes} outputs."
    )
    raise UnsupportedOperation(msg)


def with_new_weight(
    model: nn.Module, images: Tensor, before: Tensor, classes: int, generator: torch.Generator
) -> nn.Module | None:
    """Return the same for a model that calls its last layer as a function, such as a graph.

    The weight is replaced where it is stored, and the bias beside it if there is one.
    """
    outputs = before.shape[1]
    for name, weight in reversed(list(model.named_parameters())):
        if weight.ndim < MATRIX or len(weight) != outputs:
            continue
        made = copy.deepcopy(model)
        parent, _, own = name.rpartition(".")
        holder = made.get_submodule(parent)
        setattr(holder, own, nn.Parameter(values_like(weight, classes, generator)))
        bias = getattr(holder, "bias", None)
        if isinstance(bias, nn.Parameter) and bias.shape == (outputs,):
            holder.bias = nn.Parameter(bias.new_zeros(classes))
        if fits(made, images, before, classes):
            return made
    return None


def fits(made: nn.Module, images: Tensor, before: Tensor, classes: int) -> bool:
    """Return whether a model has so many logits, and others than it had."""
    try:
        with torch.no_grad():
            found = logits_from(made, images)
    except (RuntimeError, WhenceError):  # not the last layer: what follows does not fit
        return False
    return found.shape[1] == classes and not torch.equal(found, before)


def values_like(weight: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Return new values for a weight with so many outputs."""
    bound = weight[0].numel() ** -0.5
    values = 2 * torch.rand((classes, *weight.shape[1:]), generator=generator) - 1
    made: Tensor = (values * bound).to(weight)
    return made


def drawn(old: Layer, classes: int, generator: torch.Generator) -> Layer:
    """Return a layer like the old one with so many outputs, with a bias only if that had one."""
    biased, weight = old.bias is not None, old.weight
    made: Layer
    if isinstance(old, nn.Linear):
        made = nn.Linear(old.in_features, classes, bias=biased, device="meta")
    else:
        made = nn.Conv2d(
            old.in_channels,
            classes,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            bias=biased,
            device="meta",
        )
    made.weight = nn.Parameter(values_like(weight, classes, generator))
    if biased:
        made.bias = nn.Parameter(weight.new_zeros(classes))
    made.training = old.training
    return made
