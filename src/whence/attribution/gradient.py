r"""Methods of one gradient: the gradient itself, and times the input."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.attribution.account import Account, Accountable
from whence.attribution.batching import Pace, check_batch_size
from whence.core import Attributions, Images, Method, ScalarFn, Scalars, check_images
from whence.errors import SettingError, ShapeError

__all__ = [
    "Gradient",
    "InputXGradient",
    "evaluate",
    "observing",
    "owned",
    "recording",
    "value_and_gradient",
]


@contextmanager
def recording() -> Iterator[None]:
    """Record gradients, whatever the caller's mode (``no_grad``, ``inference_mode``)."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


@contextmanager
def observing() -> Iterator[None]:
    """Record no gradients, and make tensors that can be used anywhere, whatever the mode."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield


def owned(images: Images, *, create_graph: bool = False) -> Images:
    """Return checked images that autograd may record; without their past, unless it is kept.

    Call it inside :func:`recording`.
    """
    images = check_images(images)
    if images.is_inference():
        images = images.clone()
    return images if create_graph else images.detach()


def value_and_gradient(
    f: Callable[[Tensor], Tensor], inputs: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return ``f(inputs)``, one value per row, and its gradient: one pass.

    The derivative is taken with respect to a displacement of zero that is added to the inputs.
    So the user's tensor need not require a gradient, an in-place operation at the start of the
    network changes only our copy, and no gradient of a weight is computed or stored.

    Args:
        f: The function to explain, or the part of it behind a cut.
        inputs: Images, or activations, with the batch first.
        create_graph: Keep the graph, so that both results can be differentiated again.

    Raises:
        ShapeError: If ``f`` does not return one value per row.
        SettingError: If the value does not depend on the inputs in a differentiable way.
    """
    with recording():
        source = inputs if create_graph else inputs.detach()
        displacement = torch.zeros_like(source, requires_grad=True)
        values = f(source + displacement)
        check_values(values, len(inputs))
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(
                values,
                displacement,
                torch.ones_like(values),
                create_graph=create_graph,
                allow_unused=True,
            )
        if gradient is None:
            msg = (
                "The explained value has no gradient with respect to the images. The model may "
                "run under torch.no_grad(), detach its input or leave torch, or the target may "
                "take an argmax or a constant. Explain a differentiable value, such as a logit."
            )
            raise SettingError(msg)
    return (values if create_graph else values.detach()), gradient


def check_values(values: Tensor, count: int) -> None:
    """Refuse anything but one value per image."""
    if values.shape != (count,):
        msg = (
            f"The function must return one value per image, shape ({count},); it returned "
            f"{tuple(values.shape)}. Make it with ModelScalar(model, logit(class))."
        )
        raise ShapeError(msg)


def evaluate(f: ScalarFn, images: Images, pace: Pace) -> Scalars:
    """Return ``f(images)``, detached: half a pass."""
    parts = []
    with observing():
        for start, stop in pace.spans(len(images)):
            rows = torch.arange(start, stop, device=images.device)
            values = f.at(rows)(images[start:stop].clone())
            check_values(values, stop - start)
            parts.append(values.detach())
    return torch.cat(parts)


def batched_gradient(
    f: ScalarFn, images: Images, *, create_graph: bool, batch_size: int | None
) -> tuple[Scalars, Images]:
    """Return ``f(images)`` and its gradient, in internal batches.

    With ``create_graph`` everything stays in memory anyway, so there is one batch unless the
    user cuts it.
    """
    images = owned(images, create_graph=create_graph)
    if create_graph and batch_size is None:
        return value_and_gradient(f, images, create_graph=True)
    count, pace = len(images), Pace(f=f, images=images, batch_size=batch_size)
    parts: list[tuple[Tensor, Tensor]] = []
    for start, stop in pace.spans(count):
        if stop - start == count:
            return value_and_gradient(f, images, create_graph=create_graph)
        rows = torch.arange(start, stop, device=images.device)
        with pace.watching(stop - start):
            parts.append(
                value_and_gradient(f.at(rows), images[start:stop], create_graph=create_graph)
            )
    return torch.cat([v for v, _ in parts]), torch.cat([g for _, g in parts])


@final
@dataclass(frozen=True, kw_only=True)
class Gradient:
    r"""The gradient of the explained value: how it would change with each pixel.

    .. math:: a_i = \partial_i f(x)

    Exact. Signed, per channel, never reduced or rescaled. Sensitivity, not a share of ``f``: the
    values add up to nothing in particular. Cost: 1 pass.

    Args:
        create_graph: Keep the graph, so that a loss on the attributions trains the weights.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Simonyan, Vedaldi and Zisserman (2014), "Deep Inside Convolutional Networks", section 3.
    """

    create_graph: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the gradient of each image's value, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the gradient with its cost."""
        with recording():
            values, gradient = batched_gradient(
                f, images, create_graph=self.create_graph, batch_size=self.batch_size
            )
        return Account(values=gradient, passes=1.0, explained=values)


@final
@dataclass(frozen=True, kw_only=True)
class InputXGradient:
    r"""The input times the gradient: the first-order share of each pixel.

    .. math:: a_i = x_i \, \partial_i f(x)

    Exact. On a network that is homogeneous of degree one (piecewise linear, without biases) the
    values add up to ``f(x)`` and equal integrated gradients from zero; otherwise they add up to
    nothing in particular. Cost: 1 pass.

    Args:
        create_graph: Keep the graph, so that a loss on the attributions trains the weights.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Shrikumar et al. (2016), "Not Just a Black Box", section 2; Hesse, Schaub-Meyer and Roth
        (2021), "Fast Axiomatic Attribution for Neural Networks", Eq. 9.
    """

    create_graph: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return input times gradient, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return input times gradient with its cost."""
        with recording():
            values, gradient = batched_gradient(
                f, images, create_graph=self.create_graph, batch_size=self.batch_size
            )
            product = owned(images, create_graph=self.create_graph) * gradient
        return Account(values=product, passes=1.0, explained=values)


def sum_dtype(values: Tensor) -> torch.dtype:
    """Return the type to add values up in: single precision at least."""
    return torch.promote_types(values.dtype, torch.float32)


def accounted(method: Method, f: ScalarFn, images: Images) -> Account:
    """Return a method's account; of a method that gives none, the values, at an unknown cost."""
    if isinstance(method, Accountable):
        return method.account(f, images)
    return Account(values=method(f, images), passes=float("nan"))
