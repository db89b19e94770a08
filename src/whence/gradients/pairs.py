r"""Pairs: a layer's part of products and norms of gradients, with its slope worked out by hand.

A layer with input ``A`` and gradient of its output ``D`` has, for each image, the weight gradient
:math:`G = D A^\top`, and gives to products with a query ``U`` and to squared norms

.. math:: \langle G, U \rangle = \langle D, U A \rangle , \qquad
          \lVert G \rVert^2 = \langle D^\top D, A^\top A \rangle .

Left to autograd, their slopes make every intermediate value twice. By hand, the slope of
:math:`p \langle G, U \rangle + s \lVert G \rVert^2` is two products,

.. math:: \partial_D = V A , \qquad \partial_A = V^\top D , \qquad V = p\,U + 2 s\,G ,

and where a layer has few positions ``V`` need not be formed.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from whence.core import Scalars
from whence.gradients.kernels import batched, rows_times_rows
from whence.gradients.patches import Patches

__all__ = ["Pair", "paired"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """What a layer's gradients are paired with.

    Args:
        patches: Of the layer's input, for a convolution; None for a linear layer.
        queries: ``(q, o, i)`` in place of the weight; no rows for norms alone.
        factors: ``(o, r)`` and ``(r, i)``, the factors of a single query where they are fewer
            numbers; None otherwise.
        gram: Whether norms come from inner products between positions, and not from gradients
            that are formed.
    """

    patches: Patches | None
    queries: Tensor
    factors: tuple[Tensor, Tensor] | None
    gram: bool

    def pulled(self, source: Tensor) -> Tensor:
        """Return ``U A`` for every image and query, ``(b, q, o, t)``."""
        count, wide, deep = self.queries.shape
        if not count:
            return source.new_zeros(len(source), 0, 1, 1)
        if self.factors is not None:
            left, right = self.factors
            return (left @ self.convolved(source, right))[:, None]
        found = self.convolved(source, self.queries.reshape(count * wide, deep))
        return found.reshape(len(source), count, wide, -1)

    def convolved(self, source: Tensor, weights: Tensor) -> Tensor:
        """Return ``(n, i)`` weights times the input at each position, ``(b, n, t)``."""
        if self.patches is None:
            return weights @ source[:, 0]
        return self.patches.over(source).convolved(weights[None])[:, 0]

    def pushed(self, source: Tensor, outputs: Tensor) -> Tensor:
        r"""Return :math:`\sum_q U_q^\top D_q`, shaped like the input, of ``(b, q, o, t)``."""
        count, wide, deep = self.queries.shape
        if self.factors is not None:
            left, right = self.factors
            weights, outputs = right, left.T @ outputs[:, 0]
        else:
            weights = self.queries.reshape(count * wide, deep)
            outputs = outputs.reshape(len(outputs), count * wide, -1)
        if self.patches is None:
            return (weights.T @ outputs)[:, None]
        return self.patches.over(source).convolved_back(weights, outputs)

    def pixels(self, source: Tensor) -> Tensor:
        """Return the input's vectors at its own positions, ``(b, p, c)``."""
        if self.patches is None:
            return source[:, 0].transpose(1, 2)
        return source.permute(0, 2, 3, 1).flatten(1, 2)

    def unpixels(self, values: Tensor, source: Tensor) -> Tensor:
        """Return vectors at the input's positions, shaped like the input."""
        if self.patches is None:
            return values.transpose(1, 2)[:, None]
        high, wide = source.shape[2:]
        return values.reshape(len(values), high, wide, -1).permute(0, 3, 1, 2)

    def laid_out(self) -> Tensor:
        """Return the queries as gradients are formed, ``(q, o * n)``: channels last."""
        if self.patches is None:
            return self.queries.flatten(1)
        kernel = self.patches.kernel[0] * self.patches.kernel[1]
        count, wide, deep = self.queries.shape
        shaped = self.queries.reshape(count, wide, deep // kernel, kernel)
        return shaped.transpose(2, 3).reshape(count, wide * deep)

    def rows(self, source: Tensor) -> Tensor:
        """Return the input at each position, ``(b, t, n)``, channels last."""
        if self.patches is None:
            return source[:, 0].transpose(1, 2)
        view = self.patches.over(source).by_position()
        return view.reshape(len(source), view.shape[1] * view.shape[2], -1)

    def unrows(self, values: Tensor, source: Tensor) -> Tensor:
        """Return the adjoint of :meth:`rows`, shaped like the input."""
        if self.patches is None:
            return values.transpose(1, 2)[:, None]
        return self.patches.over(source).folded(values)


def paired(output: Tensor, source: Tensor, pair: Pair) -> tuple[Tensor, Scalars]:
    """Return products with queries ``(b, q)`` and squared norms ``(b,)``, differentiable once.

    Args:
        output: Gradients of the layer's output, ``(b, 1, o, t)``.
        source: Its input: ``(b, c, h, w)`` for a convolution, else ``(b, 1, i, t)``.
        pair: What to pair with.
    """
    products, squares = Paired.apply(output, source, pair)  # type: ignore[no-untyped-call]
    return products, squares


class Paired(torch.autograd.Function):
    """Products and squared norms as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, source: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Return products and squared norms."""
        outputs = output[:, 0]
        ctx.pair = pair
        if not pair.gram:
            formed = batched(outputs, pair.rows(source))
            ctx.save_for_backward(output, source, formed)
            flat = formed.flatten(1)
            return rows_times_rows(flat, pair.laid_out()), flat.square().sum(dim=1)
        pixels = pair.pixels(source)
        inner = batched(pixels, pixels.transpose(1, 2))
        if pair.patches is not None:
            inner = pair.patches.over(source).diagonal_sums(inner)
        ours = batched(outputs.transpose(1, 2), outputs)
        pulled = pair.pulled(source)
        ctx.save_for_backward(output, source, ours, inner, pulled)
        return (pulled * output).sum(dim=(2, 3)), (ours * inner).sum(dim=(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, products: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """Return the slopes with respect to the output's gradients and to the input."""
        pair: Pair = ctx.pair
        twice = 2 * squares[:, None, None]
        if not pair.gram:
            output, source, formed = ctx.saved_tensors
            vectors = twice * formed
            if len(pair.queries):
                vectors += (products @ pair.laid_out()).view_as(formed)
            rows = pair.rows(source)
            slope = batched(vectors, rows.transpose(1, 2))
            back = pair.unrows(batched(output[:, 0].transpose(1, 2), vectors), source)
            return slope[:, None], back, None
        output, source, ours, inner, pulled = ctx.saved_tensors
        slope = batched(twice * output[:, 0], inner)
        if pair.patches is not None:
            ours = pair.patches.over(source).diagonal_spread(ours)
        back = pair.unpixels(batched(ours, twice * pair.pixels(source)), source)
        if len(pair.queries):
            shares = products[:, :, None, None]
            slope += (shares * pulled).sum(dim=1)
            back = back + pair.pushed(source, shares * output)
        return slope[:, None], back, None
