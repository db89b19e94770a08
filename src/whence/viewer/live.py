"""What the viewer needs of whoever computes: a recipe gives it, so that no torch is needed here."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from whence.results import AuditRecord, ExplanationRecord

__all__ = ["Live", "Picked", "Told"]

Picked = bytes | tuple[str, int]
"""A picture: the bytes of an image file, or the name of a dataset and a place in it."""


@runtime_checkable
class Told(Protocol):
    """Called as work goes on; raises to stop it."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` units of the named stage are finished."""
        ...


@runtime_checkable
class Live(Protocol):
    """Networks with their data, ready to answer about one picture at a time."""

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks; the first is the one that is traced."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the first network's classes."""
        ...

    @property
    def methods(self) -> tuple[tuple[str, str], ...]:
        """Name and cost of every method."""
        ...

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """Datasets to choose pictures from, and how many they have."""
        ...

    @property
    def traces(self) -> bool:
        """Whether there are training images to trace a prediction to."""
        ...

    @property
    def note(self) -> str:
        """What a person must know; empty if nothing."""
        ...

    def pictures(
        self, source: str, places: Sequence[int]
    ) -> tuple[tuple[int, str, str, NDArray[np.uint8]], ...]:
        """Return place, name, class and picture of some images of a dataset."""
        ...

    def explain(
        self,
        image: Picked,
        name: str,
        *,
        network: str,
        method: str,
        settings: Sequence[str],
        target: str,
        versus: str,
        progress: Told,
    ) -> ExplanationRecord:
        """Return which pixels of one picture the prediction of one network comes from."""
        ...

    def trace(
        self,
        image: Picked,
        explained: ExplanationRecord,
        *,
        target: str,
        versus: str,
        progress: Told,
    ) -> AuditRecord:
        """Return which training images, and which of their pixels, it comes from."""
        ...
