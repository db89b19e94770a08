r"""Why this class and not the others: attributions of classes weighed against each other."""

from dataclasses import dataclass, field, replace
from typing import Literal, final, get_args

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import check_batch_size, forward_pace
from whence.attribution.gradient import Gradient, accounted, observing, owned
from whence.core import (
    Attributions,
    Images,
    Logit,
    Logits,
    Method,
    ModelScalar,
    ScalarFn,
    Scalars,
    logits_from,
)
from whence.errors import SettingError

__all__ = [
    "ClassContrast",
    "Mixture",
    "classes_of",
    "logits_in_parts",
    "of_a_class",
    "slope_of",
]

Foils = Literal["weighted", "mean", "strongest"]
"""How the other classes are weighed: by their softmax, alike, or only the strongest."""


@final
@dataclass(frozen=True, eq=False)
class Mixture:
    """A target: the logits of an image, mixed with weights that stay as they are.

    Args:
        weights: The weight of each class for each image, ``(b, k)``.
    """

    weights: Tensor

    def __call__(self, logits: Logits) -> Scalars:
        """Return the mixture of the logits."""
        return (logits * self.weights).sum(dim=1)

    def at(self, rows: Tensor) -> "Mixture":
        """Return the target of these rows."""
        return Mixture(self.weights[rows.to(self.weights.device)])


@final
@dataclass(frozen=True, kw_only=True)
class ClassContrast:
    r"""What a method says for the class, less what it says for the other classes.

    .. math:: \phi = \phi_t - \sum_{s \ne t} \alpha_s \phi_s, \qquad
              \alpha_s = \frac{e^{y_s}}{\sum_{k \ne t} e^{y_k}} = \frac{p_s}{1 - p_t}

    The weights are those of the image itself, and the inner method explains the mixture of logits
    :math:`y_t - \sum_s \alpha_s y_s`, in one call: the same for every method that is linear in
    what it explains, as gradients, paths, occlusion and activation maps without ReLU are. For
    these, :math:`\nabla p_t = p_t (1 - p_t)\, \phi` and :math:`\nabla \log p_t = (1 - p_t)\,
    \phi`: it is what the probability says, without vanishing where the network is sure. With two
    classes the maps of one and the other are each other's negative. Signed: leave the ReLU of
    activation maps off. Cost: the inner method's, and half a pass for the weights.

    Args:
        foils: ``weighted`` as above; ``mean``, all alike; or ``strongest``, the runner-up alone.
        method: What explains the mixture.
        batch_size: Images per internal batch for the weights; chosen by memory if None.

    Raises:
        SettingError: If what is explained is not the logit of a class.

    References:
        Wang and Wang (2022), "Why Not Other Classes? Towards Class-Contrastive Back-Propagation
        Explanations", Eq. 5 to 8.
    """

    foils: Foils = "weighted"
    method: Method = field(default_factory=Gradient)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        if self.foils not in get_args(Foils):
            msg = f"foils is one of {', '.join(get_args(Foils))}; got {self.foils!r}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the contrast, shaped as the inner method's attributions are."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the contrast with its cost, and the law of the inner method for the mixture."""
        f = of_a_class(f, "ClassContrast")
        with observing():
            images = owned(images)
            logits = logits_in_parts(f, images, self.batch_size)
            weights = weights_of(logits, classes_of(f, logits), self.foils)
            explained = f.target(logits)
        inner = accounted(self.method, ModelScalar(f.model, Mixture(weights)), images)
        # What biases took is a part of the mixture, not of the logit that is reported.
        return replace(inner, passes=inner.passes + FORWARD, explained=explained, absorbed=None)


def slope_of(loss: Tensor, weights: Tensor, seen: Tensor) -> Tensor:
    """Return the gradient of a loss in weights, by way of images that the model saw.

    Raises:
        SettingError: If the model's value does not depend on these images differentiably, so that
            nothing could be learnt from it.
    """
    slope, reached = None, None
    if loss.requires_grad:
        slope, reached = torch.autograd.grad(loss.sum(), [weights, seen], allow_unused=True)
    if slope is None or reached is None:
        msg = (
            "The explained value has no gradient with respect to the images, and this method "
            "searches along it. The model may run under torch.no_grad(), detach its input or "
            "leave torch, or the target may take an argmax. Explain a differentiable value, such "
            "as a logit, or take a method without gradients: Occlusion, RISE, KernelSHAP, LIME."
        )
        raise SettingError(msg)
    return slope


def logits_in_parts(f: ModelScalar, images: Images, batch_size: int | None) -> Logits:
    """Return the logits of all images."""
    pace = forward_pace(f, images, batch_size)
    return torch.cat(
        [
            logits_from(f.model, images[start:stop].clone())
            for start, stop in pace.spans(len(images))
        ]
    )


def of_a_class(f: ScalarFn, name: str) -> ModelScalar:
    """Return a function that explains the logit of a class; refuse others."""
    if isinstance(f, ModelScalar) and isinstance(f.target, Logit):
        return f
    came = type(f.target if isinstance(f, ModelScalar) else f).__name__
    msg = (
        f"{name} weighs a class against the others, and explains "
        f"ModelScalar(model, logit(class)); got {came}. For two given classes explain "
        f"contrast(class, foil) by any method."
    )
    raise SettingError(msg)


def classes_of(f: ModelScalar, logits: Logits) -> Tensor:
    """Return the class that is explained of each image: its logit among class numbers."""
    numbers = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float64)
    return f.target(numbers.expand(logits.shape)).long()


def weights_of(logits: Logits, classes: Tensor, foils: Foils) -> Tensor:
    """Return the weight of each class: 1 for its own, and minus 1 in all for the others."""
    if logits.shape[1] < 2:  # noqa: PLR2004 - a class and another
        msg = (
            f"ClassContrast needs at least two classes; the model's output has shape "
            f"{tuple(logits.shape)}."
        )
        raise SettingError(msg)
    own = torch.nn.functional.one_hot(classes, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf)
    if foils == "weighted":
        share = others.softmax(dim=1)
    elif foils == "mean":
        share = (~own).to(logits) / (logits.shape[1] - 1)
    else:
        share = torch.nn.functional.one_hot(others.argmax(dim=1), logits.shape[1]).to(logits)
    return own.to(logits) - share
