"""Statistic: a state that can be merged, which makes any pass over data distributable."""

from typing import Any, Protocol, Self, runtime_checkable

__all__ = ["Statistic"]


@runtime_checkable
class Statistic(Protocol):
    """A running summary of data.

    The law that every implementation keeps, for every way to cut the data in two::

        whole == left.merge(right)

    where ``whole`` saw all of it, and ``left`` and ``right`` a part each.
    """

    def update(self, *batch: Any) -> None:  # noqa: ANN401 - each statistic says what it takes
        """Take in a batch."""
        ...

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed."""
        ...

    def result(self) -> Any:  # noqa: ANN401 - each statistic says what it returns
        """Return the value so far."""
        ...
