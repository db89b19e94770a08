"""What a training will cost: a rehearsal of one epoch and of three on few images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import final

from torch import nn

from whence.core import ImageData
from whence.recipes.fit import SHARE
from whence.recipes.fit_data import held_out
from whence.recipes.rehearsal import Estimate, Some, line, rehearse, some_of, trial, work_on

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

    Passes of one epoch and of several are counted; the difference is what an epoch costs, and
    time grows with passes. Training may end earlier if it has patience.

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

    def trained(several: int) -> Callable[[int, Path], object]:
        return lambda count, folder: job(
            Parts(
                train=some_of(rest, count),
                validation=some(held, count),
                test=None if test is None else some(test, count),
            ),
            folder / "fit",
            several,
        )

    started = perf_counter()
    work = work_on(module, rest)
    once = [trial(trained(1), min(count, whole), work) for count in (FEWEST, 2 * FEWEST)]
    more = rehearse(
        trained(SEVERAL), whole, work=work, least=FEWEST, batch=batch_size, budget=BUDGET
    )
    one = line(once, [each.passes for each in once], whole)
    passes = one + max(0.0, more.passes - one) * (epochs - 1) / (SEVERAL - 1)
    share = passes / max(more.passes, 1e-9)
    return replace(
        more,
        passes=passes,
        seconds=share * more.seconds,
        low=share * more.low,
        high=share * more.high,
        cpu=share * more.cpu,
        measured=perf_counter() - started,
    )
