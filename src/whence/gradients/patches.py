r"""Patches: what a convolution sees at each position, unfolded only when and where it is needed.

With a kernel of ``k`` positions the patches take ``k`` times the memory of the input; so products
are formed from the input itself where that is possible, and else for a few channels at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

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

    def over(self, source: Tensor) -> "Patches":
        """Return the same patches of another input."""
        return replace(self, source=source)

    def convolved_back(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the adjoint of :meth:`convolved` for one group, shaped like the input.

        Args:
            weights: ``(n, i)``.
            values: ``(b, n, t)``.
        """
        shaped = weights.reshape(len(weights), -1, *self.kernel)
        outputs = values.reshape(*values.shape[:2], *self.places)
        left, right, top, bottom = self.padding
        even = (left, top) == (right, bottom)
        count, channels, high, wide = self.source.shape
        if not even:
            high, wide = high + top + bottom, wide + left + right
        found: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
            (count, channels, high, wide),
            shaped,
            outputs,
            self.stride,
            (top, left) if even else 0,
            self.dilation,
        )
        return found if even else self.cropped(found)

    def cropped(self, padded: Tensor) -> Tensor:
        """Return a padded input without its padding."""
        left, right, top, bottom = self.padding
        return padded[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right]

    def folded(self, values: Tensor) -> Tensor:
        """Return the adjoint of :meth:`by_position`, of ``(b, t, kernel * kernel * c)``."""
        count, channels, high, wide = self.source.shape
        left, right, top, bottom = self.padding
        found = values.new_zeros(count, high + top + bottom, wide + left + right, channels)
        parts = values.reshape(count, *self.places, *self.kernel, channels)
        spans = [(self.places[k] - 1) * self.stride[k] + 1 for k in (0, 1)]
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                y, x = row * self.dilation[0], column * self.dilation[1]
                window = found[
                    :, y : y + spans[0] : self.stride[0], x : x + spans[1] : self.stride[1]
                ]
                window += parts[:, :, :, row, column]
        return self.cropped(found.permute(0, 3, 1, 2))

    def gram(self) -> Tensor:
        """Return inner products of an image's patches with each other, ``(b, g, t, t)``."""
        count, channels, high, wide = self.source.shape
        pixels = self.source.reshape(count, self.groups, channels // self.groups, high * wide)
        products = (pixels.transpose(2, 3) @ pixels).flatten(0, 1)
        return self.diagonal_sums(products).reshape(count, self.groups, *[self.shape[3]] * 2)

    def diagonal_sums(self, products: Tensor) -> Tensor:
        r"""Return inner products of patches, from those of pixels: ``(b, p, p)`` to ``(b, t, t)``.

        Summed along the diagonals that the kernel spans, rows first, then columns:

        .. math:: (A^\top A)_{ts} = \sum_\delta \langle x_{t + \delta}, x_{s + \delta} \rangle .
        """
        if self.pointwise:
            return products
        (high, wide), (rows, columns) = self.source.shape[2:], self.places
        found = products.reshape(-1, high, wide, high, wide)
        some = found.new_zeros(len(found), rows, wide, rows, wide)
        for into, of in self.spans(0):
            some[:, into, :, into] += found[:, of, :, of]
        every = found.new_zeros(len(found), rows, columns, rows, columns)
        for into, of in self.spans(1):
            every[:, :, into, :, into] += some[:, :, of, :, of]
        return every.reshape(len(found), rows * columns, rows * columns)

    def diagonal_spread(self, products: Tensor) -> Tensor:
        """Return the adjoint of :meth:`diagonal_sums`: ``(b, t, t)`` to ``(b, p, p)``."""
        if self.pointwise:
            return products
        (high, wide), (rows, columns) = self.source.shape[2:], self.places
        every = products.reshape(-1, rows, columns, rows, columns)
        some = every.new_zeros(len(every), rows, wide, rows, wide)
        for of, into in self.spans(1):
            some[:, :, into, :, into] += every[:, :, of, :, of]
        found = every.new_zeros(len(every), high, wide, high, wide)
        for of, into in self.spans(0):
            found[:, into, :, into] += some[:, of, :, of]
        return found.reshape(len(every), high * wide, high * wide)

    def spans(self, axis: int) -> Iterator[tuple[slice, slice]]:
        """Yield for each row, or column, of the kernel: which positions see which pixels with it.

        Positions at which it lies in the padding are left out.
        """
        step, count, before = self.stride[axis], self.places[axis], self.padding[2 - 2 * axis]
        size = self.source.shape[2 + axis]
        for offset in range(self.kernel[axis]):
            shift = offset * self.dilation[axis] - before
            first = max(0, -(shift // step))
            last = min(count - 1, (size - 1 - shift) // step)
            if first <= last:
                start = first * step + shift
                yield (
                    slice(first, last + 1),
                    slice(start, start + (last - first) * step + 1, step),
                )

    def gram_cost(self) -> int:
        """Return the multiply-adds of :meth:`gram` for an image, and its additions."""
        high, wide = self.source.shape[2:]
        pixels = high * wide
        around = (high + sum(self.padding[2:])) * (wide + sum(self.padding[:2]))
        additions = sum(self.kernel) * around * around * self.groups
        return pixels * pixels * self.source.shape[1] + (0 if self.pointwise else 4 * additions)
