r"""Methods that hide parts of the image and look at the value: windows, and random masks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size, forward_pace
from whence.attribution.gradient import check_values, evaluate, observing, owned, sum_dtype
from whence.attribution.stepwise import start_of
from whence.core import Baseline, Images, ScalarFn, Zero
from whence.errors import SettingError

__all__ = ["RISE", "Occlusion", "seen_through"]


@final
@dataclass(frozen=True, kw_only=True)
class Occlusion:
    r"""How much the value falls when a window of the image is hidden.

    .. math:: a_p = \frac{1}{|\{w \ni p\}|} \sum_{w \ni p} \big(f(x) - f(x_{\setminus w})\big)

    over all windows ``w`` on a grid of ``stride`` that hold the pixel; the last row and column of
    windows may stick out, so that every pixel is hidden at least once. Exact, and without
    gradients. The values add up to nothing in particular. Cost: half a pass for each window and
    one for the image: ``(h / stride) * (w / stride)`` windows, about.

    Args:
        window: Side of the square window, in pixels.
        stride: Pixels from one window to the next, at most the window's side.
        fill: What is put in place of the window.
        batch_size: Masked images per internal batch; chosen by memory if None.

    References:
        Zeiler and Fergus (2014), "Visualizing and Understanding Convolutional Networks",
        section 4.2.
    """

    window: int = 16
    stride: int = 8
    fill: Baseline = field(default_factory=Zero)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        if not 1 <= self.stride <= self.window:
            msg = (
                f"stride is at least 1 and at most the window's side, so that no pixel is left "
                f"out; got stride={self.stride} and window={self.window}."
            )
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one value per pixel, ``(b, 1, h, w)``."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the values with their cost."""
        with observing():
            images = owned(images)
            pace = forward_pace(f, images, self.batch_size)
            explained = evaluate(f, images, pace)
            corners = self.corners(images)
            values = seen_through(
                f, images, self.fill, len(corners), lambda i, j: self.masks(images, i, j), pace
            )
            falls = (explained - values).to(sum_dtype(images))
            total = torch.zeros_like(images[:, :1], dtype=falls.dtype)
            times = torch.zeros_like(total[:1])
            for (top, left), fall in zip(corners, falls, strict=True):
                inside = (..., slice(top, top + self.window), slice(left, left + self.window))
                total[inside] += fall.view(-1, 1, 1, 1)
                times[inside] += 1
            return Account(
                values=(total / times).to(images.dtype),
                passes=FORWARD * (len(corners) + 1),
                explained=explained,
            )

    def corners(self, images: Images) -> list[tuple[int, int]]:
        """Return the top left corners of the windows."""
        rows, columns = (
            range(0, max(size - self.window + self.stride - 1, 0) + 1, self.stride)
            for size in images.shape[2:]
        )
        return [(top, left) for top in rows for left in columns]

    def masks(self, images: Images, begin: int, end: int) -> Tensor:
        """Return the masks of some windows, ``(k, 1, h, w)``: 0 inside and 1 outside."""
        masks = torch.ones_like(images[:1, :1]).repeat(end - begin, 1, 1, 1)
        for mask, (top, left) in zip(masks, self.corners(images)[begin:end], strict=True):
            mask[:, top : top + self.window, left : left + self.window] = 0
        return masks


@final
@dataclass(frozen=True, kw_only=True)
class RISE:
    r"""The mean of random masks, each weighted by the value of the image seen through it.

    .. math:: a_p = \frac{1}{n\, q} \sum_{s=1}^{n} f\big(x \odot m_s + \bar x \odot (1 - m_s)\big)
              \, m_{s,p}

    with masks of ``cells`` by ``cells`` coins of probability ``q``, enlarged bilinearly and
    shifted at random. A Monte Carlo estimate of the mean value given that the pixel is seen; the
    error falls as one over the root of ``masks`` and grows with the size of ``f``, so explain a
    probability, or a logit of moderate size. All images see the same masks.
    Cost: half a pass for each mask.

    Args:
        masks: Number of masks.
        cells: Coins along each side of the image.
        probability: Of a coin to show the image.
        fill: What is seen where a mask is zero.
        seed: Seed of the masks, which are drawn on the CPU for every device alike.
        batch_size: Masked images per internal batch; chosen by memory if None.

    References:
        Petsiuk, Das and Saenko (2018), "RISE: Randomized Input Sampling for Explanation of
        Black-box Models", Eq. 6 and section 3.2.
    """

    masks: int = 2000
    cells: int = 7
    probability: float = 0.5
    fill: Baseline = field(default_factory=Zero)
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        if min(self.masks, self.cells) < 1:
            msg = f"masks and cells must be at least 1; got {self.masks} and {self.cells}."
            raise SettingError(msg)
        if not 0 < self.probability <= 1:
            msg = f"probability is above 0 and at most 1; got {self.probability}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one value per pixel, ``(b, 1, h, w)``."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the values with their cost."""
        with observing():
            images = owned(images)
            pace = forward_pace(f, images, self.batch_size)
            total = torch.zeros_like(images[:, :1], dtype=sum_dtype(images))

            def masks(begin: int, end: int) -> Tensor:
                drawn = [
                    self.mask((images.shape[2], images.shape[3]), i) for i in range(begin, end)
                ]
                return torch.stack(drawn).to(images)

            def add(begin: int, end: int, values: Tensor) -> None:
                weights = values.to(total.dtype)
                seen = masks(begin, end).to(total.dtype)[:, 0]
                total.add_(torch.einsum("kb,khw->bhw", weights, seen)[:, None])

            seen_through(f, images, self.fill, self.masks, masks, pace, add)
            values = total / (self.masks * self.probability)
            return Account(values=values.to(images.dtype), passes=FORWARD * self.masks)

    def mask(self, size: tuple[int, int], index: int) -> Tensor:
        """Return one mask ``(1, h, w)``; it depends on the seed and its number alone."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        height, width = (-(-side // self.cells) for side in size)
        coins = torch.rand(1, 1, self.cells + 1, self.cells + 1, generator=generator)
        shown = (coins < self.probability).float()
        large = functional.interpolate(
            shown,
            size=((self.cells + 1) * height, (self.cells + 1) * width),
            mode="bilinear",
            align_corners=False,
        )
        top = int(torch.randint(height, (1,), generator=generator))
        left = int(torch.randint(width, (1,), generator=generator))
        return large[0, :, top : top + size[0], left : left + size[1]]


Masks = Callable[[int, int], Tensor]
"""Returns the masks from one number to another, ``(k, 1, h, w)``: 1 shows the image."""


def seen_through(
    f: ScalarFn,
    images: Images,
    fill: Baseline,
    count: int,
    masks: Masks,
    pace: Pace,
    each: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Return ``f`` of every image seen through every mask, ``(count, b)``.

    Args:
        f: The function to explain.
        images: The images, ``(b, c, h, w)``.
        fill: What is seen where a mask is zero.
        count: The number of masks.
        masks: Returns some of them.
        pace: How many masked images at a time.
        each: Is told the values ``(k, b)`` of masks from one number to another, as they come.
    """
    with observing():
        behind = start_of(fill, images)
        parts = []
        for begin, end in pace.spans(count, width=len(images)):
            shown = masks(begin, end)[:, None]
            columns = []
            for first, last in pace.spans(len(images), width=end - begin):
                own, back = images[first:last], behind[first:last]
                batch = (back + shown * (own - back)).flatten(0, 1)
                rows = torch.arange(first, last, device=images.device).repeat(end - begin)
                values = f.at(rows)(batch)
                check_values(values, len(rows))
                columns.append(values.reshape(end - begin, last - first))
            parts.append(torch.cat(columns, dim=1))
            if each is not None:
                each(begin, end, parts[-1])
        return torch.cat(parts)
