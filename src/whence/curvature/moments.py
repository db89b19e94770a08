r"""Moments: second moments of what a layer sees, and of the gradients of what it gives.

The patches of a convolution overlap. Their second moment holds, for two offsets in the kernel, the
sum over positions of the products of two shifted images, and two pairs of offsets with the same
difference differ by a few rows and columns at the border only: of the 45 sums of a kernel of three
by three, 13 are made in full, and the others from these. The outcome is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import final

import torch
from torch import Tensor

from whence.curvature.diagonal import CHUNK_BYTES, lifted
from whence.gradients import FactoredBlock
from whence.gradients.patches import Patches

__all__ = ["input_moment", "moment", "patch_moment"]

FEW = 8
"""With fewer channels than this, products are too small to be worth the care."""

TILES = 4
"""Of a large symmetric product, tiles below the diagonal are copied: 10 of 16 are computed."""

LARGE = 256
"""Channels of a product that is made in tiles."""

Span = tuple[int, int]


def input_moment(block: FactoredBlock, *, ones: bool = False) -> Tensor:
    """Return the sum over images and positions of ``a a^T``, for each group ``(g, i, i)``.

    Args:
        block: Gradients whose inputs are taken.
        ones: Whether to add a constant 1 after the last input.
    """
    held = block.held
    if isinstance(held, Patches) and OverlapPlan.of(held).worthwhile:
        return patch_moment(held, ones=ones)
    return moment(block.input, ones=ones)


def moment(values: Tensor, *, ones: bool = False) -> Tensor:
    """Return sums over images and positions of ``v v^T`` for ``(b, g, c, t)``: ``(g, c, c)``.

    Args:
        values: Inputs, or gradients of outputs.
        ones: Whether to add a constant 1 after the last of ``c``.
    """
    rows, square = lifted(values.permute(1, 2, 0, 3).flatten(2))
    total = symmetric_product(rows).double() * square
    if not ones:
        return total
    rows = rows * square**0.5
    return with_ones(total, rows.sum(dim=2, dtype=torch.float64), len(values) * values.shape[3])


def with_ones(total: Tensor, sums: Tensor, count: int) -> Tensor:
    """Return second moments with those of a constant 1, whose products are sums."""
    groups, channels = sums.shape
    whole = total.new_full((groups, channels + 1, channels + 1), count)
    whole[:, :-1, :-1] = total
    whole[:, :-1, -1] = whole[:, -1, :-1] = sums
    return whole


def symmetric_product(rows: Tensor) -> Tensor:
    """Return ``rows @ rows^T`` for ``(g, c, n)``."""
    channels = rows.shape[1]
    if channels < LARGE:
        return rows @ rows.transpose(1, 2)
    found = rows.new_empty(len(rows), channels, channels)
    step = -(-channels // TILES)
    for start in range(0, channels, step):
        stop = start + step
        part = rows[:, start:stop] @ rows[:, start:].transpose(1, 2)
        found[:, start:stop, start:] = part
        found[:, stop:, start:stop] = part[:, :, step:].transpose(1, 2)
    return found


@final
@dataclass(frozen=True)
class Family:
    """Pairs of offsets along one axis whose products are the same but for the border.

    Args:
        first: Where the first pair's left window starts, and its right one.
        shifts: By the pair of offsets: by how many positions it is moved from the first pair.
    """

    first: Span
    shifts: tuple[tuple[Span, int], ...]


@final
@dataclass(frozen=True)
class Axis:
    """A convolution along rows, or along columns.

    Args:
        kernel: Offsets.
        dilation: Between offsets.
        stride: Between positions.
        places: Positions.
        before: Zeros before the image.
        size: Of the image.
    """

    kernel: int
    dilation: int
    stride: int
    places: int
    before: int
    size: int

    @cached_property
    def families(self) -> dict[Span, Family]:
        """Families by their phase in the stride, and their difference."""
        found: dict[Span, list[Span]] = {}
        for left, right in product(range(self.kernel), repeat=2):
            key = (left * self.dilation % self.stride, right - left)
            found.setdefault(key, []).append((left, right))
        return {
            key: Family(
                first=(pairs[0][0] * self.dilation, pairs[0][1] * self.dilation),
                shifts=tuple(
                    (pair, (pair[0] - pairs[0][0]) * self.dilation // self.stride) for pair in pairs
                ),
            )
            for key, pairs in found.items()
        }

    def inside(self, start: int, span: Span) -> Span:
        """Return the positions of a span at which a window that starts there is in the image."""
        low = max(span[0], -(-(self.before - start) // self.stride))
        high = min(span[1], -(-(self.before + self.size - start) // self.stride))
        return low, max(low, high)

    def both(self, first: Span, span: Span) -> Span:
        """Return the positions of a span at which both windows of a pair are in the image."""
        return self.inside(first[1], self.inside(first[0], span))


@final
@dataclass(frozen=True)
class OverlapPlan:
    """How the second moment of patches is made.

    Args:
        rows: The convolution along rows.
        columns: And along columns.
        channels: Channels of a group.
    """

    rows: Axis
    columns: Axis
    channels: int

    @staticmethod
    def of(patches: Patches) -> "OverlapPlan":
        """Return the plan for some patches."""
        left, _, top, _ = patches.padding
        high, wide = patches.source.shape[2:]
        down, across = (
            Axis(kernel, dilation, stride, places, before, size)
            for kernel, dilation, stride, places, before, size in zip(
                patches.kernel,
                patches.dilation,
                patches.stride,
                patches.places,
                (top, left),
                (high, wide),
                strict=True,
            )
        )
        return OverlapPlan(down, across, patches.source.shape[1] // patches.groups)

    def pairs(self) -> Iterator[tuple[Family, Family]]:
        """Yield the families of rows and columns above the diagonal."""
        for (_, down), vertical in self.rows.families.items():
            for (_, across), horizontal in self.columns.families.items():
                if down > 0 or (down == 0 and across >= 0):
                    yield vertical, horizontal

    @property
    def worthwhile(self) -> bool:
        """Whether this takes less than half of the products of all patches."""
        if self.channels < FEW:
            return False
        offsets, places = self.rows.kernel * self.columns.kernel, self.places
        return 2 * self.positions() < offsets * offsets * places

    @property
    def places(self) -> int:
        """Positions of the kernel."""
        return self.rows.places * self.columns.places

    def positions(self) -> int:
        """Return at how many positions products are made, for each pair of channels."""
        total = 0
        for vertical, horizontal in self.pairs():
            total += self.places
            for _, n in horizontal.shifts[1:]:
                total += 2 * n * self.rows.places
            for _, m in vertical.shifts[1:]:
                total += 2 * m * self.columns.places * len(horizontal.shifts)
        return total


def patch_moment(patches: Patches, *, ones: bool = False) -> Tensor:
    """Return the second moment of patches, from products of shifted images.

    Args:
        patches: What a convolution sees.
        ones: Whether to add a constant 1 after the last element of a patch.
    """
    images, groups, elements, places = patches.shape
    plan = OverlapPlan.of(patches)
    size = max(1, places * patches.source.shape[1] * patches.source.element_size())
    offsets = patches.kernel[0] * patches.kernel[1]
    step = max(1, CHUNK_BYTES // (size * offsets))
    shape = (offsets, offsets, groups, plan.channels, plan.channels)
    total = torch.zeros(shape, dtype=torch.float64, device=patches.source.device)
    sums = total.new_zeros(groups, plan.channels, offsets)
    for start in range(0, images, step):
        shifted = Shifted(patches.rows(start, start + step), plan)
        shifted.add_products(total)
        if ones:
            shifted.add_sums(sums)
    for first, second in combinations(range(offsets), 2):
        total[second, first] = total[first, second].transpose(1, 2)
    flat = total.permute(2, 3, 0, 4, 1).reshape(groups, elements, elements)
    return with_ones(flat, sums.flatten(1), images * places) if ones else flat


class Shifted:
    """Windows of padded images, ``(g, c, b, h, w)``."""

    def __init__(self, patches: Patches, plan: OverlapPlan) -> None:
        padded = patches.padded()
        grouped = padded.reshape(len(padded), patches.groups, -1, *padded.shape[2:])
        self.images = grouped.permute(1, 2, 0, 3, 4).contiguous()
        self.plan = plan

    def window(self, start: Span, rows: Span, columns: Span) -> Tensor:
        """Return the values at some positions of a window that starts there, ``(g, c, n)``."""
        down, across = self.plan.rows.stride, self.plan.columns.stride
        top, left = start[0] + rows[0] * down, start[1] + columns[0] * across
        high, wide = rows[1] - rows[0], columns[1] - columns[0]
        over_rows = slice(top, top + (high - 1) * down + 1, down)
        over_columns = slice(left, left + (wide - 1) * across + 1, across)
        return self.images[..., over_rows, over_columns].flatten(2)

    def bases(self) -> Iterator[tuple[Family, Family, Tensor]]:
        """Yield families of rows and columns with the products of their first pairs.

        All pairs with the same left window are multiplied at once.
        """
        plan = self.plan
        everywhere = (0, plan.rows.places), (0, plan.columns.places)
        starts = [
            (a * plan.rows.dilation, b * plan.columns.dilation)
            for a, b in product(range(plan.rows.kernel), range(plan.columns.kernel))
        ]
        windows = torch.stack([self.window(start, *everywhere) for start in starts], dim=1)
        places = {start: number for number, start in enumerate(starts)}
        by_left: dict[int, list[tuple[int, Family, Family]]] = {}
        for vertical, horizontal in plan.pairs():
            left, right = (places[vertical.first[i], horizontal.first[i]] for i in (0, 1))
            by_left.setdefault(left, []).append((right, vertical, horizontal))
        for left, members in by_left.items():
            members.sort(key=lambda member: member[0])
            rights = [right for right, _, _ in members]
            near = rights == list(range(rights[0], rights[-1] + 1))
            chosen = windows[:, rights[0] : rights[-1] + 1] if near else windows[:, rights]
            found = windows[:, left] @ chosen.flatten(1, 2).transpose(1, 2)
            parts = torch.split(found, plan.channels, dim=2)
            for part, (_, vertical, horizontal) in zip(parts, members, strict=True):
                yield vertical, horizontal, part.double()

    def products(self, vertical: Family, horizontal: Family, rows: Span, columns: Span) -> Tensor:
        """Return the products of a first pair of windows at some positions, ``(g, c, c)``."""
        rows = self.plan.rows.both(vertical.first, rows)
        columns = self.plan.columns.both(horizontal.first, columns)
        if rows[0] == rows[1] or columns[0] == columns[1]:
            channels = self.plan.channels
            return self.images.new_zeros(len(self.images), channels, channels).double()
        left, right = (
            self.window((vertical.first[i], horizontal.first[i]), rows, columns) for i in (0, 1)
        )
        return (left @ right.transpose(1, 2)).double()

    def add_products(self, total: Tensor) -> None:
        """Add the products of all pairs of windows, the first no later in the kernel."""
        high, wide = self.plan.rows.places, self.plan.columns.places
        for vertical, horizontal, base in self.bases():
            for columns, n in horizontal.shifts:
                moved = base
                if n:
                    moved = base + self.products(vertical, horizontal, (0, high), (wide, wide + n))
                    moved -= self.products(vertical, horizontal, (0, high), (0, n))
                for rows, m in vertical.shifts:
                    found = moved
                    if m:
                        span = (n, wide + n)
                        found = moved + self.products(vertical, horizontal, (high, high + m), span)
                        found -= self.products(vertical, horizontal, (0, m), span)
                    self.put(total, rows, columns, found)

    def put(self, total: Tensor, rows: Span, columns: Span, found: Tensor) -> None:
        """Add the products of a pair of offsets."""
        width = self.plan.columns.kernel
        first, second = rows[0] * width + columns[0], rows[1] * width + columns[1]
        total[first, second] += found

    def add_sums(self, sums: Tensor) -> None:
        """Add the sums of all windows."""
        plan = self.plan
        for a, b in product(range(plan.rows.kernel), range(plan.columns.kernel)):
            start = (a * plan.rows.dilation, b * plan.columns.dilation)
            window = self.window(start, (0, plan.rows.places), (0, plan.columns.places))
            sums[:, :, a * plan.columns.kernel + b] += window.sum(dim=2, dtype=torch.float64)
