"""Head: another last layer, for another number of classes."""

import copy

import torch
from torch import Tensor, nn

from whence.core import logits_from
from whence.errors import UnsupportedOperation

__all__ = ["with_new_head"]

Layer = nn.Linear | nn.Conv2d


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
        outputs = logits_from(model, images).shape[1]
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
        with torch.no_grad():
            if logits_from(made, images).shape[1] == classes:
                return made
    msg = (
        f"No linear layer of the model was found that makes its {outputs} logits, so its head "
        f"cannot be replaced for {classes} classes. Build the model with {classes} outputs."
    )
    raise UnsupportedOperation(msg)


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
    shape = (classes, *weight.shape[1:])
    bound = weight[0].numel() ** -0.5
    values = (2 * torch.rand(shape, generator=generator) - 1) * bound
    made.weight = nn.Parameter(values.to(weight))
    if biased:
        made.bias = nn.Parameter(weight.new_zeros(classes))
    made.training = old.training
    return made
