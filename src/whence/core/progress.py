"""Progress: how long work reports how far it is."""

from typing import Protocol, runtime_checkable

__all__ = ["Progress", "silent"]


@runtime_checkable
class Progress(Protocol):
    """Called as work goes on; may raise to stop it (``KeyboardInterrupt`` does)."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` units of the named stage are finished."""
        ...


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
    del stage, done, total
