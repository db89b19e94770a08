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

FEWEST = 4
"""Training images of the smallest trial, for each that a query shows: enough on both sides."""
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
    k: int,
    batch_size: int,
    weights: int,
) -> Estimate:
    """Estimate what an audit costs.

    The training set is rehearsed with one query; what a query costs beside is the difference to
    three, on a few training images: of scores that are solved for each query over all training
    images (``lissa``) that is too little. How many predictions are wrong is estimated from some.

    Args:
        job: Audits.
        module: The classifier.
        train: Training images.
        test: Test images.
        queries: ``wrong``, ``all``, or places in the test data.
        count: At most so many queries.
        k: Training images for, and as many against, each query.
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

    def audited(number: int) -> Callable[[int, Path], object]:
        some = list(range(min(number, len(part))))
        return lambda many, folder: job(some_of(train, many), part, some, folder / "audit")

    few = min(FEWEST * k, size)
    whole = rehearse(audited(1), size, work=work, least=few, batch=batch_size)
    if asked > 1 and len(part) > 1:
        one, several = (trial(audited(number), few, work) for number in (1, ASKED))
        whole = with_queries(whole, one, several, (asked - 1) / (min(ASKED, len(part)) - 1))
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


def with_queries(whole: Estimate, one: Trial, several: Trial, times: float) -> Estimate:
    """Return the estimate for many queries from trials with one and with several.

    Args:
        whole: The estimate for one query.
        one: A trial with one query.
        several: The same with several.
        times: How many times the difference is added.
    """
    seconds = times * max(0.0, several.seconds - one.seconds)
    files = {
        name: size + round(times * (several.files.get(name, 0) - one.files.get(name, 0)))
        for name, size in whole.files.items()
    }
    return replace(
        whole,
        passes=whole.passes + times * (several.passes - one.passes),
        seconds=whole.seconds + seconds,
        low=whole.low + LEAST * seconds,
        high=whole.high + SLACK * seconds,
        cpu=whole.cpu + times * max(0.0, several.cpu - one.cpu),
        files=files,
    )
