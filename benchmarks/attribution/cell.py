"""One cell, in a process of its own: memory, model FLOPs, time beside the reference, remarks."""

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.attribution.setup import Setup, Work

__all__ = ["Cell", "apart"]

MEBIBYTE = 2**20
MOST = 18 * 2**30
"""The address space of a cell in bytes: more is refused, before the machine begins to swap."""

MANY = 2.6
"""Passes from which on a method is timed once, between its references."""

aten = torch.ops.aten


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a library did in a row.

    Args:
        row: The row.
        library: Who.
        model: On what.
        floor: The passes that the definition needs; None where it depends.
        flops: Model FLOPs, in passes; exact, and independent of what else the machine does.
        cpu: CPU time, in passes measured in turn with it; median.
        wall: The same for wall time.
        memory: How far the resident set grew during the first call, in MiB.
        remark: What was wrong with it, or how it was set.
        error: Why there are no figures.
        seconds: What the cell took.
    """

    row: str
    library: str
    model: str
    floor: float | None = None
    flops: float | None = None
    cpu: float | None = None
    wall: float | None = None
    memory: float | None = None
    remark: str = ""
    error: str = ""
    seconds: float = 0.0


def apart(work: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """Run work in a forked process; return its figures, or ``error``."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=answered, args=(work, there))
    child.start()
    there.close()
    try:
        found: dict[str, Any] = {"error": f"stopped after {limit:.0f} s"}
        if here.poll(limit):
            try:
                found = here.recv()
            except EOFError:
                found = {"error": "the process died"}
    finally:
        child.kill()
        child.join()
        here.close()
    return found


def answered(work: Callable[[], dict[str, Any]], there: Connection) -> None:
    """Send what work returns, or why it failed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    del soft
    resource.setrlimit(resource.RLIMIT_AS, (MOST, hard))
    try:
        there.send(work())
    except Exception as error:  # noqa: BLE001 - that a library fails is a result
        first = str(error).strip().split("\n")[0]
        there.send({"error": f"{type(error).__name__}: {first[:160]}"})
    there.close()


def figures(
    setup: Setup, make: Callable[[Setup], Work], *, row: str, threads: int, rounds: int
) -> dict[str, Any]:
    """Measure a cell; called in its own process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    before = marks(setup)
    work = make(setup)
    setup.one_pass()
    memory, values = grown(work)
    remark = remarks(setup, row, values, before)
    del values
    reference = flops_of(setup.one_pass)
    passes = flops_of(work) / reference
    walls, cpus = [], []
    before_it = clocked(setup.one_pass)
    for _ in range(1 if passes > MANY else rounds):
        spent, after_it = clocked(work), clocked(setup.one_pass)
        walls.append(2 * spent[0] / (before_it[0] + after_it[0]))
        cpus.append(2 * spent[1] / (before_it[1] + after_it[1]))
        before_it = after_it
    return {
        "flops": round(passes, 3),
        "wall": round(statistics.median(walls), 3),
        "cpu": round(statistics.median(cpus), 3),
        "memory": round(memory, 1),
        "remark": remark,
    }


def grown(work: Work) -> tuple[float, Any]:
    """Return how far memory grew while work ran, in MiB, and what it returned."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    start = resident("VmRSS")
    values = work()
    return (resident("VmHWM") - start) / 1024, values


def resident(field: str) -> int:
    """Return a figure of this process in KiB: the resident set, or its highest."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field))


def clocked(work: Work) -> tuple[float, float]:
    """Return wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


class Flops(TorchDispatchMode):
    """Counts the FLOPs of convolutions and matrix products, attention included.

    PyTorch's own counter follows modules with hooks that refuse ``torch.autograd.grad``; its
    formulas are used here.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operator
        types: Any,  # noqa: ANN401 - of its tensors
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - its value
        """Call an operator and count it."""
        del types
        kwargs = kwargs or {}
        packet = func._overloadpacket  # noqa: SLF001 - what formulas are kept by
        if packet not in FORMULAS:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        values = func(*args, **kwargs)
        if packet in FORMULAS:
            self.total += FORMULAS[packet](*args, **kwargs, out_val=values)
        return values


def flops_of(work: Work) -> float:
    """Return the FLOPs of a call."""
    with Flops() as counter:
        work()
    return float(counter.total)


def attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:  # noqa: ANN401 - what else it is given
    """Return the FLOPs of attention: two matrix products."""
    return 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def attention_back_flops(
    _: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *__: Any,  # noqa: ANN401 - as above
    **___: Any,  # noqa: ANN401 - as above
) -> int:
    """Return the FLOPs of its backward: four matrix products."""
    return 2 * attention_flops(query, key, value)


FORMULAS = {
    **flop_counter.flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,  # noqa: SLF001 - an operator
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_back_flops,  # noqa: SLF001 - an operator
}


def marks(setup: Setup) -> tuple[int, int]:
    """Return how many hooks and how many state entries a model has."""
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)  # noqa: SLF001 - what is left behind
        for m in setup.model.modules()
    )
    return hooks, len(setup.model.state_dict())


def remarks(setup: Setup, row: str, values: object, before: tuple[int, int]) -> str:
    """Return what is wrong with values, and what was left on the model."""
    found = []
    if isinstance(values, Tensor):
        found += wrong(setup, row, values.detach())
    filled = sum(p.grad is not None for p in setup.model.parameters())
    hooks, entries = (a - b for a, b in zip(marks(setup), before, strict=True))
    if filled:
        found.append(f"leaves {filled} weight gradients")
    if hooks:
        found.append(f"leaves {hooks} hooks")
    if entries:
        found.append(f"adds {entries} entries to the state")
    return "; ".join(found)


def wrong(setup: Setup, row: str, values: Tensor) -> list[str]:
    """Return what is wrong with values."""
    if not values.isfinite().all():
        return ["NaN or infinite values"]
    if row == "grad-cam":
        square = values.ndim in (3, 4) and values.shape[-1] == values.shape[-2]
        return [] if square else [f"shape {tuple(values.shape)} is no map"]
    if row == "guided-backpropagation" and values.shape == setup.images.shape:
        plain = setup.one_pass()
        same = torch.allclose(values, plain, rtol=1e-3, atol=1e-6 * float(plain.abs().max()))
        return ["is the plain gradient, silently"] if same else []
    with torch.no_grad():
        rows = torch.arange(len(setup.images))
        ends = [setup.model(x)[rows, setup.classes] for x in (setup.images, 0 * setup.images)]
    total = values.double().flatten(1).sum(dim=1)
    if row.startswith("lrp"):
        share = float((total / ends[0]).median())
        return [] if 0 <= share <= 2 else [f"adds up to {share:.2g} times f"]
    if row == "deeplift" or "gap" in row:
        gap = ((total - (ends[0] - ends[1])) / (ends[0] - ends[1])).abs().max()
        return [f"largest gap {float(gap):.1%}"]
    return []


def measured(
    setup: Setup,
    make: Callable[[Setup], Work],
    *,
    row: str,
    threads: int,
    rounds: int,
    limit: float,
) -> dict[str, Any]:
    """Measure a cell in a process of its own."""

    def work() -> dict[str, Any]:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            return figures(setup, make, row=row, threads=threads, rounds=rounds)

    return apart(work, limit)
