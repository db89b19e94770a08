"""The runs of one network, which a process of its own can do."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.methods.page import Run
from benchmarks.methods.scenes import SHORTCUT
from benchmarks.methods.study import study

__all__ = ["judged"]


def judged(name: str, *, kinds: Sequence[str], count: int, build: Path) -> list[Run]:
    """Judge everything on one network; what is done is read."""
    torch.set_num_threads(1)
    runs = []
    for kind in kinds:
        ask = partial(study, kind, name, count=count, build=build, progress=Told(f"{kind}, {name}"))
        digits = ask(digits=True) if kind == SHORTCUT else None
        runs.append(Run(kind=kind, network=name, record=ask(), digits=digits))
    return runs


class Told:
    """Says now and then how far the work is."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.last = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print a line, at most every ten seconds."""
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            print(f"{self.title}: {stage} {done} of {total}", flush=True)
