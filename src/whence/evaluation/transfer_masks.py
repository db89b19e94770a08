r"""Features and their controls: what another network is shown of an image and a map of it.

All of it happens in pixels from 0 to 1, so that every network sees the same picture, whatever its
units: :math:`M \odot x + (1 - M) \odot \bar x` with a mask :math:`M` and a fill :math:`\bar x`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from whence.core import Attributions, Baseline, Images, Labels, check_images
from whence.errors import SettingError, ShapeError

__all__ = [
    "ALONE",
    "COMPLEMENT",
    "FEATURES",
    "OBJECT",
    "ORIGINAL",
    "SHUFFLED",
    "SMOOTH",
    "SOFT",
    "Bank",
    "Scale",
    "Showing",
    "features",
    "hard_masks",
    "hard_name",
    "random_smooth_masks",
    "resampled_masks",
    "soft_masks",
    "strangers",
    "zoom_between",
]

Masks = Float[Tensor, "b 1 h w"]

Scale = Literal["mask", "maximum"]
"""How a map becomes a mask: it is one already, or its positive part is divided by its maximum."""

ORIGINAL, OBJECT = "original", "object"
FEATURES, SHUFFLED, SMOOTH = "features", "shuffled", "smooth"
COMPLEMENT, ALONE = "complement", "alone"
SOFT = "soft"

COARSE = 5
"""Values along each side of the noise that random smooth masks are made of."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Other pictures, one of which fills what is not shown of an image.

    Args:
        images: In pixels from 0 to 1, ``(n, c, h, w)``; the image with number ``i`` gets
            ``images[i % n]``, however the work is cut into batches.
    """

    images: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        """Check that they are images."""
        check_images(self.images)

    def rows(self, pixels: Images, indices: Labels) -> Images:
        """Return the fills of images.

        Raises:
            ShapeError: If the bank has another shape than the images.
        """
        if self.images.shape[1:] != pixels.shape[1:]:
            msg = (
                f"A bank must have the images' shape {tuple(pixels.shape[1:])}; got "
                f"{tuple(self.images.shape[1:])}. Preprocess both in the same way."
            )
            raise ShapeError(msg)
        which = indices.to(self.images.device) % len(self.images)
        return self.images[which].to(pixels)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Showing:
    """What is shown of every image.

    Soft features, and hard ones at each coverage, on every fill; beside them the same of the
    shuffled masks. On the first fill also the other controls: random smooth masks with the values
    of the true ones, and what the masks hide; and the masks alone, as pictures.

    Args:
        coverages: Shares of the pixels that hard features show, above 0 and below 1.
        fills: What stands where a mask is zero, in pixels: a baseline or a :class:`Bank`, by name.
        soft: Whether to show soft features.
        seed: Of random smooth masks, and of which of tied pixels are shown.
    """

    coverages: tuple[float, ...] = (0.1, 0.25, 0.5)
    fills: Mapping[str, Baseline | Bank]
    soft: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that something is shown."""
        wrong = [share for share in self.coverages if not 0 < share < 1]
        if wrong or len(set(self.coverages)) < len(self.coverages):
            msg = (
                f"Coverages are different shares of the pixels above 0 and below 1; got "
                f"{', '.join(map(str, self.coverages))}. For 25 % write 0.25."
            )
            raise SettingError(msg)
        if not self.fills or not (self.soft or self.coverages):
            msg = "Nothing is shown: give one fill at least, and soft features or a coverage."
            raise SettingError(msg)

    @property
    def masks(self) -> tuple[str, ...]:
        """Names of the kinds of masks."""
        return (*([SOFT] if self.soft else []), *map(hard_name, self.coverages))

    def behind(self, pixels: Images, indices: Labels) -> dict[str, Images]:
        """Return what stands where masks are zero, by the name of the fill."""
        return {
            name: fill.rows(pixels, indices) if isinstance(fill, Bank) else fill(pixels)
            for name, fill in self.fills.items()
        }

    def kinds(self, soft: Masks) -> Iterator[tuple[str, Masks]]:
        """Yield the name of each kind of mask, and the masks."""
        if self.soft:
            yield SOFT, soft
        for share in self.coverages:
            yield hard_name(share), hard_masks(soft, share, seed=self.seed)

    def __call__(
        self, pixels: Images, indices: Labels, own: Masks, others: Masks
    ) -> Iterator[tuple[str, str, str, Images]]:
        """Yield what is shown, the kind of mask, the fill, and the pictures.

        Args:
            pixels: The images, in pixels from 0 to 1.
            indices: Their numbers in the data.
            own: Their soft masks, of the images' size.
            others: Soft masks of other images, for the control.
        """
        first = next(iter(self.fills))
        behind = self.behind(pixels, indices)
        for (kind, mask), (_, other) in zip(self.kinds(own), self.kinds(others), strict=True):
            for name, fill in behind.items():
                yield FEATURES, kind, name, features(pixels, mask, fill)
                yield SHUFFLED, kind, name, features(pixels, other, fill)
            smooth = random_smooth_masks(mask, indices, seed=self.seed)
            yield SMOOTH, kind, first, features(pixels, smooth, behind[first])
            yield COMPLEMENT, kind, first, features(pixels, 1 - mask, behind[first])
            yield ALONE, kind, "", mask.expand_as(pixels).clone()


def features(pixels: Images, masks: Masks, behind: Images) -> Images:
    """Return images where the mask is 1, and what is behind where it is 0, all in pixels."""
    return masks * pixels + (1 - masks) * behind


def hard_name(coverage: float) -> str:
    """Return what a kind of hard mask is called.

    Example:
        >>> hard_name(0.25)
        '25 %'
    """
    return f"{100 * coverage:g} %"


def soft_masks(values: Attributions, scale: Scale = "maximum") -> tuple[Masks, Tensor]:
    """Return maps as masks in [0, 1], ``(b, 1, h, w)``, and which of them show nothing, ``(b,)``.

    A map with no positive value, and one that is not finite, becomes zero everywhere.

    Args:
        values: Attributions; channels are added up.
        scale: ``mask`` keeps the values, which must be from 0 to 1; ``maximum`` divides what is
            positive by the largest value of the image.

    Raises:
        SettingError: If the values are no masks.
    """
    maps = values.detach().sum(dim=1, keepdim=True)
    finite = maps.isfinite().flatten(1).all(dim=1)
    maps = torch.where(finite[:, None, None, None], maps, torch.zeros_like(maps))
    if scale == "mask":
        if maps.numel() and not (float(maps.min()) >= 0 and float(maps.max()) <= 1):
            msg = (
                f"Masks have values from 0 to 1; got {float(maps.min()):.3g} to "
                f"{float(maps.max()):.3g}. Take scale='maximum' for maps of another range."
            )
            raise SettingError(msg)
        return maps, (maps == 0).flatten(1).all(dim=1)
    positive = maps.clamp(min=0)
    most = positive.amax(dim=(2, 3), keepdim=True)
    blank = most == 0
    return positive / most.masked_fill(blank, 1), blank.flatten()


def hard_masks(masks: Masks, coverage: float, *, seed: int = 0) -> Masks:
    """Return 1 at the highest values, so many that they cover this share of the pixels.

    Of pixels that tie for the last places, those that come first in one random order are taken.

    Args:
        masks: Soft masks, or any maps with one channel.
        coverage: Share of the pixels; the number is rounded, and is 1 at least.
        seed: Of the order.
    """
    flat = masks.flatten(1)
    count = max(1, round(coverage * flat.shape[1]))
    mix = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))
    mix = mix.to(flat.device)
    top = mix[flat[:, mix].argsort(dim=1, descending=True, stable=True)[:, :count]]
    return torch.zeros_like(flat).scatter_(1, top, 1.0).view(masks.shape)


def random_smooth_masks(masks: Masks, indices: Labels, *, seed: int = 0) -> Masks:
    """Return random smooth masks that have exactly the values of these masks, in other places.

    So area, softness and contrast are those of the true mask. An image's noise depends on its
    number and the seed, and not on the batch.

    Args:
        masks: ``(b, 1, h, w)``.
        indices: Numbers of the images.
        seed: Of the noise.
    """
    height, width = masks.shape[2:]
    draws = [
        torch.randn(
            1, 1, COARSE, COARSE, generator=torch.Generator().manual_seed(1_000_003 * seed + index)
        )
        for index in indices.tolist()
    ]
    noise = functional.interpolate(torch.cat(draws), size=(height, width), mode="bicubic")
    order = noise.flatten(1).argsort(dim=1, stable=True).to(masks.device)
    values = masks.flatten(1).sort(dim=1).values
    return torch.empty_like(values).scatter_(1, order, values).view(masks.shape)


def resampled_masks(
    masks: Masks, size: tuple[int, int], zoom: float = 1.0
) -> Float[Tensor, "b 1 rows columns"]:
    """Return masks of another size, as a network sees them that looks at more or less.

    Args:
        masks: ``(b, 1, h, w)``, of one network.
        size: Rows and columns of the other network.
        zoom: How much of the first network's picture the other one sees, along each side: below
            1 it sees the centre alone; above 1 it sees more, of which the mask knows nothing, so
            that it is zero there.
    """
    if zoom == 1:
        if tuple(masks.shape[2:]) == size:
            return masks
        smaller = size[0] < masks.shape[2]
        made = functional.interpolate(
            masks, size=size, mode="bilinear", align_corners=False, antialias=smaller
        )
        return made.clamp(0, 1)
    turn = torch.tensor([[zoom, 0.0, 0.0], [0.0, zoom, 0.0]], dtype=masks.dtype)
    turns = turn.to(masks.device).expand(len(masks), -1, -1)
    grid = functional.affine_grid(turns, [len(masks), 1, *size], align_corners=False)
    return functional.grid_sample(masks, grid, align_corners=False, padding_mode="zeros")


def strangers(count: int, *, seed: int = 0) -> Labels:
    """Return for each image another one, by chance; each is taken once.

    Raises:
        SettingError: If there is no other image.
    """
    if count < 2:  # noqa: PLR2004 - one and another
        msg = f"Masks can be shuffled between two images or more; got {count}."
        raise SettingError(msg)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return others


def zoom_between(generator: float, evaluator: float) -> float:
    """Return the zoom from one network's picture to another's, of which each sees a share."""
    zoom = evaluator / generator
    return 1.0 if math.isclose(zoom, 1, rel_tol=1e-6) else zoom
