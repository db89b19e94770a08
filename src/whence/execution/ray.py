"""Ray: the same pass over data, its shards spread over a cluster.

The only file that imports ray. Shards, functions and statistics travel between processes, so they
must be picklable; a shard should name its data (indices, a file) instead of carrying it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

from whence.core import Progress, Statistic, silent
from whence.errors import MissingExtra
from whence.execution.serial import finished, merged, visited

__all__ = ["run_on_ray"]

S = TypeVar("S", bound=Statistic)
T = TypeVar("T")


def run_on_ray(
    statistic: Callable[[], S],
    shards: Sequence[T],
    visit: Callable[[S, T], None],
    *,
    done: Mapping[int, S] | None = None,
    keep: Callable[[int, S], None] | None = None,
    progress: Progress = silent,
) -> S:
    """Return the statistic of all shards, each worked on by a task of ray.

    The result is that of :func:`run_serial`: statistics are merged here, in the order of the
    shards. If a task fails, or ``keep`` or ``progress`` raises, the other tasks are cancelled.
    A cluster that is connected already is used; otherwise ray starts one on this machine.

    Args:
        statistic: Makes an empty statistic.
        shards: What to work on.
        visit: Updates a statistic with a shard.
        done: Statistics of shards that are finished already, by their place.
        keep: Called here with the place and the statistic of each shard as it is finished.
        progress: Called after every shard.

    Raises:
        DataError: If there is no shard.
        MissingExtra: If ray is not installed.
        SettingError: If ``done`` names a shard that does not exist.
    """
    found = finished(shards, done)
    ray = opened()
    if not ray.is_initialized():
        ray.init()
    task = ray.remote(visited)
    places: dict[Any, int] = {
        task.remote(statistic, visit, shard): place
        for place, shard in enumerate(shards)
        if place not in found
    }
    waiting = list(places)
    progress("shards", len(found), len(shards))
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            for reference in ready:
                place = places[reference]
                found[place] = ray.get(reference)
                if keep is not None:
                    keep(place, found[place])
                progress("shards", len(found), len(shards))
    except BaseException:
        for reference in waiting:
            ray.cancel(reference)
        raise
    return merged(found)


def opened() -> ModuleType:
    """Return ray.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        package, purpose = "ray", "Running on a cluster"
        raise MissingExtra(package, "ray", purpose) from error
    return ray  # type: ignore[no-any-return]
