"""``python -m benchmarks.conversion``: every model of the list becomes an X-DNN.

For each: what `whence homogeneity` says would have to change, which routes change it, whether the
outcome is proven and measured to be an X-DNN, and what the two exact routes make of it. A model is
written down as soon as it is done; a run that was stopped goes on.
"""

import argparse
import copy
import hashlib
import json
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

import whence
from benchmarks.models import SUBJECTS, Subject
from whence.convert import ROUTE_NAMES, ConversionReport, HomogeneousCoordinate, NormWrapper
from whence.convert import converted as convert
from whence.convert.names import AnyRoute, routes_named
from whence.errors import UnsupportedOperation
from whence.network import Network

IMAGES = 4
PAGE = Path("docs/reference/x-dnns.md")
BOOK = Path("build/conversion.jsonl")

ROUTE_OF = {
    "lost its bias": "strip-biases",
    "a scale per channel": "scale-batch-norms",
    "became ReLU": "activations",
    "guarded by a bound": "guards",
    "unit length": "attention",
    "a fixed size": "gates",
    "does not look at sizes": "norms",
    "constants": "constants",
    "keep their size": "scales set anew",
}
"""Words of a change, and the route that makes it."""


@final
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a model.

    Args:
        model: Its name.
        first: The first offender: its path and operation.
        needed: How many places of each operation would have to change.
        routes: The routes that changed something, with how many places.
        proven: Whether every operation of the outcome has its degree.
        error: The largest relative error of ``f(kx) = k f(x)``, in the precision of ``kind``.
        kind: ``float32``, or ``float64`` where single precision does not do.
        holds: Whether it is an X-DNN, by proof and by these tests.
        coordinate: What the homogeneous coordinate makes of it.
        wrapped: The share of the attribution that is mere pixel energy under the norm wrapper.
        seconds: What all took.
    """

    model: str
    first: str
    needed: dict[str, int]
    routes: dict[str, int]
    proven: bool
    error: float
    kind: str
    holds: bool
    coordinate: str
    wrapped: str
    seconds: float


def outcome(subject: Subject) -> Outcome:
    """Audit a model, convert it, and try the two exact routes on it."""
    began = time.perf_counter()
    model, images = subject.model(), subject.images(IMAGES)
    verdict = Network.read(model, images).homogeneity()
    first = verdict.first_offender
    needed: Counter[str] = Counter()
    for kind in verdict.needed:
        needed[kind.operation] += len(kind.paths)
    routes = routes_named(())
    report, precision = report_of(model, images, routes), "float32"
    if not report.holds and report.homogeneity.degree == 1:
        exact = copy.deepcopy(model).double()
        report, precision = report_of(exact, images.double(), routes), "float64"
    tested = report.homogeneity.certificate
    return Outcome(
        model=subject.name,
        first="none" if first is None else f"{first.path or 'forward'} ({first.operation})",
        needed=dict(needed.most_common()),
        routes=dict(Counter(route_of(change.what) for change in report.changes)),
        proven=report.homogeneity.degree == 1,
        error=float("nan") if tested is None else max(tested.scale_errors.values()),
        kind=precision,
        holds=report.holds,
        coordinate=with_coordinate(model, images),
        wrapped=wrapped(model, images),
        seconds=round(time.perf_counter() - began, 1),
    )


def report_of(model: nn.Module, images: Tensor, routes: Sequence[AnyRoute]) -> ConversionReport:
    """Return the report of a conversion; random weights may well explode, which is no matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(model, images, routes=routes).report


def route_of(what: str) -> str:
    """Return the route that made a change."""
    return next(route for words, route in ROUTE_OF.items() if words in what)


def with_coordinate(model: nn.Module, images: Tensor) -> str:
    """Return whether the homogeneous coordinate makes it an X-DNN, or what stands in the way."""
    try:
        report = report_of(model, images, [HomogeneousCoordinate()])
    except UnsupportedOperation as error:
        found = re.search(r"\((\w+)\) cannot take", str(error))
        return f"no, first of all {found[1] if found else error}"
    return "exact" if report.holds else "no, by its numeric tests"


def wrapped(model: nn.Module, images: Tensor) -> str:
    """Return the share of mere energy under the norm wrapper, or how far rounding takes it."""
    report = report_of(model, images, [NormWrapper()])
    if not report.holds and report.homogeneity.degree == 1:
        report = report_of(copy.deepcopy(model).double(), images.double(), [NormWrapper()])
    tested = report.homogeneity.certificate
    if report.holds or tested is None:
        return f"{report.energy_share:.0%}"
    return f"proven, but off by {max(tested.scale_errors.values()):.1e} in {tested.precision}"


def version() -> str:
    """Return a fingerprint of the code that an outcome depends on, and of torch."""
    digest = hashlib.sha256(torch.__version__.encode())
    files = [Path(__file__).parent / "models.py"]
    for room in ("network", "convert"):
        files += sorted((Path(whence.__file__).parent / room).rglob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


HEAD = """# X-DNNs: what every model would have to change, and what comes of it

<!-- Written by: python -m benchmarks.conversion -->

The {count} classifiers of the [coverage table](coverage.md), with the same random, calibrated
weights. *Needs* is what `whence homogeneity` says would have to change: operations, and in how many
places. *Routes* are those of `whence convert` that changed something: they are tried in their usual
order, with no code for any model. *X-DNN* says whether the outcome is one, by proof and by the
tests on {images} images, with the largest relative error of `f(kx) = k f(x)` for `k` from 0.001 to
1000. {holding} of {count} are.

The two routes that change no operation: the *coordinate* is exact where a network is piece by piece
linear, otherwise the first operation in its way is named; the norm *wrapper* takes any network, but
the share given here of its attribution is mere pixel energy, which explains nothing. Torch {torch};
{minutes:.0f} minutes of wall time on one thread of a busy machine.
"""


def page(found: Sequence[Outcome]) -> str:
    """Return the outcomes as a page of the manual."""
    head = HEAD.format(
        count=len(found),
        images=IMAGES,
        holding=sum(one.holds for one in found),
        torch=torch.__version__.split("+")[0],
        minutes=max(1, sum(one.seconds for one in found) / 60),
    )
    lines = ["| model | first offender | needs | routes | X-DNN |", "|--|--|--|--|--|"]
    for one in found:
        told = f"{'yes' if one.holds else '**no**'}, {one.error:.0e} {one.kind}"
        cells = (one.model, one.first, listed(one.needed), listed(one.routes), told)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| model | coordinate | wrapper: mere energy |", "|--|--|--:|"]
    lines += [f"| {one.model} | {one.coordinate} | {one.wrapped} |" for one in found]
    names = ", ".join(f"`{name}`" for name in ROUTE_NAMES)
    return "\n".join([head, *lines, "", f"All routes by name: {names}.", ""])


def listed(counts: dict[str, int]) -> str:
    """Return counts as text."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def known(stamp: str) -> dict[str, Outcome]:
    """Return what is known of this version."""
    lines = BOOK.read_text().splitlines() if BOOK.exists() else []
    rows = [json.loads(line) for line in lines]
    return {row["model"]: Outcome(**row) for stamped, row in rows if stamped == stamp}


def main() -> int:
    """Convert what is missing, print it as it comes, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversion")
    parser.add_argument("--models", nargs="+", help="parts of names", default=[""])
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stamp = version()
    BOOK.parent.mkdir(exist_ok=True)
    found = known(stamp)
    for subject in SUBJECTS:
        if subject.name in found or not any(part in subject.name for part in arguments.models):
            continue
        found[subject.name] = outcome(subject)
        with BOOK.open("a") as book:
            book.write(json.dumps([stamp, asdict(found[subject.name])]) + "\n")
        print(found[subject.name], flush=True)
    if len(found) == len(SUBJECTS):
        arguments.out.write_text(page([found[subject.name] for subject in SUBJECTS]))
        print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
