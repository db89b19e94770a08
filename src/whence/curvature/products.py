r"""Products: the exact curvature over training images times vectors, no matrix formed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp
from torch.nn import functional

from whence.core import Batch, Margin
from whence.curvature.diagonal import check_names
from whence.curvature.passes import TrainingImages
from whence.errors import NumericsError
from whence.gradients.forward import quiet
from whence.gradients.operator import Operator, Vectors

__all__ = ["CurvatureKind", "CurvatureProduct"]

CurvatureKind = Literal["gauss-newton", "hessian"]
"""Which curvature of the cross-entropy: its Gauss-Newton matrix, which has no negative
eigenvalue, or the Hessian."""

Parameters = Mapping[str, Tensor]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CurvatureProduct(Operator):
    r"""The mean curvature of the cross-entropy over training images.

    Gauss-Newton: :math:`\frac1n \sum_i J_i^\top (\mathrm{diag}(p_i) - p_i p_i^\top) J_i`, a
    forward- and a reverse-mode derivative. Hessian: :math:`\frac1n \sum_i \nabla^2 \ell_i`,
    forward over reverse. Exact. A vector costs about five forward passes over the images
    (Gauss-Newton), or nine (Hessian); memory is that of one batch and of the vectors.

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
        recorder = self.data.recorder
        check_names(dict.fromkeys(recorder.names), vectors)
        held = {name: p.detach() for name, p in self.data.network.parameters.items()}
        chosen = {name: held[name] for name in vectors}
        shaped = {n: v.reshape(len(v), *held[n].shape).to(held[n]) for n, v in vectors.items()}
        count = len(next(iter(shaped.values())))
        total = {name: torch.zeros_like(value) for name, value in shaped.items()}
        seen = 0
        multiply = gauss_newton if self.kind == "gauss-newton" else hessian
        for batch in self.data.batches(f"curvature: {self.kind}"):

            def logits(some: Parameters, images: Tensor = batch.images) -> Tensor:
                staged = recorder.staged
                return staged.run(staged.prepare({**held, **some}), images)

            times = multiply(logits, chosen, batch)
            for row in range(count):
                found = times({name: value[row] for name, value in shaped.items()})
                for name, value in found.items():
                    total[name][row] += value
            seen += len(batch.indices)
        for name, value in total.items():
            if not bool(value.isfinite().all()):
                msg = (
                    f"The curvature of {name!r} times a vector is NaN or infinite: the weights, "
                    f"the images or the vector are, or too large for their type."
                )
                raise NumericsError(msg)
        return {n: (value / seen).reshape(vectors[n].shape) for n, value in total.items()}


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
