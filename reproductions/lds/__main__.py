"""Run the cells that are missing, print the tables, and write them to a page.

The work is cut into cells, each a file under ``build/lds``, so that a run can be stopped at any
time and goes on from there. ``--small`` runs everything on tiny sizes, for a test of the machinery.
"""

import argparse
import contextlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from torch import Tensor

from reproductions.lds import mislabel, ours, peers, report
from reproductions.lds.tasks import DATA, REPOSITORY, TASKS, Digits, Task, digits, small
from reproductions.lds.training import logits_of, trained
from reproductions.lds.truth import Truth, cell, folder_of, truth_of
from whence.recipes import RemovalCurve, removal_curve

PAGE = Path(__file__).parent / "results.md"
CURVES = ("grad-cos", "grad-dot", "ekfac, damping = decay")
"""Rows whose removal curves are drawn, on the logistic model."""

REMOVED = (10, 30, 100)
CURVE_QUERIES = 10
ASIDE = ("explicit", "lissa", "arnoldi", "influence")
"""Scorers that solve: after all others, and not for self-scores of every image."""


def cells_of(
    task: Task, data: Digits, truth: Truth, folder: Path, *, slow: bool, known: bool
) -> Iterator[report.Result]:
    """Yield the rows of a task: those of whence that solve (slow), or all others.

    With ``known`` those that are computed already.
    """
    for row in ours.rows_of(task):
        path = folder / f"whence-{slug(row.name)}"
        if (row.scorer.name in ASIDE) != slow or (known and not is_kept(path)):
            continue
        yield kept(
            path,
            row.name,
            "stages of one run" if row.models == "stages" else "",
            "",
            lambda row=row: ours.scores(task, data, truth, row)["scores"],
        )
    for peer in () if slow else peers.peers_of(task, data, truth):
        path = folder / f"peer-{slug(peer.name)}"
        if known and not is_kept(path):
            continue
        yield kept(path, peer.name, peer.setting, peer.ours, quietly(peer.scores))


def kept(
    path: Path, name: str, setting: str, compared: str, compute: Callable[[], Tensor]
) -> report.Result:
    """Return a row from its cell, or compute it; a failure is kept with its reason."""
    failed = path.with_suffix(".failed")
    if failed.is_file():
        return report.Result(
            name=name, setting=setting, ours=compared, scores=None, seconds=0,
            failure=failed.read_text("utf-8"),
        )  # fmt: skip
    started = time.process_time()
    try:
        found, seconds = cell(
            path.with_suffix(".safetensors"), lambda: {"scores": finite(compute())}
        )
    except Exception as error:  # noqa: BLE001 - whatever another library raises is its result
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160].replace("|", "/")
        failed.write_text(reason, encoding="utf-8")
        print(f"  {path.parent.name}/{path.name}: {reason}", flush=True)
        return report.Result(
            name=name, setting=setting, ours=compared, scores=None,
            seconds=time.process_time() - started, failure=reason,
        )  # fmt: skip
    return report.Result(
        name=name, setting=setting, ours=compared, scores=found["scores"], seconds=seconds
    )


def is_kept(path: Path) -> bool:
    """Return whether a row is computed already, or has failed."""
    return path.with_suffix(".safetensors").is_file() or path.with_suffix(".failed").is_file()


def finite(scores: Tensor) -> Tensor:
    """Return scores in single precision, or raise where they hold NaN or infinity."""
    scores = scores.detach().float()
    if not scores.isfinite().all():
        share = (~scores.isfinite()).float().mean().item()
        msg = f"{share:.0%} of the scores are NaN or infinite"
        raise ArithmeticError(msg)
    return scores


def quietly(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return the same without progress bars, warnings and the global generator's changes."""

    def run() -> Tensor:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return compute()

    return run


def slug(name: str) -> str:
    """Return a name as a file may have it."""
    return "".join(c if c.isalnum() or c == "-" else "_" for c in name)


def mislabels(
    task: Task, data: Digits, truth: Truth, folder: Path, *, known: bool
) -> Iterator[tuple[str, str, dict[str, Tensor] | None]]:
    """Yield what the self-scores of each row find of changed labels."""
    for row in ours.rows_of(task):
        if (
            row.models == "several"
            or row.scorer.name in ASIDE
            or row.setting not in {"", ours.DECAY}
        ):
            continue
        path = folder / f"mislabel-{slug(row.name)}.safetensors"
        if known and not path.is_file():
            continue
        try:
            found, _ = cell(
                path, lambda row=row: mislabel.suspicion(task, data, truth, row, folder)
            )
        except Exception as error:  # noqa: BLE001 - a scorer that has no self-score says so
            print(f"  {path.parent.name}/{path.stem}: {error}", flush=True)
            yield task.name, row.name, None
            continue
        yield task.name, row.name, {**found, "wrong": found["wrong"].bool()}


def curves(
    task: Task, data: Digits, truth: Truth, folder: Path, *, known: bool
) -> Iterator[tuple[str, RemovalCurve]]:
    """Yield the removal curves of some rows, for the first queries."""
    count = min(CURVE_QUERIES, task.queries)
    some = Digits(
        images=data.images,
        labels=data.labels,
        query_images=data.query_images[:count],
        query_labels=data.query_labels[:count],
    )
    removed = tuple(r for r in REMOVED if r < task.train)

    def retrain(keep: Tensor) -> Tensor:
        weights = trained(task, some, keep, [0] * len(keep))[-1]
        return logits_of(task, weights, some.query_images)

    for row in ours.rows_of(task):
        path = folder / f"removal-{slug(row.name)}.safetensors"
        if row.name not in CURVES or (known and not path.is_file()):
            continue

        def compute(row: ours.Row = row) -> dict[str, Tensor]:
            found = removal_curve(
                ours.scored(task, some, truth, row),
                retrain,
                some.query_labels,
                counts=removed,
                at_once=100,
            )
            names = ("before", "change", "flips", "control_change", "control_flips")
            return {name: getattr(found, name) for name in names}

        stored, _ = cell(path, compute)
        yield row.name, RemovalCurve(counts=removed, **stored)


def main() -> int:
    """Run what is missing and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", action="append", choices=[t.name for t in TASKS])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "lds")
    parser.add_argument("--page", type=Path, default=None, help="where the tables are written")
    parser.add_argument("--known", action="store_true", help="tables of what is computed already")
    parser.add_argument("--small", action="store_true", help="tiny sizes, no page")
    options = parser.parse_args()
    if not DATA.is_file():
        print(f"needs {DATA.parent.parent.name}/data/{DATA.name} beside the repository")
        return 1
    tasks = [
        small(task) if options.small else task
        for task in TASKS
        if not options.task or task.name in options.task
    ]
    page = options.page or (None if options.small or options.task else PAGE)
    made = [Work(task=task, root=options.out, known=options.known) for task in tasks]
    text = ""
    for stage in ("scores", "labels", "removal", "solvers"):
        for work in made:
            work.do(stage)
            text = page_of(made)
            if page is not None:
                page.write_text(text, encoding="utf-8")
    print(text, flush=True)
    return 0


class Work:
    """A task and what is known of it so far.

    Args:
        task: The task.
        root: Where its cells lie.
        known: Compute nothing but the truth: take what is there.
    """

    def __init__(self, task: Task, root: Path, *, known: bool = False) -> None:
        self.known = known
        self.task, self.data = task, digits(task)
        self.folder = folder_of(task, root)
        self.truth = truth_of(task, self.data, root)
        self.rows: list[report.Result] = []
        self.labels: list[tuple[str, str, dict[str, Tensor] | None]] = []
        self.removal: list[tuple[str, RemovalCurve]] = []

    def do(self, stage: str) -> None:
        """Do one stage of the work."""
        known = (self.task, self.data, self.truth, self.folder)
        if stage in {"scores", "solvers"}:
            self.rows += cells_of(*known, slow=stage == "solvers", known=self.known)
        elif stage == "labels":
            self.labels += mislabels(*known, known=self.known)
        elif self.task.name == "logistic":
            self.removal += curves(*known, known=self.known)


def page_of(made: list[Work]) -> str:
    """Return the tables of everything that is known so far."""
    lines: list[str] = []
    for work in made:
        if work.rows:
            ordered = sorted(work.rows, key=lambda result: bool(result.ours))
            lines += report.table(work.task, work.truth, ordered)
    lines += report.mislabel_table([row for work in made for row in work.labels])
    lines += report.removal_table([row for work in made for row in work.removal])
    lines += report.time_table([work.folder for work in made])
    return "\n".join([*report.HEAD, *lines])


if __name__ == "__main__":
    sys.exit(main())
