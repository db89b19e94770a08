r"""Products: the exact curvature over training images times vectors, no matrix formed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp
from torch.nn import functional

from whence.core import Batch, Margin
from whence.curvature.diagonal import CHUNK_BYTES, check_names
from whence.curvature.draws import EveryClass
from whence.curvature.passes import TrainingImages, classes_of
from whence.errors import NumericsError
from whence.gradients import Block
from whence.gradients.forward import quiet
from whence.gradients.operator import Operator, Vectors
from whence.gradients.record import combined

__all__ = ["CurvatureKind", "CurvatureProduct"]

CurvatureKind = Literal["gauss-newton", "hessian"]
"""Which curvature of the cross-entropy: its Gauss-Newton matrix, which has no negative
eigenvalue, or the Hessian."""

Parameters = Mapping[str, Tensor]

PER_VECTOR = 2.0
"""Training steps that a product costs for each vector."""

PER_CLASS = 3.4
"""Training steps that products cost for each class, by gradients of classes."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CurvatureProduct(Operator):
    r"""The mean curvature of the cross-entropy over training images.

    Gauss-Newton: :math:`\frac1n \sum_i J_i^\top (\mathrm{diag}(p_i) - p_i p_i^\top) J_i`, a
    forward- and a reverse-mode derivative. Hessian: :math:`\frac1n \sum_i \nabla^2 \ell_i`,
    forward over reverse. Exact. A vector costs about two training steps over the images
    (Gauss-Newton), or three (Hessian); memory is that of one batch and of the vectors. For many
    vectors the Gauss-Newton matrix is taken as
    :math:`\frac1n \sum_i \sum_k p_{ik} \nabla \ell_k(x_i) \nabla \ell_k(x_i)^\top` instead: a
    backward pass for each class, however many vectors there are.

    Args:
        data: The training images.
        kind: Which curvature.

    References:
        Pearlmutter (1994), "Fast Exact Multiplication by the Hessian"; Schraudolph (2002), "Fast
        Curvature Matrix-Vector Products for Second-Order Gradient Descent".
    """

    data: TrainingImages
    kind: CurvatureKind = "gauss-newton"

    def at(self, indices: tuple[int, ...]) -> "CurvatureProduct":
        """Return the mean curvature over these training images alone."""
        return replace(self, data=replace(self.data, indices=indices))

    @torch.inference_mode(mode=False)
    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the products, ``{name: (q, *shape)}``; one pass over the images.

        Raises:
            NumericsError: If a product is NaN or infinite.
        """
        held = {name: p.detach() for name, p in self.data.network.parameters.items()}
        check_names(dict.fromkeys(self.data.recorder.names), vectors)
        shaped = {n: v.reshape(len(v), *held[n].shape).to(held[n]) for n, v in vectors.items()}
        count = len(next(iter(shaped.values())))
        by_class = count * PER_VECTOR > classes_of(self.data.network) * PER_CLASS
        if self.kind == "gauss-newton" and by_class:
            total = self.by_classes(shaped)
        else:
            total = self.by_vectors(shaped, held)
        for name, value in total.items():
            if not bool(value.isfinite().all()):
                msg = (
                    f"The curvature of {name!r} times a vector is NaN or infinite: the weights, "
                    f"the images or the vector are, or too large for their type."
                )
                raise NumericsError(msg)
        return {name: value.reshape(vectors[name].shape) for name, value in total.items()}

    def by_vectors(self, vectors: Parameters, held: Parameters) -> dict[str, Tensor]:
        """Return the products by derivatives along each vector."""
        staged = self.data.recorder.staged
        chosen = {name: held[name] for name in vectors}
        total = {name: torch.zeros_like(value) for name, value in vectors.items()}
        multiply = gauss_newton if self.kind == "gauss-newton" else hessian
        seen = 0
        for batch in self.data.batches(f"curvature: {self.kind}"):

            def logits(some: Parameters, images: Tensor = batch.images) -> Tensor:
                return staged.run(staged.prepare({**held, **some}), images)

            times = multiply(logits, chosen, batch)
            for row in range(len(next(iter(vectors.values())))):
                found = times({name: value[row] for name, value in vectors.items()})
                for name, value in found.items():
                    total[name][row] += value
            seen += len(batch.indices)
        return {name: value / seen for name, value in total.items()}

    def by_classes(self, vectors: Parameters) -> dict[str, Tensor]:
        """Return the products by the gradients of every class."""
        total = {name: torch.zeros_like(value.flatten(1)) for name, value in vectors.items()}
        draws, seen = EveryClass(), 0
        numbers = self.data.numbers(draws, None)
        for batch in self.data.batches(f"curvature: {self.kind}"):
            for gradients in self.data.draws(batch, draws, numbers):
                weights = gradients.dot(vectors)
                for name, blocks in gradients.blocks.items():
                    add_weighted(total[name], blocks, weights)
            seen += len(batch.indices)
        return {name: value / seen for name, value in total.items()}


def add_weighted(total: Tensor, blocks: tuple[Block, ...], weights: Tensor) -> None:
    """Add the images' gradients times weights ``(b, q)`` to a total ``(q, size)``."""
    first = blocks[0]
    step = max(1, CHUNK_BYTES // max(1, first.size * total.element_size()))
    for start in range(0, len(first), step):
        rows = combined([block.rows(start, start + step) for block in blocks])
        total.addmm_(weights[start : start + step].T, rows)


def gauss_newton(
    logits: Callable[[Parameters], Tensor], chosen: Parameters, batch: Batch
) -> Callable[[Parameters], Parameters]:
    """Return the sum of Gauss-Newton matrices of a batch, as a function of a vector."""
    del batch
    found, pull = vjp(logits, chosen)[:2]
    chances = found.softmax(dim=1)

    def times(vector: Parameters) -> Parameters:
        with quiet():
            pushed: Tensor = jvp(logits, (chosen,), (vector,))[1]
        weighed = chances * pushed
        return pull(weighed - chances * weighed.sum(dim=1, keepdim=True))[0]  # type: ignore[no-any-return]

    return times


def hessian(
    logits: Callable[[Parameters], Tensor], chosen: Parameters, batch: Batch
) -> Callable[[Parameters], Parameters]:
    """Return the sum of Hessians of a batch's cross-entropy, as a function of a vector."""
    target = Margin(batch.labels)

    def loss(some: Parameters) -> Tensor:
        return functional.softplus(-target(logits(some))).sum()

    def times(vector: Parameters) -> Parameters:
        with quiet():
            return jvp(grad(loss), (chosen,), (vector,))[1]  # type: ignore[no-any-return]

    return times
