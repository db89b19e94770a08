"""What an audit will cost: a rehearsal on few training images, for one query and for three."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from whence.core import ImageData, logits_from
from whence.errors import DataError
from whence.recipes.explained import placed
from whence.recipes.load import spread
from whence.recipes.rehearsal import (
    LEAST,
    SLACK,
    Estimate,
    Some,
    Trial,
    rehearse,
    some_of,
    trial,
    work_on,
)

__all__ = ["rehearse_audit"]

FEWEST = 8
"""Training images of the smallest trial."""
ASKED = 3
"""Queries of the longer trials; the others have one."""
SEEN = 64
"""Test images that are predicted, to learn how many are wrong and how long it takes."""
FORWARD = 0.5
"""Passes of a prediction."""
BYTES = 4

Job = Callable[[ImageData, ImageData, Sequence[int], Path], object]
"""Audits some queries, by their places in the test data, and writes into a folder."""


def rehearse_audit(
    job: Job,
    module: nn.Module,
    train: ImageData,
    test: ImageData,
    *,
    queries: str | Sequence[int],
    count: int,
    batch_size: int,
    weights: int,
) -> Estimate:
    """Estimate what an audit costs.

    The training set is rehearsed with one query; what a query costs beside is the difference to
    three. Work that every query does on every training image (scores that are solved for each) is
    drawn out by its passes. How many predictions are wrong is estimated from some of them.

    Args:
        job: Audits.
        module: The classifier.
        train: Training images.
        test: Test images.
        queries: ``wrong``, ``all``, or places in the test data.
        count: At most so many queries.
        batch_size: Images at a time.
        weights: Parameters whose gradients are compared, as every query has one of them all.

    Raises:
        DataError: There are no images.
        WhenceError: Whatever the job raises.
    """
    started = perf_counter()
    work = work_on(module, train)
    part, asked, predicting = chosen(module, test, queries, count)
    size = len(train)

    def trials(number: int) -> list[Trial]:
        return [trial(audited(number), many, work) for many in (few, more)]

    def audited(number: int) -> Callable[[int, Path], object]:
        some = list(range(min(number, len(part))))
        return lambda many, folder: job(some_of(train, many), part, some, folder / "audit")

    few, more = min(FEWEST, size), min(2 * FEWEST, size)
    whole = rehearse(audited(1), size, work=work, least=FEWEST, batch=batch_size)
    if asked > 1 and len(part) > 1:
        step = min(ASKED, len(part)) - 1
        whole = with_queries(whole, trials(1), trials(ASKED), (asked - 1) / step)
    return replace(
        whole,
        passes=whole.passes + FORWARD * len(test),
        seconds=whole.seconds + predicting,
        low=whole.low + LEAST * predicting,
        high=whole.high + SLACK * predicting,
        cpu=whole.cpu + predicting,
        memory=None if whole.memory is None else whole.memory + 2 * BYTES * weights * (asked - 1),
        measured=perf_counter() - started,
    )


def chosen(
    module: nn.Module, test: ImageData, queries: str | Sequence[int], count: int
) -> tuple[Some, int, float]:
    """Return test images to rehearse with, how many there will be, and seconds to predict all."""
    if not len(test):
        msg = f"{test.title} holds no images."
        raise DataError(msg)
    started = perf_counter()
    places = spread(len(test), SEEN)
    found: list[int] = []
    wrong: list[int] = []
    labelled = 0
    for batch in test.batches(32, places):
        with torch.no_grad():
            best = logits_from(module, placed(batch.images, module)).argmax(dim=1).cpu()
        found += batch.indices.tolist()
        wrong += batch.indices[(batch.labels >= 0) & (best != batch.labels)].tolist()
        labelled += int((batch.labels >= 0).sum())
    seconds = (perf_counter() - started) * len(test) / max(1, len(found))
    if not isinstance(queries, str):
        return Some(whole=test, places=tuple(queries[:ASKED])), len(queries), seconds
    total = len(test)
    if queries == "wrong" and labelled and wrong:
        total = ceil(len(test) * len(wrong) / labelled)
    first = wrong if queries == "wrong" else []
    rest = [place for place in found if place not in first]
    part = Some(whole=test, places=tuple((first + rest)[:ASKED]))
    return part, min(count, total), seconds


def with_queries(
    whole: Estimate, one: Sequence[Trial], several: Sequence[Trial], times: float
) -> Estimate:
    """Return the estimate for many queries from trials with one and with several.

    Args:
        whole: The estimate for one query.
        one: Two trials of different size with one query.
        several: The same with several.
        times: How many times the difference is added.
    """
    extra = [b.passes - a.passes for a, b in zip(one, several, strict=True)]
    spans = [b.size - a.size for a, b in (one, several)]
    slope = (extra[1] - extra[0]) / spans[0] if spans[0] else 0.0
    beyond = max(0.0, slope) * (whole.size - one[1].size)  # passes of each query on every image
    rate = max(whole.seconds, 1e-9) / max(whole.passes, 1e-9)
    seconds = times * (max(0.0, several[1].seconds - one[1].seconds) + rate * beyond)
    cpu = times * (max(0.0, several[1].cpu - one[1].cpu) + rate * beyond)
    return replace(
        whole,
        passes=whole.passes + times * (extra[1] + beyond),
        seconds=whole.seconds + seconds,
        low=whole.low + LEAST * seconds,
        high=whole.high + SLACK * seconds,
        cpu=whole.cpu + cpu,
        files={
            name: bytes_ + round(times * (several[1].files.get(name, 0) - one[1].files[name]))
            if name in one[1].files
            else bytes_
            for name, bytes_ in whole.files.items()
        },
    )
