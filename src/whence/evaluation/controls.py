r"""Controls: maps that explain nothing, beside which every method has to be read.

Each keeps the protocol of a method, so it stands in every table where a method stands. A metric
that ranks one of them as high as a method says nothing about this method.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

import torch
from torch import Tensor
from torch.nn import functional

from whence.core import Attributions, Images, Method, ScalarFn, check_images
from whence.errors import SettingError, ShapeError
from whence.evaluation.metric import pixel_map

__all__ = [
    "CONTROLS",
    "AverageMap",
    "CentreMap",
    "ConstantMap",
    "EdgeMap",
    "InputMap",
    "RandomMap",
    "RedrawnMap",
    "average_map",
]

DIGITS = 3
"""Significant digits of an explained value that decide whether it has changed."""


@final
@dataclass(frozen=True, kw_only=True)
class RandomMap:
    """Normal noise: another map for each image, the same whenever the image is the same.

    It looks at neither network nor class, so a randomised network leaves it as it is. The noise
    is drawn on the CPU from the image's own bytes, so it does not depend on the batch. Costs
    nothing.

    Args:
        seed: Another seed gives other maps.
    """

    seed: int = 0

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return noise ``(b, 1, h, w)``."""
        del f
        return noise_of(images, [b""] * len(check_images(images)), self.seed)


@final
@dataclass(frozen=True, kw_only=True)
class RedrawnMap:
    """Normal noise that is drawn anew whenever the explained value changes.

    No map depends more on the network, and none explains it less: what parameter randomisation
    rewards most (Binder et al. 2023). The noise is drawn from the image's bytes and from ``f``,
    to three digits. Costs half a pass.

    Args:
        seed: Another seed gives other maps.

    References:
        Binder et al. (2023), "Shortcomings of Top-Down Randomization-Based Sanity Checks".
    """

    seed: int = 0

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return noise ``(b, 1, h, w)``."""
        check_images(images)
        with torch.no_grad():
            explained = f(images).double().tolist()
        return noise_of(images, [f"{v:.{DIGITS}g}".encode() for v in explained], self.seed)


@final
@dataclass(frozen=True, kw_only=True)
class ConstantMap:
    """The same value at every pixel: nothing is said about any of them."""

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return ones ``(b, 1, h, w)``."""
        del f
        return torch.ones_like(check_images(images)[:, :1])


@final
@dataclass(frozen=True, kw_only=True)
class EdgeMap:
    r"""The size of the image's edges: an edge detector, which needs no network.

    .. math:: a = \sqrt{(S_x * \bar{x})^2 + (S_y * \bar{x})^2}

    with the Sobel kernels :math:`S_x, S_y` and the mean :math:`\bar{x}` of the channels; the
    border is repeated outwards.

    References:
        Adebayo et al. (2018), "Sanity Checks for Saliency Maps", Figure 1 (the edge detector).
    """

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the sizes ``(b, 1, h, w)``."""
        del f
        grey = check_images(images).mean(dim=1, keepdim=True)
        smooth = grey.new_tensor([1.0, 2.0, 1.0])
        slope = grey.new_tensor([-1.0, 0.0, 1.0])
        kernels = torch.stack([smooth.outer(slope), slope.outer(smooth)])[:, None]
        found = functional.conv2d(functional.pad(grey, (1,) * 4, mode="replicate"), kernels)
        return found.square().sum(dim=1, keepdim=True).sqrt().detach()


@final
@dataclass(frozen=True, kw_only=True)
class InputMap:
    """The image itself, in the model's units: what a network that is ignored leaves over."""

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return a copy of the images."""
        del f
        return check_images(images).detach().clone()


@final
@dataclass(frozen=True, kw_only=True)
class CentreMap:
    r"""A bump in the middle of the image: photographers put the object there.

    .. math:: a = \exp\big(-(u^2 + v^2) / (2 \sigma^2)\big)

    where ``u`` and ``v`` run from -1 to 1 over the rows and the columns.

    Args:
        sigma: Width of the bump, as a share of half a side.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        """Check the width."""
        if not self.sigma > 0:
            msg = f"sigma is a share of half a side, over 0; got {self.sigma}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the bump ``(b, 1, h, w)``."""
        del f
        height, width = check_images(images).shape[2:]
        rows, columns = (
            torch.exp(-torch.linspace(-1, 1, side, dtype=torch.float64).square() / 2)
            .pow(self.sigma**-2)
            .to(images)
            for side in (height, width)
        )
        return (rows[:, None] * columns).expand(len(images), 1, -1, -1).clone()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AverageMap:
    """One map for all images: the bias of the data and of the method that made it.

    Make it with :func:`average_map`. What such a map scores is no merit of any single map.

    Args:
        values: The map, ``(h, w)``.
    """

    values: Tensor

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the map for every image.

        Raises:
            ShapeError: If the images have another size.
        """
        del f
        if self.values.shape != check_images(images).shape[2:]:
            msg = (
                f"The average map is of {tuple(self.values.shape)} pixels, the images are of "
                f"{tuple(images.shape[2:])}. Average maps of images of one size."
            )
            raise ShapeError(msg)
        return self.values.to(images).expand(len(images), 1, -1, -1).clone()


def average_map(values: Attributions) -> AverageMap:
    """Return the mean of the maps of many images, each scaled to a mean size of 1, as a control.

    A map that is zero everywhere adds nothing.

    Args:
        values: One map per image; of other images than are judged, if it is to be fair.
    """
    flat = pixel_map(values)
    sizes = flat.abs().mean(dim=1, keepdim=True)
    scaled = flat / sizes.where(sizes > 0, torch.ones_like(sizes))
    return AverageMap(values=scaled.mean(dim=0).view(values.shape[2:]).detach())


def noise_of(images: Images, marks: list[bytes], seed: int) -> Attributions:
    """Return normal noise drawn from each image's bytes, its mark and the seed."""
    drawn: list[Tensor] = []
    for image, mark in zip(images.detach().cpu().double(), marks, strict=True):
        content = image.contiguous().numpy().tobytes() + mark + str(seed).encode()
        number = int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "big")
        generator = torch.Generator().manual_seed(number)
        drawn.append(torch.randn(1, *image.shape[1:], generator=generator, dtype=torch.float64))
    return torch.stack(drawn).to(images)


CONTROLS: Final[Mapping[str, Callable[[], Method]]] = MappingProxyType(
    {
        "random-map": RandomMap,
        "redrawn-map": RedrawnMap,
        "constant-map": ConstantMap,
        "edge-map": EdgeMap,
        "input-map": InputMap,
        "centre-map": CentreMap,
    }
)
"""The controls that need no data, by name."""
