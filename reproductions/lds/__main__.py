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
CURVES = ("grad-cos", "grad-dot", "trak", "ekfac", "ekfac, damping = decay")
"""Rows whose removal curves are drawn, on the logistic model."""

REMOVED = (10, 30, 100)
CURVE_QUERIES = 20
ASIDE = ("explicit", "lissa", "arnoldi", "influence")
"""Scorers that solve: last, as they take longest, and not for self-scores of every image."""


def cells_of(task: Task, data: Digits, truth: Truth, folder: Path) -> Iterator[report.Result]:
    """Yield the rows of a task, those of whence first; the slow ones at the end of them."""
    rows = sorted(ours.rows_of(task), key=lambda row: row.scorer.name in ASIDE)
    for row in rows:
        yield kept(
            folder / f"whence-{slug(row.name)}",
            row.name,
            "stages of one run" if row.models == "stages" else "",
            "",
            lambda row=row: ours.scores(task, data, truth, row)["scores"],
        )
    for peer in peers.peers_of(task, data, truth):
        path = folder / f"peer-{slug(peer.name)}"
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
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


def mislabels(
    task: Task, data: Digits, truth: Truth, folder: Path
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
        try:
            found, _ = cell(path, lambda row=row: mislabel.suspicion(task, data, truth, row))
        except Exception as error:  # noqa: BLE001 - a scorer that has no self-score says so
            print(f"  {path.parent.name}/{path.stem}: {error}", flush=True)
            yield task.name, row.name, None
            continue
        yield task.name, row.name, {**found, "wrong": found["wrong"].bool()}


def curves(
    task: Task, data: Digits, truth: Truth, folder: Path
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
        if row.name not in CURVES:
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

        stored, _ = cell(folder / f"removal-{slug(row.name)}.safetensors", compute)
        yield row.name, RemovalCurve(counts=removed, **stored)


def main() -> int:
    """Run what is missing and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", action="append", choices=[t.name for t in TASKS])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "lds")
    parser.add_argument("--page", type=Path, default=None, help="where the tables are written")
    parser.add_argument("--small", action="store_true", help="tiny sizes, no page")
    options = parser.parse_args()
    if not DATA.is_file():
        print(f"needs {DATA.parent.parent.name}/data/{DATA.name} beside the repository")
        return 1
    lines: list[str] = []
    found_labels: list[tuple[str, str, dict[str, Tensor] | None]] = []
    removal: list[tuple[str, RemovalCurve]] = []
    for whole in TASKS:
        if options.task and whole.name not in options.task:
            continue
        task = small(whole) if options.small else whole
        data = digits(task)
        folder = folder_of(task, options.out)
        truth = truth_of(task, data, options.out)
        part = report.table(task, truth, list(cells_of(task, data, truth, folder)))
        print("\n".join(["", *part]), flush=True)
        lines += part
        found_labels += mislabels(task, data, truth, folder)
        if task.name == "logistic":
            removal += curves(task, data, truth, folder)
    tail = report.mislabel_table(found_labels) + report.removal_table(removal)
    print("\n".join(tail), flush=True)
    page = options.page or (None if options.small or options.task else PAGE)
    if page is not None:
        page.write_text("\n".join([*report.HEAD, *lines, *tail]) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
