r"""Loss: the task's loss plus what a prior says about the attributions.

.. math:: \frac{1}{b} \sum_b \ell(F_\theta(x_b), y_b)
          + \lambda\, \Omega(A(F_\theta, x))

In any training loop it is three lines::

    prior = Prior(method=InputXGradient(), penalty=GiniSparsity(), weight=0.1)  # once
    loss = prior_loss(model, images, labels, prior=prior)
    loss.total.backward()
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeAlias, final

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
from whence.priors.convolutions import FastConvolutions
from whence.priors.penalties import Penalty

__all__ = ["Prior", "PriorLoss", "TaskLoss", "prior_loss"]

TaskLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From logits and labels to one number."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """What attributions shall look like, and how much that counts.

    Args:
        method: Any differentiable method. One that has the setting ``create_graph`` (gradient,
            input times gradient, expected and integrated gradients, Grad-CAM) is made to keep
            its graph.
        penalty: What is made small.
        weight: The factor of the penalty; the task's loss has the factor 1.
        target: Makes of the labels what is explained; their logits by default.
    """

    method: Method
    penalty: Penalty
    weight: float = 1.0
    target: Callable[[Labels], Target] = field(default=Logit)

    def __post_init__(self) -> None:
        """Check the weight, and have the method keep its graph."""
        if not 0 <= self.weight < float("inf"):
            msg = f"A prior's weight is 0 or more, and finite; got {self.weight}."
            raise SettingError(msg)
        if "create_graph" in settings_of(self.method):
            object.__setattr__(self, "method", changed(self.method, create_graph=True))

    def at(self, rows: Tensor, step: int = 0) -> "Prior":
        """Return the prior for a batch: these images of the dataset, at this step of training.

        The penalty is that of the images; a method that draws at random (that has a ``seed``)
        draws anew at every step.
        """
        method = self.method
        if step and "seed" in settings_of(method):
            method = changed(method, seed=getattr(method, "seed", 0) + step)
        return replace(self, method=method, penalty=self.penalty.at(rows))


def settings_of(method: Any) -> frozenset[str]:  # noqa: ANN401 - a method of any kind
    """Return the names of a method's settings; none if it is no dataclass."""
    named = is_dataclass(method) and not isinstance(method, type)
    return frozenset(f.name for f in fields(method)) if named else frozenset()


def changed(method: Any, **setting: bool | int) -> Method:  # noqa: ANN401 - a dataclass of any kind
    """Return the method with another setting."""
    other: Method = replace(method, **setting)
    return other


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
    model: Callable[[Tensor], Any],
    images: Images,
    labels: Labels,
    *,
    prior: Prior,
    task: TaskLoss = functional.cross_entropy,
) -> PriorLoss:
    """Return cross-entropy plus weighted penalty, differentiable in the model's weights.

    A method that evaluates the model on the images themselves (gradient, input times gradient)
    shares that forward pass with the cross-entropy. The step then takes two plain steps' work:
    forward, gradient for the input, and the backward of both. A method that evaluates the model
    ``n`` times elsewhere (expected or integrated gradients) adds ``n`` times a forward, a
    gradient, and the backward of both.

    Attention runs on its math kernel while the attributions are made, the only kernel that can
    be differentiated twice; after the call it is as it was.

    Args:
        model: Any callable from images to logits. In train mode the maps are those of the batch,
            with its batch statistics and dropped units. For a method that works on the layers of
            a network (Grad-CAM) a :class:`whence.network.Network` of the model, read in eval
            mode; it shares the model's parameters, which are trained.
        images: ``(b, c, h, w)``.
        labels: The true classes, ``(b,)``.
        prior: The prior; its penalty must be that of these images, ``prior.at(indices, step)``.
        task: The task's loss of logits and labels, a number; the mean cross-entropy by default.

    Raises:
        SettingError: If the method's attributions keep no graph.
    """
    f = Overheard(model=model, target=prior.target(labels), images=images)
    with sdpa_kernel(SDPBackend.MATH), FastConvolutions():
        values = prior.method(f, images)
    if not values.requires_grad:
        raise not_differentiable(prior.method)
    logits = f.heard[0] if f.heard else check_logits(logits_of(model(images)), len(images))
    own = task(logits, labels)
    penalty = prior.penalty(values)
    return PriorLoss(total=own + prior.weight * penalty, task=own, penalty=penalty, logits=logits)


def not_differentiable(method: Method) -> SettingError:
    """Return the error for a method that a prior cannot be put on."""
    name = getattr(method, "__name__", type(method).__name__)
    return SettingError(
        f"{name} is not differentiable: its attributions keep no graph, so a prior on them cannot "
        f"train the weights. Take a method with the setting create_graph, such as InputXGradient, "
        f"Gradient, ExpectedGradients, IntegratedGradients or GradCAM."
    )


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
