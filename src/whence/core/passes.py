"""Passes of which no gradient is wanted: the same values from quicker operations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from whence.core.types import Images, Scalars

__all__ = ["Width", "forward_only"]

ROOM: Final = 16 * 2**20
"""Bytes that the largest feature map of a batch may take on a CPU: beyond, it is paged in anew."""

GUESS: Final = 32
"""Size of a network's largest feature map as a multiple of the image's, until it was seen."""

POOLS: Final = frozenset(
    {
        torch.max_pool2d,
        functional.max_pool2d,
        torch.ops.aten.max_pool2d,
        torch.ops.aten.max_pool2d.default,
    }
)
"""All names of the maximum over windows."""


@contextmanager
def forward_only() -> Iterator["QuickPools"]:
    """Record no gradients, and take the maximum over windows by slices where that is quicker.

    On a CPU torch looks for the place of each maximum too, which a gradient would need; it can
    take more time than the convolutions around it. The maximum of shifted slices is equal to the
    bit, and up to twenty times faster. Models are not touched: their calls are answered. What is
    yielded tells the size of the largest tensor that a call has returned.
    """
    with torch.no_grad(), QuickPools() as watched:
        yield watched


@final
class Width:
    """How many images go through a network at once.

    On a CPU a pass of many images is slower for each of them than one of few, as soon as feature
    maps no longer fit into memory that is at hand. So after each pass the next ones are as wide as
    the largest feature map seen allows. Nothing is timed: equal work is cut into equal batches.

    Args:
        images: What they look like.
        most: Images at once at most.
    """

    def __init__(self, images: Images, most: int) -> None:
        """Guess from the size of an image."""
        self.most = most
        self.bounded = images.device.type == "cpu"
        size = GUESS * images[0].numel() * images.element_size()
        self.rows = max(1, min(most, ROOM // size)) if self.bounded else most

    def __call__(self, f: Callable[[Images], Scalars], images: Images) -> Scalars:
        """Return ``f(images)``, without a gradient, and learn from it."""
        with forward_only() as watched:
            watched.rows = len(images)
            found = f(images)
        if self.bounded and watched.largest:
            self.rows = max(1, min(self.most, ROOM * len(images) // watched.largest))
        return found


@final
class QuickPools(TorchFunctionMode):
    """Answers calls of the maximum over windows; lets all other calls pass, and watches them.

    ``largest`` is the size in bytes of the largest tensor that was returned, of those that can
    hold something of each of ``rows`` images.
    """

    rows = 1
    largest = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        """Call the function, or what equals it."""
        del types
        named = kwargs or {}
        found = pooled(*args, **named) if func in POOLS else None
        if found is None:
            found = func(*args, **named)
        if isinstance(found, Tensor) and found.ndim and found.shape[0] % self.rows == 0:
            self.largest = max(self.largest, found.numel() * found.element_size())
        return found


def pooled(
    input: Tensor | None = None,  # noqa: A002 - as torch names it
    kernel_size: Any = None,  # noqa: ANN401 - a number, or one for each axis
    stride: Any = None,  # noqa: ANN401 - the same
    padding: Any = 0,  # noqa: ANN401 - the same
    dilation: Any = 1,  # noqa: ANN401 - the same
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 - as torch calls it
    return_indices: bool = False,  # noqa: FBT001, FBT002 - the same
    **others: object,
) -> Tensor | None:
    """Return the maximum over windows, or None where torch must or better does it itself."""
    windows = [of_axes(value) for value in (kernel_size, stride or kernel_size, padding, dilation)]
    if others or input is None or ceil_mode or return_indices or None in windows:
        return None
    if input.requires_grad and torch.is_grad_enabled():
        return None
    plain = input.device.type == "cpu" and input.is_floating_point() and input.is_contiguous()
    (high, wide), strides, (above, left), steps = windows  # type: ignore[misc]
    if not plain or input.ndim != 4 or steps != (1, 1):  # noqa: PLR2004 - b c h w
        return None
    if 2 * above > high or 2 * left > wide or (high, wide) == (1, 1):
        return None  # torch says why not, or makes a copy
    images = input
    if above or left:
        images = functional.pad(images, (left, left, above, above), value=-torch.inf)
    if images.shape[2] < high or images.shape[3] < wide:
        return None
    return largest(largest(images, 2, high, strides[0]), 3, wide, strides[1])  # type: ignore[index]


def largest(images: Tensor, axis: int, window: int, stride: int) -> Tensor:
    """Return the maximum over windows along one axis."""
    count = (images.shape[axis] - window) // stride + 1
    slices = [slice(None)] * images.ndim
    found: Tensor | None = None
    for start in range(window):
        slices[axis] = slice(start, start + stride * (count - 1) + 1, stride)
        shifted = images[tuple(slices)]
        found = shifted if found is None else torch.maximum(found, shifted)
    return images if found is None else found


def of_axes(value: object) -> tuple[int, int] | None:
    """Return a setting for both axes, or None if it is no number, nor two."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) in (1, 2):
        first, last = value[0], value[-1]
        if isinstance(first, int) and isinstance(last, int):
            return first, last
    return None
