"""Passes of which no gradient is wanted: the same values from quicker operations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["forward_only"]

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
def forward_only() -> Iterator[None]:
    """Record no gradients, and take the maximum over windows by slices where that is quicker.

    On a CPU torch looks for the place of each maximum too, which a gradient would need; it can
    take more time than the convolutions around it. The maximum of shifted slices is equal to the
    bit, and up to twenty times faster. Models are not touched: their calls are answered.
    """
    with torch.no_grad(), QuickPools():
        yield


@final
class QuickPools(TorchFunctionMode):
    """Answers calls of the maximum over windows; lets all other calls pass."""

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
        if func in POOLS:
            found = pooled(*args, **named)
            if found is not None:
                return found
        return func(*args, **named)


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
