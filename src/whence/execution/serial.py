"""Serial: a pass over data, shard by shard, in this process.

A pass is a statistic: made empty for every shard, updated with the shard's data, and merged in the
order of the shards. So its result does not depend on where the shards were worked on, or when.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from whence.core import Progress, Statistic, silent
from whence.errors import DataError, SettingError

__all__ = ["merged", "run_serial", "shards_of", "visited"]

S = TypeVar("S", bound=Statistic)
T = TypeVar("T")


def run_serial(
    statistic: Callable[[], S],
    shards: Sequence[T],
    visit: Callable[[S, T], None],
    *,
    done: Mapping[int, S] | None = None,
    keep: Callable[[int, S], None] | None = None,
    progress: Progress = silent,
) -> S:
    """Return the statistic of all shards, worked on one after the other.

    Args:
        statistic: Makes an empty statistic.
        shards: What to work on: lists of indices, names of files, batches.
        visit: Updates a statistic with a shard.
        done: Statistics of shards that are finished already, by their place: to resume a pass.
        keep: Called with the place and the statistic of each shard as it is finished: to save it.
        progress: Called after every shard.

    Raises:
        DataError: If there is no shard.
        SettingError: If ``done`` names a shard that does not exist.
    """
    found = finished(shards, done)
    for place, shard in enumerate(shards):
        if place not in found:
            found[place] = visited(statistic, visit, shard)
            if keep is not None:
                keep(place, found[place])
        progress("shards", place + 1, len(shards))
    return merged(found)


def visited(statistic: Callable[[], S], visit: Callable[[S, T], None], shard: T) -> S:
    """Return the statistic of one shard."""
    own = statistic()
    visit(own, shard)
    return own


def merged(found: Mapping[int, S]) -> S:
    """Return the statistic of all shards, merged in their order."""
    first, *rest = (found[place] for place in sorted(found))
    for other in rest:
        first = first.merge(other)
    return first


def finished(shards: Sequence[object], done: Mapping[int, S] | None) -> dict[int, S]:
    """Return the shards that are finished already, checked."""
    if not shards:
        msg = "A pass over data needs at least one shard; there was none."
        raise DataError(msg)
    found = dict(done or {})
    strange = [place for place in found if not 0 <= place < len(shards)]
    if strange:
        msg = (
            f"Shard {strange[0]} is said to be done, but there are {len(shards)} shards, from 0 "
            f"to {len(shards) - 1}. Resume with the same shards."
        )
        raise SettingError(msg)
    return found


def shards_of(indices: Sequence[int], count: int) -> tuple[Sequence[int], ...]:
    """Return the indices in at most ``count`` parts of nearly equal size, in order."""
    if count < 1:
        msg = f"count must be at least 1; got {count}."
        raise SettingError(msg)
    ends = [round(part * len(indices) / count) for part in range(count + 1)]
    return tuple(indices[start:stop] for start, stop in pairwise(ends) if stop > start)
