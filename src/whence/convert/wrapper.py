r"""The norm wrapper: any network becomes homogeneous, at a price that is reported.

.. math:: F(x) = \frac{\|x\|}{r}\, f\!\left(r \frac{x}{\|x\|}\right)

has degree 1 for every ``f``, and equals ``f`` on images of length ``r``. With
:math:`u = r x / \|x\|` its X-Gradient is

.. math:: a_i = \frac{\|x\|}{r} \Big[ u_i\, \partial_i f(u)
          + \frac{u_i^2}{r^2} \big( f(u) - \langle u, \nabla f(u) \rangle \big) \Big]

The second term spreads what the network's biases, norms and gates account for over the pixels by
their energy. It makes the values add up and explains nothing, so its share is reported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence.convert.change import Change
from whence.core import Images, Target, check_logits, logits_of
from whence.errors import SettingError

__all__ = ["NormWrapper", "Wrapped", "energy_share"]

GUARD = 1e-18


@final
class Wrapped(nn.Module):
    """A network of degree 1 around any network.

    Args:
        model: Images ``(b, c, h, w)`` to logits.
        radius: The length of images on which nothing changes.
    """

    radius: Tensor

    def __init__(self, model: nn.Module, radius: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("radius", radius)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the images at the radius, times their length over the radius."""
        length = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True) / self.radius
        logits: Tensor = logits_of(self.model(images / length.clamp_min(GUARD)))
        made: Tensor = length[:, :, 0, 0] * logits
        return made


@final
@dataclass(frozen=True, kw_only=True)
class NormWrapper:
    """The whole model is evaluated on images of one length.

    Args:
        radius: That length; the median length of the images given to the conversion if None.
    """

    radius: float | None = None

    def __post_init__(self) -> None:
        """Check the radius."""
        if self.radius is not None and not 0 < self.radius < float("inf"):
            msg = f"The radius is the length of an image, above 0; got {self.radius}."
            raise SettingError(msg)

    def wrapped(self, model: nn.Module, images: Images) -> tuple[nn.Module, Change]:
        """Return the model in its wrapper."""
        lengths = torch.linalg.vector_norm(images.detach(), dim=(1, 2, 3))
        radius = lengths.median() if self.radius is None else lengths.new_tensor(self.radius)
        if not radius > 0:
            msg = "The images are zero, so they have no length to bring others to. Give a radius."
            raise SettingError(msg)
        made = Wrapped(model, radius)
        made.training = False
        what = f"evaluated on images of length {float(radius):.4g}, logits times |x| / that"
        return made, Change(path="", what=what, parameters=0)

    def images(self, images: Images) -> Images:
        """Return the images as they are."""
        return images


def energy_share(
    model: Callable[[Tensor], Any], images: Images, target: Target, *, radius: float
) -> Float[Tensor, " b"]:
    r"""Return the share of a wrapped network's attribution that is mere pixel energy.

    With the two terms ``g`` and ``e`` of the X-Gradient above,
    :math:`\sum_i |e_i| / (\sum_i |g_i| + \sum_i |e_i|)`: 0 for a network that is an X-DNN without
    the wrapper, 1 for one of degree 0. Cost: 1 pass.

    Args:
        model: The network inside the wrapper.
        images: ``(b, c, h, w)``.
        target: What is explained.
        radius: The wrapper's.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        length = torch.linalg.vector_norm(images.detach(), dim=(1, 2, 3), keepdim=True)
        inside = (radius * images.detach() / length.clamp_min(GUARD)).clone().requires_grad_()
        values = target(check_logits(logits_of(model(inside)), len(images)))
        (gradient,) = torch.autograd.grad(values.sum(), inside)
    product = (inside * gradient).detach().flatten(1)
    energy = (values.detach() - product.sum(dim=1)).abs()  # its squares add up to radius^2
    mass = product.abs().sum(dim=1) + energy
    return torch.where(mass > 0, energy / mass, torch.zeros_like(mass))
