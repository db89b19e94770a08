"""Rehearsal: what a job will cost, from doing a little of it in a folder that is thrown away."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from whence.core import Batch, ImageData, logits_from
from whence.errors import DataError
from whence.recipes.fit_data import Part
from whence.recipes.load import spread

__all__ = [
    "Estimate",
    "Pass",
    "Some",
    "Trial",
    "line",
    "rehearse",
    "some_of",
    "trial",
    "work_of_a_pass",
    "work_on",
]

BUDGET = 6.0
"""Seconds that the longest trial shall take, about."""
FEW, MORE, MOST = 2, 4, 256
"""Images of the trials that count passes; and of those that measure time, at most."""
LEAST, SLACK = 0.7, 1.4
"""How far from the estimate the ends of its range are, beside what two trials disagree."""

Job = Callable[[int, Path], object]
"""Does the job on so many images, and writes its result somewhere in an empty folder."""


@final
@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward with one input-backward, for one image.

    Args:
        work: Its multiplications and additions.
        seconds: Of wall clock, alone.
    """

    work: float
    seconds: float


@final
@dataclass(frozen=True, kw_only=True)
class Trial:
    """What some of a job took.

    Args:
        size: Images, or what the job is counted in.
        seconds: Of wall clock.
        cpu: Seconds of processors.
        passes: Forwards with an input-backward, by their multiplications; NaN if not counted.
        memory: The most memory that the process had until then, in bytes; None if unknown.
        files: What it wrote: bytes of each file, or of all files in each folder.
    """

    size: int
    seconds: float
    cpu: float
    passes: float
    memory: int | None
    files: dict[str, int]


@final
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job will cost.

    Args:
        size: Images, or what the job is counted in.
        passes: A pass is the work of one forward and one input-backward for one image; the job's
            multiplications are counted on few images and grow with their number.
        work: Multiplications of a pass.
        seconds: Of wall clock, on this machine as busy as it is now.
        low: The lower end of its range.
        high: The upper end.
        cpu: Seconds of processors, which do not depend on what else the machine does.
        memory: Bytes that the process will have at most; on a GPU those of the GPU.
        available: Bytes that are free for it.
        files: Bytes of each file, or of all files in each folder.
        measured: Seconds that the rehearsal took.
    """

    size: int
    passes: float
    work: float
    seconds: float
    low: float
    high: float
    cpu: float
    memory: int | None
    available: int | None
    files: dict[str, int]
    measured: float

    @property
    def disk(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Some:
    """Some images of a dataset, numbered anew from 0.

    Args:
        whole: The dataset.
        places: Which of its images.
    """

    whole: ImageData
    places: tuple[int, ...]

    @property
    def title(self) -> str:
        """What the dataset is called."""
        return self.whole.title

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.whole.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image of the whole found unusable so far."""
        return self.whole.skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.places)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.whole.name(self.places[index])

    def label(self, index: int) -> int | None:
        """Return the class of an image."""
        return self.whole.label(self.places[index])

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order."""
        chosen = range(len(self)) if indices is None else indices
        numbers = {self.places[index]: index for index in chosen}
        for batch in self.whole.batches(size, [self.places[index] for index in chosen]):
            anew = torch.tensor([numbers[place] for place in batch.indices.tolist()])
            yield Batch(indices=anew, images=batch.images, labels=batch.labels)

    def fingerprint(self) -> str:
        """Return what tells these images from others of the same dataset."""
        return f"{self.whole.title} {self.places}"


def some_of(data: ImageData, count: int) -> Some:
    """Return at most so many images, spread over a dataset."""
    places = spread(len(data), count)
    if isinstance(data, Part):  # its batches hold places in the whole
        return Some(whole=data.whole, places=tuple(data.places[place] for place in places))
    return Some(whole=data, places=tuple(places))


@final
class Multiplications(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiplications and additions of convolutions and matrix products.

    torch's own counter also follows modules with hooks, which autograd's ``grad`` of a leaf that
    reaches them refuses; here nothing is hooked.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation of torch
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Do an operation and count it."""
        del types
        named = kwargs or {}
        if torch.compiler.is_compiling():  # a graph is being read, and nothing computed
            return func(*args, **named)
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - the registry's key
        if formula is None:
            with self:
                parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        found = func(*args, **named)
        if formula is not None:
            self.total += formula(*args, **named, out_val=found)
        return found


def rehearse(
    job: Job,
    size: int,
    *,
    work: Pass,
    least: int = FEW,
    batch: int = FEW,
    budget: float = BUDGET,
) -> Estimate:
    """Estimate what a job costs: it is done on few images, measured, and drawn out.

    Passes are counted on ``least`` and twice as many images, and grow linearly; so do bytes and
    seconds, from two further trials, the larger one with as many images as some seconds allow.
    Nothing is left on the disk.

    Args:
        job: Does the job on the number of images it is told.
        size: How many there are.
        work: Of a pass, from :func:`work_of_a_pass`.
        least: The fewest images that the job can do with.
        batch: Images at a time, if known: memory grows up to these.
        budget: Seconds that the longest trial may take, about.

    Raises:
        WhenceError: Whatever the job raises.
    """
    started = perf_counter()
    few, more = min(least, size), min(2 * least, size)
    counted = [trial(job, count, work) for count in (few, more)]
    each = line(counted, [one.passes for one in counted], more + 1) - counted[1].passes
    longest = int(budget / max(each * work.seconds, 1e-4)) if more < size else size
    longest = min(size, MOST, max(2 * more, longest))
    timed = [trial(job, count, None) for count in sorted({more, longest})]
    timed = [counted[0], *timed] if len(timed) == 1 else timed
    seconds, low, high = drawn_out(timed, size)
    device = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    return Estimate(
        size=size,
        passes=line(counted, [one.passes for one in counted], size),
        work=work.work,
        seconds=seconds,
        low=low,
        high=high,
        cpu=line(timed, [one.cpu for one in timed], size),
        memory=memory_of(timed, min(size, batch)),
        available=torch.cuda.mem_get_info()[0] if device else free_memory(),
        files={
            name: round(line(timed, [one.files.get(name, 0) for one in timed], size))
            for name in timed[-1].files
        },
        measured=perf_counter() - started,
    )


def trial(job: Job, count: int, work: Pass | None) -> Trial:
    """Do a job on some images in a folder that is thrown away; count passes if told their work."""
    with TemporaryDirectory(prefix="whence-") as place:
        folder = Path(place)
        started, used = perf_counter(), process_time()
        if work is None:
            job(count, folder)
            passes = float("nan")
        else:
            with Multiplications() as counter:
                job(count, folder)
            passes = counter.total / work.work
        return Trial(
            size=count,
            seconds=perf_counter() - started,
            cpu=process_time() - used,
            passes=passes,
            memory=peak_memory(),
            files=sizes(folder),
        )


def line(trials: Sequence[Trial], values: Sequence[float], size: int) -> float:
    """Return where the line through two trials' values is at a size; never below the larger."""
    (first, second), (low, high) = trials, values
    if second.size in (first.size, size):
        return high
    return max(high, low + (high - low) * (size - first.size) / (second.size - first.size))


def memory_of(trials: Sequence[Trial], batch: int) -> int | None:
    """Return the most memory for batches of a size that the trials may not have reached."""
    first, last = (one.memory for one in trials)
    if first is None or last is None or batch <= trials[-1].size:
        return last
    return round(line(trials, [first, last], batch))


def drawn_out(trials: Sequence[Trial], size: int) -> tuple[float, float, float]:
    """Return the seconds of the whole, and a range.

    The line through both trials leaves out what every run costs once; growth in proportion
    charges it to every image. The estimate is the line; the range reaches half way to the other.
    """
    last = trials[-1]
    grown = last.seconds * size / last.size
    drawn = line(trials, [one.seconds for one in trials], size)
    best = min(drawn, grown)
    return best, LEAST * best, SLACK * (best * grown) ** 0.5


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file of a folder, and of all files in each folder in it."""
    inside = sorted(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        return sizes(inside[0])  # the result's own folder
    return {
        path.name + ("/" if path.is_dir() else ""): sum(
            one.stat().st_size
            for one in ([path] if path.is_file() else path.rglob("*"))
            if one.is_file()
        )
        for path in inside
    }


def work_of_a_pass(module: nn.Module, image: Tensor) -> Pass:
    """Return what one forward with one input-backward takes, for one image.

    Args:
        module: The classifier.
        image: One image as it takes it, ``(1, c, h, w)``.
    """
    place = next((weight.device for weight in module.parameters()), image.device)
    one = image.detach().to(place).clone().requires_grad_()

    def once() -> float:
        started = perf_counter()
        with torch.enable_grad():
            torch.autograd.grad(logits_from(module, one).amax(), one, allow_unused=True)
        return perf_counter() - started

    with Multiplications() as counter:
        once()
    return Pass(work=max(1.0, float(counter.total)), seconds=min(once(), once()))


def work_on(module: nn.Module, data: ImageData) -> Pass:
    """Return what a pass takes for the first image of a dataset that can be used.

    Raises:
        DataError: There is none.
    """
    first = next((batch.images[:1] for batch in data.batches(1)), None)
    if first is None:
        msg = f"{data.title} holds no usable image."
        raise DataError(msg)
    return work_of_a_pass(module, first)


def peak_memory() -> int | None:
    """Return the most memory that this process had so far, in bytes; on a GPU the GPU's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # an operating system without it
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def free_memory() -> int | None:
    """Return the bytes of memory that are free for programs, if the system tells."""
    try:
        for text in Path("/proc/meminfo").read_text("ascii").splitlines():
            if text.startswith("MemAvailable:"):
                return 1024 * int(text.split()[1])
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None
