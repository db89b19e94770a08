r"""Loss: the task's loss plus what a prior says about the attributions.

.. math:: \frac{1}{b} \sum_b \ell(F_\theta(x_b), y_b)
          + \lambda\, \Omega(A(F_\theta, x))
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.core import (
    Images,
    Labels,
    Logit,
    Logits,
    Method,
    Scalars,
    Target,
    check_logits,
    logits_of,
)
from whence.errors import SettingError
from whence.priors.penalties import Penalty

__all__ = ["Prior", "PriorLoss", "prior_loss"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """What attributions shall look like, and how much that counts.

    Args:
        method: Any method that keeps the graph (``create_graph=True``).
        penalty: What is made small.
        weight: The factor of the penalty; the task's loss has the factor 1.
        target: Makes of the labels what is explained; their logits by default.
    """

    method: Method
    penalty: Penalty
    weight: float = 1.0
    target: Callable[[Labels], Target] = field(default=Logit)

    def __post_init__(self) -> None:
        """Check the weight."""
        if not 0 <= self.weight < float("inf"):
            msg = f"A prior's weight is 0 or more, and finite; got {self.weight}."
            raise SettingError(msg)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PriorLoss:
    """The loss of a batch and its parts.

    Args:
        total: ``task + weight * penalty``: what to call ``.backward()`` on.
        task: The mean cross-entropy.
        penalty: The prior's penalty, without its weight.
        logits: The model's output for the images.
    """

    total: Float[Tensor, ""]
    task: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    logits: Logits


def prior_loss(
    model: Callable[[Tensor], Any], images: Images, labels: Labels, *, prior: Prior
) -> PriorLoss:
    """Return cross-entropy plus weighted penalty, differentiable in the model's weights.

    A method that evaluates the model on the images themselves (gradient, input times gradient)
    shares that forward pass with the cross-entropy; the step then costs one pass more than
    training alone, and the second backward. Attention runs on its math kernel, the only one
    that can be differentiated twice.

    Args:
        model: Any callable from images to logits. In train mode the maps are those of the batch,
            with its batch statistics and dropped units.
        images: ``(b, c, h, w)``.
        labels: The true classes, ``(b,)``.
        prior: The prior; its penalty must be that of these images, ``penalty.at(indices)``.

    Raises:
        SettingError: If the method's attributions keep no graph.
    """
    with sdpa_kernel(SDPBackend.MATH):
        f = Overheard(model=model, target=prior.target(labels), images=images)
        values = prior.method(f, images)
        if not values.requires_grad:
            msg = (
                f"The attributions of {type(prior.method).__name__} keep no graph, so a prior "
                f"cannot train the weights. Make the method with create_graph=True."
            )
            raise SettingError(msg)
        logits = f.heard[0] if f.heard else check_logits(logits_of(model(images)), len(images))
    task = functional.cross_entropy(logits, labels)
    penalty = prior.penalty(values)
    return PriorLoss(total=task + prior.weight * penalty, task=task, penalty=penalty, logits=logits)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Overheard:
    """A ScalarFn that keeps the logits of the images themselves, once it is asked for them."""

    model: Callable[[Tensor], Any]
    target: Target
    images: Tensor
    heard: list[Tensor] = field(default_factory=list)

    def __call__(self, images: Images) -> Scalars:
        """Return the target of the model's logits."""
        logits = check_logits(logits_of(self.model(images)), len(images))
        if not self.heard and torch.equal(images.detach(), self.images.detach()):
            self.heard.append(logits)
        return self.target(logits)

    def at(self, rows: Tensor) -> "Overheard":
        """Return the function of these rows, which hears of the same images."""
        return Overheard(
            model=self.model, target=self.target.at(rows), images=self.images, heard=self.heard
        )
