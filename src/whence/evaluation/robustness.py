r"""Robustness: how much a map changes when the image hardly does."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Images, Method, ScalarFn, Scalars, check_images
from whence.errors import SettingError, ShapeError
from whence.evaluation.faithfulness import check_settings
from whence.evaluation.metric import MetricCard, pixel_map

__all__ = ["AverageSensitivity", "MaxSensitivity"]

CHANCE = "0 for a constant map, which is the most robust; about 1.4 for maps drawn anew"
REFERENCE = "Yeh et al. (2019), On the (In)fidelity and Sensitivity of Explanations, section 4"


@final
@dataclass(frozen=True, kw_only=True)
class MaxSensitivity:
    r"""The largest relative change of the map over small random changes of the image.

    .. math:: \max_{\|d\|_\infty \le r} \frac{\|a(x + d) - a(x)\|_2}{\|a(x)\|_2}

    A lower bound of the maximum, from ``samples`` draws of noise that is uniform in the box; all
    images see the same draws. A constant map scores best, so read it beside a measure of
    faithfulness. NaN where the map is zero everywhere.

    Args:
        radius: ``r``, as a fraction of each image's range of values.
        samples: Draws; the cost is the method's for each of them.
        relative: Divide by the size of the map, without which methods of other units cannot be
            compared.
        batch_size: Changed images per call of the method.
        seed: Seed of the draws, made on the CPU.

    References:
        Yeh et al. (2019), "On the (In)fidelity and Sensitivity of Explanations", section 4.
    """

    radius: float = 0.02
    samples: int = 10
    relative: bool = True
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="lower", low=0.0, high=torch.inf, chance=CHANCE, reference=REFERENCE
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_radius(self.radius, self.samples, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor, method: Method) -> Scalars:
        """Return one number per image.

        Args:
            f: What is explained.
            images: ``(b, c, h, w)``.
            values: The method's maps of these images.
            method: Makes the maps of the changed images.

        Raises:
            NumericsError: If an attribution is NaN or infinite.
            ShapeError: If the method's maps have another shape than ``values``.
        """
        return changes(self, f, images, values, method).amax(dim=1)


@final
@dataclass(frozen=True, kw_only=True)
class AverageSensitivity:
    r"""The mean relative change of the map over small random changes of the image.

    .. math:: \mathbb E_{d} \frac{\|a(x + d) - a(x)\|_2}{\|a(x)\|_2}

    The same draws as in :class:`MaxSensitivity`. NaN where the map is zero everywhere.

    Args:
        radius: As a fraction of each image's range of values.
        samples: Draws; the cost is the method's for each of them.
        relative: Divide by the size of the map.
        batch_size: Changed images per call of the method.
        seed: Seed of the draws, made on the CPU.

    References:
        Yeh et al. (2019); Bhatt, Weller and Moura (2020), Definition 3 (average sensitivity).
    """

    radius: float = 0.02
    samples: int = 10
    relative: bool = True
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="lower", low=0.0, high=torch.inf, chance=CHANCE, reference=REFERENCE
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_radius(self.radius, self.samples, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor, method: Method) -> Scalars:
        """Return one number per image; see :class:`MaxSensitivity`."""
        return changes(self, f, images, values, method).mean(dim=1)


def changes(
    metric: MaxSensitivity | AverageSensitivity,
    f: ScalarFn,
    images: Images,
    values: Tensor,
    method: Method,
) -> Float[Tensor, "b s"]:
    """Return the size of the map's change for each draw, in double precision."""
    check_images(images)
    if len(pixel_map(values)) != len(images):
        msg = f"One map per image is needed; got {len(values)} for {len(images)} images."
        raise ShapeError(msg)
    low, high = images.flatten(1).aminmax(dim=1)
    reach = (metric.radius * (high - low)).view(-1, 1, 1, 1)
    every = torch.arange(len(images) * metric.samples, device=images.device)
    parts: list[Tensor] = []
    for some in torch.split(every, metric.batch_size):
        rows, which = some % len(images), some // len(images)
        noise = drawn_boxes(metric.seed, which, images)
        made = method(f.at(rows), images[rows] + reach[rows] * noise).detach()
        pixel_map(made)  # refuses what is not finite
        if made.shape[1:] != values.shape[1:]:
            msg = (
                f"The method makes maps {tuple(made.shape[1:])}, but the values given for these "
                f"images are {tuple(values.shape[1:])}. Give values that this method has made."
            )
            raise ShapeError(msg)
        apart = (made - values[rows]).flatten(1).double()
        parts.append(apart.square().sum(dim=1).sqrt())
    found = torch.cat(parts).view(metric.samples, len(images)).T
    if not metric.relative:
        return found
    sizes = values.flatten(1).double().square().sum(dim=1, keepdim=True).sqrt()
    return found / torch.where(sizes > 0, sizes, torch.nan)


def drawn_boxes(seed: int, which: Tensor, images: Images) -> Tensor:
    """Return the draws of these numbers, uniform in -1 to 1, shaped like images."""
    numbers = which.tolist()
    made = {
        k: 2 * torch.rand(images.shape[1:], generator=generator_of(seed, k)) - 1
        for k in dict.fromkeys(numbers)
    }
    return torch.stack([made[k] for k in numbers]).to(images)


def generator_of(seed: int, number: int) -> torch.Generator:
    """Return the generator of one draw, so that draws do not depend on how work is cut."""
    return torch.Generator().manual_seed(1_000_003 * seed + number)


def check_radius(radius: float, samples: int, batch_size: int) -> None:
    """Refuse a box without a size, and no draws."""
    check_settings(1, batch_size)
    if samples < 1:
        msg = f"samples must be at least 1; got {samples}."
        raise SettingError(msg)
    if not 0 < radius < float("inf"):
        msg = f"radius is a fraction of the image's range over 0, usually 0.02; got {radius}."
        raise SettingError(msg)
