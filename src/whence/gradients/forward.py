r"""Forward mode: inner products of example gradients with a few vectors, no gradient formed.

The change of every image's target when the weights move along :math:`u`,

.. math:: \langle \nabla_\theta F_i, u \rangle
          = \frac{d}{d\epsilon} F_i(\theta + \epsilon u) \Big|_{\epsilon = 0} ,

comes for a whole batch from one pass that carries each value with its change.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from whence.core import Images, Logits, Target
from whence.gradients.blocks import Block
from whence.gradients.record import Recorder, side_by_side

__all__ = ["ForwardMode", "quiet"]

Prepared = tuple[tuple[Tensor, Tensor | None], ...]
"""Every value made of parameters, with its change along a vector."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ForwardMode:
    """Vectors, ready for forward-mode passes.

    A pass costs about three forward passes for each vector, whatever the architecture, and keeps
    two values alive at a time. Norms of gradients do not come of it.

    Args:
        recorder: Of the network.
        prepared: For each vector every value made of parameters, with its change.
    """

    recorder: Recorder
    prepared: tuple[Prepared, ...]

    @staticmethod
    def of(recorder: Recorder, vectors: Mapping[str, Block]) -> "ForwardMode":
        """Prepare vectors, one block for each parameter; parameters left out do not move."""
        parameters = recorder.network.parameters
        dense = {
            name: block.materialise().reshape(len(block), *parameters[name].shape)
            for name, block in vectors.items()
        }
        count = next((len(block) for block in vectors.values()), 0)
        return ForwardMode(
            recorder=recorder,
            prepared=tuple(
                along(recorder, {n: v[i] for n, v in dense.items()}) for i in range(count)
            ),
        )

    def __call__(self, images: Images, target: Target) -> tuple[Tensor, Logits]:
        """Return inner products with the vectors, ``(b, q)``, and the logits."""
        self.recorder.network.check(images)
        images = side_by_side(images)
        columns = []
        logits: Tensor | None = None
        with quiet(), torch.no_grad():
            for values in self.prepared:
                with forward_ad.dual_level():
                    held = [
                        primal if tangent is None else forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
                        for primal, tangent in values
                    ]
                    moved = self.recorder.staged.run(held, images)
                    value, change = forward_ad.unpack_dual(target(moved))  # type: ignore[no-untyped-call]
                    columns.append(torch.zeros_like(value) if change is None else change)
                    logits = forward_ad.unpack_dual(moved).primal  # type: ignore[no-untyped-call]
            if logits is None:
                logits = self.recorder.network(images)
                return logits.new_zeros(len(images), 0), logits
        return torch.stack(columns, dim=1), logits


def along(recorder: Recorder, vector: Mapping[str, Tensor]) -> Prepared:
    """Return every value made of parameters, with its change along a vector."""
    with quiet(), torch.no_grad(), forward_ad.dual_level():
        parameters = {
            name: forward_ad.make_dual(p.detach(), vector[name].to(p))  # type: ignore[no-untyped-call]
            if name in vector
            else p.detach()
            for name, p in recorder.network.parameters.items()
        }
        pairs = [forward_ad.unpack_dual(v) for v in recorder.staged.prepare(parameters)]  # type: ignore[no-untyped-call]
        return tuple(
            (side_by_side(value), None if change is None else side_by_side(change))
            for value, change in pairs
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Hide a deprecation inside PyTorch, which the first forward-mode pass of a process trips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
