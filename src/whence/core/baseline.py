r"""Baselines and fills: what stands for "no information here".

A baseline maps images ``(b, c, h, w)`` in model units to images of the same shape. Colours are
given as pixels and go through the model's normalisation, so that black is black and not the
dataset's mean colour.
"""

from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import torch
from torch.nn import functional

from whence.core.normalisation import Normalisation
from whence.core.types import Images
from whence.errors import SettingError

__all__ = [
    "BASELINES",
    "Baseline",
    "Blur",
    "Colour",
    "Mean",
    "Noise",
    "RandomBaseline",
    "Shuffled",
    "Uniform",
    "Zero",
    "baseline_named",
]


@runtime_checkable
class Baseline(Protocol):
    """Maps images to what replaces them."""

    def __call__(self, images: Images) -> Images:
        """Return a tensor shaped like ``images``."""
        ...


@runtime_checkable
class RandomBaseline(Protocol):
    """A baseline that is one of many, for methods that draw anew in every step."""

    def __call__(self, images: Images) -> Images:
        """Return a tensor shaped like ``images``, the same on every call."""
        ...

    def draw(self, images: Images, generator: torch.Generator) -> Images:
        """Return another one; what is drawn does not depend on how many images there are."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Zero:
    """Zero in model units: the mean colour of the training data, for most models."""

    def __call__(self, images: Images) -> Images:
        """Return zeros."""
        return torch.zeros_like(images)


@final
@dataclass(frozen=True, kw_only=True)
class Colour:
    """One colour, in pixels from 0 to 1: ``Colour(value=(0, 0, 0))`` is black."""

    value: tuple[float, ...] = (0.0,)
    normalisation: Normalisation = field(default_factory=Normalisation)

    def __call__(self, images: Images) -> Images:
        """Return images of this colour, in model units."""
        if len(self.value) not in (1, images.shape[1]):
            msg = (
                f"The colour has {len(self.value)} channels, the images have {images.shape[1]}. "
                f"Give one value per channel, or one for all."
            )
            raise SettingError(msg)
        value = torch.tensor(self.value, dtype=images.dtype, device=images.device)
        pixels = value.view(1, -1, 1, 1).expand(1, images.shape[1], 1, 1)
        return self.normalisation.to_model(pixels).expand_as(images).clone()


@final
@dataclass(frozen=True, kw_only=True)
class Mean:
    """Each image's own mean colour."""

    def __call__(self, images: Images) -> Images:
        """Return the mean of each channel, spread over the image."""
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images).clone()


@final
@dataclass(frozen=True, kw_only=True)
class Blur:
    """The image after a Gaussian blur.

    Args:
        sigma: Standard deviation of the kernel, as a fraction of the image's shorter side.
    """

    sigma: float = 0.1

    def __post_init__(self) -> None:
        """Check that there is something to blur with."""
        if not self.sigma > 0:
            msg = f"Blur needs a positive sigma, a fraction of the shorter side; got {self.sigma}."
            raise SettingError(msg)

    def __call__(self, images: Images) -> Images:
        """Return the blurred images; the border is repeated outwards."""
        sigma = self.sigma * min(images.shape[2:])
        radius = max(1, round(3 * sigma))
        at = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        kernel = kernel / kernel.sum()
        channels = images.shape[1]
        padded = functional.pad(images, (radius,) * 4, mode="replicate")
        rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        return functional.conv2d(
            functional.conv2d(padded, rows, groups=channels), columns, groups=channels
        )


@final
@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Noise, uniform over the pixel range, the same for every call with the same seed."""

    seed: int = 0
    normalisation: Normalisation = field(default_factory=Normalisation)

    def __call__(self, images: Images) -> Images:
        """Return one random image, repeated for the batch."""
        return self.draw(images, torch.Generator().manual_seed(self.seed))

    def draw(self, images: Images, generator: torch.Generator) -> Images:
        """Return another random image, repeated for the batch."""
        pixels = torch.rand(images.shape[1:], generator=generator, dtype=torch.float64)
        model = self.normalisation.to_model(pixels[None].to(images))
        return model.expand_as(images).clone()


@final
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise around zero in model units, the same for every call with the same seed.

    Args:
        sigma: Its standard deviation, in model units; images that were normalised by the
            training data's have 1.
        seed: Seed of the noise.
    """

    sigma: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that there is noise."""
        if not self.sigma > 0:
            msg = f"Noise needs a positive sigma, in model units; got {self.sigma}."
            raise SettingError(msg)

    def __call__(self, images: Images) -> Images:
        """Return one image of noise, repeated for the batch."""
        return self.draw(images, torch.Generator().manual_seed(self.seed))

    def draw(self, images: Images, generator: torch.Generator) -> Images:
        """Return another image of noise, repeated for the batch."""
        noise = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
        return (self.sigma * noise[None]).to(images).expand_as(images).clone()


@final
@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """The pixels of each image in random order: its colours without its shapes.

    Args:
        seed: Seed of the order, which is the same for all images.
    """

    seed: int = 0

    def __call__(self, images: Images) -> Images:
        """Return the images with their pixels in one random order."""
        return self.draw(images, torch.Generator().manual_seed(self.seed))

    def draw(self, images: Images, generator: torch.Generator) -> Images:
        """Return the images with their pixels in another order."""
        order = torch.randperm(images.shape[2] * images.shape[3], generator=generator)
        return images.flatten(2)[:, :, order.to(images.device)].reshape(images.shape)


BASELINES = ("zero", "black", "white", "mean", "blur", "uniform", "noise", "shuffled")
"""The names that :func:`baseline_named` knows."""


def baseline_named(name: str, normalisation: Normalisation | None = None) -> Baseline:
    """Return the baseline of this name, in the units of a model with this normalisation.

    Raises:
        SettingError: If the name is not one of :data:`BASELINES`.
    """
    units = normalisation or Normalisation()
    known: dict[str, Baseline] = {
        "zero": Zero(),
        "black": Colour(value=(0.0,), normalisation=units),
        "white": Colour(value=(1.0,), normalisation=units),
        "mean": Mean(),
        "blur": Blur(),
        "uniform": Uniform(normalisation=units),
        "noise": Noise(),
        "shuffled": Shuffled(),
    }
    if name not in known:
        msg = f"Unknown baseline {name!r}. Choose one of: {', '.join(BASELINES)}."
        raise SettingError(msg)
    return known[name]
