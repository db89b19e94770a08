"""What a training will cost: a rehearsal of one epoch and of three on few images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torch import nn

from whence.core import ImageData
from whence.recipes.fit import SHARE
from whence.recipes.fit_data import held_out
from whence.recipes.rehearsal import LEAST, SLACK, Estimate, Some, rehearse, some_of, work_on

__all__ = ["Parts", "rehearse_fit"]

FEWEST = 8
"""Training images of the smallest trial."""
SEVERAL = 3
"""Epochs of the longer trials; the shorter ones have one."""
BUDGET = 3.0


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Some of the data of a training.

    Args:
        train: Training images.
        validation: Images to choose by.
        test: Images to measure the outcome on, or None.
    """

    train: ImageData
    validation: ImageData
    test: ImageData | None


def rehearse_fit(
    job: Callable[[Parts, Path, int], object],
    module: nn.Module,
    train: ImageData,
    validation: ImageData | None,
    test: ImageData | None,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Estimate:
    """Estimate what a training costs: all its runs, and what is measured before and after.

    One epoch and several are rehearsed; the difference is what an epoch costs. Training may end
    earlier if it has patience.

    Args:
        job: Trains on some data, writing into a folder that does not exist yet, for so many
            epochs.
        module: The network.
        train: Training images.
        validation: Images to choose by; a fifth of the training images if None.
        test: Images to measure the outcome on.
        epochs: Of each run, at most.
        batch_size: Images per step.
        seed: Of the choice of what is held out.

    Raises:
        WhenceError: Whatever the job raises.
    """
    rest, held = held_out(train, SHARE, seed) if validation is None else (train, validation)
    whole = len(rest)

    def some(data: ImageData, count: int) -> Some:
        return some_of(data, max(2, round(len(data) * count / whole)))

    def rehearsed(several: int) -> Estimate:
        def trained(count: int, folder: Path) -> None:
            parts = Parts(
                train=some_of(rest, count),
                validation=some(held, count),
                test=None if test is None else some(test, count),
            )
            job(parts, folder / "fit", several)

        return rehearse(trained, whole, work=work, least=FEWEST, batch=batch_size, budget=BUDGET)

    work = work_on(module, rest)
    return drawn_out(rehearsed(1), rehearsed(SEVERAL), epochs)


def drawn_out(one: Estimate, more: Estimate, epochs: int) -> Estimate:
    """Return the estimate for so many epochs from those for one and for several."""

    def along(first: float, last: float) -> float:
        return first + max(0.0, last - first) * (epochs - 1) / (SEVERAL - 1)

    seconds = along(one.seconds, more.seconds)
    return replace(
        more,
        passes=along(one.passes, more.passes),
        seconds=seconds,
        low=min(LEAST * seconds, along(one.low, more.low)),
        high=max(SLACK * seconds, along(one.high, more.high)),
        cpu=along(one.cpu, more.cpu),
        measured=one.measured + more.measured,
    )
