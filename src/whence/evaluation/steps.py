"""Steps: which pixels are replaced at each step of a perturbation, and by what."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.core import Baseline, Images, ScalarFn, Width, check_images
from whence.errors import SettingError, ShapeError
from whence.evaluation.metric import ascending, pixel_map

__all__ = ["Fill", "Imputer", "Segments", "Squares", "Tiles"]


@runtime_checkable
class Imputer(Protocol):
    """A fill that looks at what is left of the image around the pixels that it replaces."""

    def impute(self, images: Images, gone: Bool[Tensor, "b 1 h w"]) -> Images:
        """Return the images with the pixels that are gone replaced."""
        ...


Fill: TypeAlias = Baseline | Imputer
"""What stands where a pixel is gone: a baseline, or an imputer, which sees the pixels beside it."""


@runtime_checkable
class Segments(Protocol):
    """Which pixels are replaced together."""

    def __call__(self, images: Images) -> Tensor:
        """Return labels ``(b, h, w)``, whole numbers from 0, none of them left out."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Squares:
    """Squares of so many pixels a side, from the upper left; the last may be narrower.

    Args:
        size: Pixels a side; 1 for single pixels.
    """

    size: int = 1

    def __post_init__(self) -> None:
        """Check the size."""
        if self.size < 1:
            msg = f"size is a number of pixels, 1 or more; got {self.size}."
            raise SettingError(msg)

    def __call__(self, images: Images) -> Int[Tensor, "b h w"]:
        """Return the square of each pixel."""
        height, width = images.shape[2:]
        across = -(-width // self.size)
        rows, columns = (
            torch.arange(side, device=images.device) // self.size for side in (height, width)
        )
        return (rows[:, None] * across + columns).expand(len(images), -1, -1)


@final
@dataclass(frozen=True, kw_only=True)
class Tiles:
    """As many tiles along each side of an image, so that its size does not change the cost.

    Args:
        across: Tiles along a side, or one for each pixel where there are fewer.
    """

    across: int = 14

    def __post_init__(self) -> None:
        """Check the number."""
        if self.across < 1:
            msg = f"across is a number of tiles, 1 or more; got {self.across}."
            raise SettingError(msg)

    def __call__(self, images: Images) -> Int[Tensor, "b h w"]:
        """Return the tile of each pixel, row by row."""
        down, along = (min(self.across, side) for side in images.shape[2:])
        height, width = images.shape[2:]
        rows = torch.arange(height, device=images.device) * down // height
        columns = torch.arange(width, device=images.device) * along // width
        return (rows[:, None] * along + columns).expand(len(images), -1, -1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """In which order the segments of images go.

    Args:
        places: The place of each pixel's segment in the order, from 0, ``(b, n)``.
        counts: How many segments each image has, ``(b,)``.
    """

    places: Int[Tensor, "b n"]
    counts: Int[Tensor, " b"]


def ordered(images: Images, values: Tensor, segments: Segments, seed: int) -> Order:
    """Return the order of the segments by their mean attribution, the highest first.

    Segments of equal means stand in one fixed random order.

    Raises:
        ShapeError: If the attributions or the segments do not fit the images.
    """
    ranked = pixel_map(values)
    flat = labelled(images, values, segments)
    counts = flat.amax(dim=1) + 1
    most = int(counts.max())
    sums = ranked.new_zeros(len(images), most).scatter_add_(1, flat, ranked)
    sizes = torch.zeros_like(sums).scatter_add_(1, flat, torch.ones_like(ranked))
    means = (sums / sizes).masked_fill(sizes == 0, -torch.inf)
    mix = torch.randperm(most, generator=torch.Generator().manual_seed(seed)).to(ranked.device)
    order = mix[ascending(-means[:, mix])]
    counted = torch.arange(most, device=ranked.device).expand_as(order)
    places = torch.empty_like(order).scatter_(1, order, counted)
    return Order(places=places.gather(1, flat), counts=counts)


def filled(images: Images, fill: Fill) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what makes, of rows of the images and of the pixels that stay, images to look at."""
    if isinstance(fill, Imputer):
        return lambda rows, stays: fill.impute(images[rows], ~stays)
    behind = fill(images)
    return lambda rows, stays: torch.where(stays, images[rows], behind[rows])


def layered(images: Images, fill: Fill) -> Callable[[slice, Tensor], Images]:
    """Return what makes, of some images and of the pixels that stay, images to look at.

    The pixels that stay are ``(g, k, 1, h, w)``, ``k`` changes of each of ``g`` images side by
    side; they give ``g * k`` images, those of one image beside one another. No row is copied
    before it is changed.
    """
    if isinstance(fill, Imputer):
        return lambda span, stays: fill.impute(
            images[span].repeat_interleave(stays.shape[1], dim=0), ~stays.flatten(0, 1)
        )
    behind = fill(images)
    return lambda span, stays: torch.where(
        stays, images[span].unsqueeze(1), behind[span].unsqueeze(1)
    ).flatten(0, 1)


@torch.no_grad()
def swept(
    f: ScalarFn,
    images: Images,
    count: int,
    changed: Callable[[Tensor], Callable[[slice], Images]],
    batch_size: int,
) -> Float[Tensor, "b m"]:
    """Return ``f`` of ``count`` changes of each image, batched over both.

    Batches are cut evenly: what a few images leave of a batch is filled by more changes. On a CPU
    they are no wider than feature maps fit (:class:`whence.core.Width`).

    Args:
        f: What is explained.
        images: ``(b, c, h, w)``.
        count: How many changes there are.
        changed: Takes numbers of changes ``(k,)``, and returns what makes of each of some images
            these changes, ``(g * k, c, h, w)``, those of one image beside one another.
        batch_size: Images per forward pass at most.
    """
    width, done = Width(images, batch_size), 0
    parts: list[Tensor] = []
    while done < count:
        spans = evenly(len(images), width.rows)
        more = evenly(count - done, max(1, width.rows // spans[0].stop))[0].stop
        numbers = torch.arange(done, done + more, device=images.device)
        make = changed(numbers)
        column: list[Tensor] = []
        for span in spans:
            rows = torch.arange(span.start, span.stop, device=images.device)
            found = width(f.at(rows.repeat_interleave(more)), make(span))
            column.append(found.view(len(rows), more))
        parts.append(torch.cat(column))
        done += more
    return torch.cat(parts, dim=1)


def evenly(count: int, most: int) -> list[slice]:
    """Return as few spans of ``count`` as hold at most so many each, the longest first."""
    cuts = -(-count // most)
    size, more = divmod(count, cuts)
    starts = [i * size + min(i, more) for i in range(cuts + 1)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def labelled(images: Images, values: Tensor, segments: Segments) -> Int[Tensor, "b n"]:
    """Return the segment of each pixel, after checking that all fits the images.

    Raises:
        ShapeError: If the attributions or the segments do not fit the images.
    """
    labels = segments(check_images(images))
    needed = (len(images), *images.shape[2:])
    for name, shape in (
        ("Attributions", (len(values), *values.shape[2:])),
        ("Segments", tuple(labels.shape)),
    ):
        if shape != needed:
            msg = f"{name} must fit the images, {needed}; got {shape}."
            raise ShapeError(msg)
    return labels.flatten(1).long().to(images.device)


def answers(
    f: ScalarFn,
    images: Images,
    count: int,
    changed: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> Float[Tensor, "b m"]:
    """Return ``f`` of ``count`` changes of each image, batched over both, in double precision.

    Args:
        f: What is explained.
        images: ``(b, c, h, w)``.
        count: How many changes there are.
        changed: Makes images of rows and of numbers of changes, both ``(r,)``.
        batch_size: Images per forward pass at most.
    """
    width, every = Width(images, batch_size), torch.arange(len(images) * count)
    every = every.to(images.device)
    parts: list[Tensor] = []
    while len(every):
        some, every = every[: width.rows], every[width.rows :]
        rows = some % len(images)
        with torch.no_grad():
            made = changed(rows, some // len(images))
        parts.append(width(f.at(rows), made))
    return torch.cat(parts).double().view(count, len(images)).T


def evaluated(
    f: ScalarFn,
    images: Images,
    places: Int[Tensor, "b n"],
    starts: Int[Tensor, "b m s"],
    stops: Int[Tensor, "b m s"],
    changed: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> Float[Tensor, "b m s"]:
    """Return ``f`` of images of which the pixels at some places stay; equal masks are seen once.

    Args:
        f: What is explained.
        images: ``(b, c, h, w)``.
        places: The place of each pixel.
        starts: The first place that stays.
        stops: The place behind the last that stays.
        changed: Makes images of rows and of masks ``(r, 1, h, w)`` of what stays.
        batch_size: Images per forward pass at most.
    """
    empty = starts >= stops
    sides = places.shape[1] + 1
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    # One number for each mask, since rows of several are sorted slowly.
    keys = (rows * sides + starts.masked_fill(empty, 0)) * sides + stops.masked_fill(empty, 0)
    different, back = torch.unique(keys, return_inverse=True)
    width = Width(images, batch_size)
    parts: list[Tensor] = []
    with torch.no_grad():
        while len(different):
            some, different = different[: width.rows], different[width.rows :]
            row, low, high = some // sides**2, some // sides % sides, some % sides
            place = places[row]
            stays = (place >= low[:, None]) & (place < high[:, None])
            made = changed(row, stays.view(len(some), 1, *images.shape[2:]))
            parts.append(width(f.at(row), made))
    return torch.cat(parts)[back].view(starts.shape)


def removed(
    f: ScalarFn, images: Images, order: Order, ends: Int[Tensor, "b s"], fill: Fill, batch_size: int
) -> Float[Tensor, "b s"]:
    """Return ``f`` of images without the first ``ends`` segments of their order."""
    if bool((ends.diff(dim=1) == 0).any()):  # some images are equal, and seen once
        stops = order.counts[:, None, None].expand(-1, 1, ends.shape[1])
        changed = filled(images, fill)
        return evaluated(f, images, order.places, ends[:, None], stops, changed, batch_size)[:, 0]
    places, seen = shortened(order.places), layered(images, fill)
    bounds = ends.to(places.dtype)

    def without(numbers: Tensor) -> Callable[[slice], Images]:
        return lambda span: seen(
            span, kept(places[span, None] >= bounds[span][:, numbers, None], images)
        )

    return swept(f, images, ends.shape[1], without, batch_size)


def shortened(places: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Return places in half the memory, to be compared quickly."""
    return places.to(torch.int32)


def kept(stays: Bool[Tensor, "g k n"], images: Images) -> Bool[Tensor, "g k 1 h w"]:
    """Return which pixels stay in the shape of images."""
    return stays.view(*stays.shape[:2], 1, *images.shape[2:])
