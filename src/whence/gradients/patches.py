r"""Patches: what a convolution sees at each position, unfolded only when and where it is needed.

With a kernel of ``k`` positions the patches take ``k`` times the memory of the input; so products
are formed from the input itself where that is possible, and else for a few channels at a time.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Patches"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """The patches of a convolution's input.

    Args:
        source: The input, ``(b, c, h, w)``.
        kernel: Rows and columns of the kernel.
        stride: Of the kernel.
        padding: With zeros: left, right, top, bottom.
        dilation: Of the kernel.
        groups: Into how many the channels are parted.
    """

    source: Tensor
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of positions of the kernel."""
        left, right, top, bottom = self.padding
        sizes = (self.source.shape[2] + top + bottom, self.source.shape[3] + left + right)
        rows, columns = (
            (size - (k - 1) * d - 1) // s + 1
            for size, k, d, s in zip(sizes, self.kernel, self.dilation, self.stride, strict=True)
        )
        return rows, columns

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the patches: images, groups, elements of a patch, positions."""
        rows, columns = self.places
        elements = self.source.shape[1] // self.groups * self.kernel[0] * self.kernel[1]
        return len(self.source), self.groups, elements, rows * columns

    @property
    def pointwise(self) -> bool:
        """Whether the patches are the input itself."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)

    def rows(self, start: int, stop: int) -> "Patches":
        """Return the patches of some images."""
        return replace(self, source=self.source[start:stop])

    def padded(self) -> Tensor:
        """Return the input with its zeros around it."""
        if not any(self.padding):
            return self.source
        return functional.pad(self.source, self.padding)

    def unfolded(self) -> Tensor:
        """Return the patches, ``(b, g, i, t)``."""
        if self.pointwise:
            return self.source.reshape(self.shape)
        padded = self.padded()
        if torch.is_grad_enabled() and padded.requires_grad:
            (rows, columns), (down, right) = self.kernel, self.stride
            found = functional.unfold(padded, (rows, columns), self.dilation, 0, (down, right))
            return found.reshape(self.shape)
        padded = padded.contiguous()
        count, channels, high, wide = padded.shape
        windows = padded.as_strided(
            (count, channels, *self.kernel, *self.places),
            (channels * high * wide, high * wide, *self.steps(wide, 1)),
        )
        return windows.reshape(self.shape)

    def steps(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return strides over the kernel and over positions, from those of rows and columns."""
        return (
            self.dilation[0] * row,
            self.dilation[1] * column,
            self.stride[0] * row,
            self.stride[1] * column,
        )

    def by_position(self) -> Tensor:
        """Return a view ``(b, rows, columns, kernel, kernel, c)`` of the input, channels last.

        Memory is that of the input; a slice of its channels is what :mod:`compare` unfolds.
        """
        padded = self.padded().permute(0, 2, 3, 1).contiguous()
        count, high, wide, channels = padded.shape
        down, right, over_rows, over_columns = self.steps(wide * channels, channels)
        return padded.as_strided(
            (count, *self.places, *self.kernel, channels),
            (high * wide * channels, over_rows, over_columns, down, right, 1),
        )

    def convolved(self, weights: Tensor) -> Tensor:
        """Return products with ``(g, n, i)`` weights, ``(b, g, n, t)``; nothing is unfolded."""
        groups, count, _ = weights.shape
        shaped = weights.reshape(groups * count, -1, *self.kernel)
        left, right, top, bottom = self.padding
        even = (left, top) == (right, bottom)
        found = functional.conv2d(
            self.source if even else self.padded(),
            shaped,
            None,
            self.stride,
            (top, left) if even else 0,
            self.dilation,
            groups,
        )
        return found.reshape(len(self.source), groups, count, -1)

    def gram(self) -> Tensor:
        r"""Return inner products of an image's patches with each other, ``(b, g, t, t)``.

        Those of pixels, summed along the diagonals that the kernel spans:

        .. math:: (A^\top A)_{ts} = \sum_\delta \langle x_{t + \delta}, x_{s + \delta} \rangle .
        """
        count, channels, high, wide = self.source.shape
        pixels = self.source.reshape(count, self.groups, channels // self.groups, high * wide)
        products = pixels.transpose(2, 3) @ pixels
        if self.pointwise:
            return products
        found = products.reshape(count * self.groups, high, wide, high, wide)
        left, right, top, bottom = self.padding
        if any(self.padding):
            found = functional.pad(found, (left, right, top, bottom) * 2)
        for axis in (0, 1):
            found = self.summed(found, axis)
        places = self.places[0] * self.places[1]
        return found.reshape(count, self.groups, places, places)

    def summed(self, values: Tensor, axis: int) -> Tensor:
        """Return products summed over the kernel's rows, or its columns."""
        step, count = self.stride[axis], self.places[axis]
        total: Tensor | None = None
        for offset in range(self.kernel[axis]):
            start = offset * self.dilation[axis]
            chosen = slice(start, start + (count - 1) * step + 1, step)
            part = values[:, chosen, :, chosen] if axis == 0 else values[:, :, chosen, :, chosen]
            total = part if total is None else total + part
        return values if total is None else total

    def gram_cost(self) -> int:
        """Return the multiply-adds of :meth:`gram` for an image, and its additions."""
        high, wide = self.source.shape[2:]
        pixels = high * wide
        around = (high + sum(self.padding[2:])) * (wide + sum(self.padding[:2]))
        additions = sum(self.kernel) * around * around * self.groups
        return pixels * pixels * self.source.shape[1] + (0 if self.pointwise else 4 * additions)
