"""Rows: named vectors as one matrix, a vector in each row, and back."""

import torch
from torch import Tensor

from whence.gradients.operator import Operator, Vectors

__all__ = ["along", "apply_to_rows", "as_rows", "as_vectors", "sizes_of"]


def as_rows(vectors: Vectors) -> Tensor:
    """Return vectors side by side in the order of their names as given, ``(q, p)``."""
    return torch.cat([value.flatten(1) for value in vectors.values()], dim=1)


def as_vectors(rows: Tensor, like: Vectors) -> dict[str, Tensor]:
    """Return rows ``(q, p)`` as named vectors of the shapes and types of others."""
    sizes = sizes_of(like)
    parts = torch.split(rows, list(sizes.values()), dim=1)
    return {
        name: part.reshape(len(rows), *like[name].shape[1:]).to(like[name])
        for name, part in zip(sizes, parts, strict=True)
    }


def sizes_of(vectors: Vectors) -> dict[str, int]:
    """Return the numbers per parameter of one vector."""
    return {name: value[0].numel() for name, value in vectors.items()}


def apply_to_rows(operator: Operator, rows: Tensor, like: Vectors) -> Tensor:
    """Return an operator's map of each row."""
    found = operator(as_vectors(rows, like))
    return as_rows({name: found[name] for name in like}).to(rows)


def along(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner products of rows with rows, pairwise, in double precision: ``(q,)``."""
    return torch.einsum("qp,qp->q", first.double(), second.double())
