"""Fingerprints: a short name for exactly these weights, or exactly these data."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["fingerprint_data", "fingerprint_model", "fingerprint_tensor"]


def fingerprint_model(model: nn.Module, graph: str = "") -> str:
    """Return a SHA-256 of the model's weights, buffers and, if given, its graph as text.

    Two models agree if and only if every tensor of their state dicts agrees in name, type, shape
    and bytes, and their graphs agree as text. Costs one pass over the bytes.
    """
    digest = hashlib.sha256(graph.encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}|".encode())
            add_tensor(digest, value)
    return digest.hexdigest()


def fingerprint_tensor(value: Tensor) -> str:
    """Return a SHA-256 of one tensor's type, shape and bytes."""
    digest = hashlib.sha256()
    add_tensor(digest, value)
    return digest.hexdigest()


def fingerprint_data(samples: Iterable[tuple[str, int]]) -> str:
    """Return a SHA-256 of a dataset: the hash and the label of each sample, in order."""
    digest = hashlib.sha256()
    for sample, label in samples:
        digest.update(f"{sample}|{label}\n".encode())
    return digest.hexdigest()


def add_tensor(digest: "hashlib._Hash", value: Tensor) -> None:
    """Feed a tensor's type, shape and bytes to a digest."""
    value = value.detach().cpu().contiguous()
    digest.update(f"{value.dtype}|{tuple(value.shape)}|".encode())
    digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
