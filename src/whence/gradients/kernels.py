"""Kernels: matrix products by the fastest routine that this processor has for them."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["batched", "rows_times_rows"]

LARGE = 2**20
"""Multiply-adds of a product from which oneDNN's kernel pays for its call."""


def batched(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the products of ``(b, o, t)`` and ``(b, t, n)``: ``(b, o, n)``, written to ``out``."""
    if out is None:
        out = left.new_empty(len(left), left.shape[1], right.shape[2])
    kernel = quick(left, left.shape[1] * left.shape[2] * right.shape[2])
    if kernel is None or left.dtype != right.dtype:
        return torch.bmm(left, right, out=out)
    for one, two, place in zip(left, right, out, strict=True):
        place.copy_(kernel(one, two.T, None, "none", [], ""))
    return out


def rows_times_rows(left: Tensor, right: Tensor) -> Tensor:
    """Return the products of ``(b, n)`` and ``(q, n)``: ``(b, q)``."""
    kernel = quick(left, left.numel() * len(right))
    if kernel is None or left.dtype != right.dtype:
        return left @ right.T
    found: Tensor = kernel(left, right, None, "none", [], "")
    return found


def quick(values: Tensor, work: int) -> Any:  # noqa: ANN401 - an operation of torch
    """Return oneDNN's matrix product, where it is there and worth its call; else None.

    On processors for which BLAS has no kernel of its own it is up to twice as fast.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32 or work < LARGE:
        return None
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)
