"""How much damping? Scores at several dampings, on queries that no other table looks at.

The dampings that whence takes where none is given were found with this: with queries 100 to 199
of the held-out digits (the other tables have the first 100), and with 250, 1000 and 4000 training
images. It prints one table; its retrainings are cells under ``build/lds/damping``.

    python -m reproductions.lds.damping
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from reproductions.lds.ours import BATCH, network_of, training_data
from reproductions.lds.report import judged
from reproductions.lds.tasks import DATA, REPOSITORY, TASKS, Digits, Task, digits, small
from reproductions.lds.truth import Truth, truth_of
from whence.core import ImageData, Margin, Progress, silent
from whence.curvature import Margins, RandomSigns, Sandwich, TrainingImages
from whence.gradients import Operator, Recorder
from whence.influence import Projected, Scoring, influence, one
from whence.influence.fisher import projected_moment
from whence.influence.fitting import SHARE, kronecker
from whence.influence.projected import projector_for

SKIPPED = 100
"""Held-out images before the queries: those are the other tables' queries."""

COUNTS = {250: 6, 1000: 3, 4000: 1}
"""Training images, and seeds of each retraining."""

TIMES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Dampings, as multiples of what is taken by default."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A scorer that is fitted already."""

    scoring: Scoring
    name: str = "fitted"

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring."""
        del recorder, train, batch_size, progress
        return self.scoring


@dataclass(frozen=True, kw_only=True, eq=False)
class Damped:
    """A curvature that waits for its damping.

    Args:
        name: The scorer.
        scoring: Returns the scoring at a damping.
        usual: The damping by default.
        heuristic: A tenth of the mean eigenvalue: of all, or of each layer where it is None.
    """

    name: str
    scoring: Callable[[float | None], Scoring]
    usual: float
    heuristic: float | None


def variants() -> Iterator[Task]:
    """Yield the tasks with other numbers of training images, and one model of all."""
    for task in TASKS:
        for count, seeds in COUNTS.items():
            if count > 1000 and task.batch == 0:
                continue
            yield replace(
                task,
                train=count,
                seeds=min(task.seeds, seeds),
                members=1,
                batch=task.batch and (50 if count >= 1000 else 20),
                epochs=task.epochs if count < 4000 or not task.batch else max(8, task.epochs // 2),
            )


def other_digits(task: Task) -> Digits:
    """Return the digits of a task, with the queries behind those of the other tables."""
    found = digits(replace(task, queries=SKIPPED + task.queries))
    return replace(
        found,
        query_images=found.query_images[SKIPPED:],
        query_labels=found.query_labels[SKIPPED:],
    )


def curvatures(chosen: TrainingImages) -> Iterator[Damped]:
    """Yield the curvatures whose damping is looked at, each fitted once."""
    recorder = chosen.recorder
    projector = projector_for(recorder, Projected())
    for name, draws in (("trak", Margins()), ("gauss-newton", RandomSigns())):
        moment = projected_moment(chosen, projector, draws=draws)

        def projected(damping: float | None, name: str = name, moment=moment) -> Scoring:  # noqa: ANN001
            inverse = moment.inverse(moment.usual_damping if damping is None else damping)
            operator = Sandwich(projector=projector, middle=inverse)
            if name == "trak":
                return Scoring(recorder=recorder, factors=one, operator=operator, ensemble="pooled")
            return Scoring(recorder=recorder, operator=operator)

        yield Damped(
            name=name,
            scoring=projected,
            usual=moment.usual_damping,
            heuristic=0.1 * moment.mean_eigenvalue,
        )
    kinds: tuple[tuple[str, Literal["product", "corrected"]], ...]
    kinds = (("kfac", "product"), ("ekfac", "corrected"))
    for name, values in kinds:
        curvature = kronecker(chosen, eigenvalues=values)

        def factored(damping: float | None, curvature=curvature) -> Scoring:  # noqa: ANN001
            inverse: Operator = curvature.inverse(damping)
            return Scoring(recorder=recorder, operator=inverse)

        yield Damped(
            name=name,
            scoring=factored,
            usual=SHARE * curvature.trace / len(chosen),
            heuristic=None,
        )


def lines_of(task: Task, data: Digits, truth: Truth) -> Iterator[str]:
    """Yield the table's lines for a task."""
    network, train = network_of(task, data, truth), training_data(data)
    recorder = Recorder(network)
    chosen = TrainingImages(recorder=recorder, data=train, batch_size=BATCH)
    for curvature in curvatures(chosen):
        cells = []
        for damping in (curvature.heuristic, *(curvature.usual * c for c in TIMES)):
            found = influence(
                network,
                train,
                data.query_images,
                Margin(data.query_labels),
                scorer=Fitted(scoring=curvature.scoring(damping)),
                batch_size=BATCH,
            )
            cells.append(f"{judged(truth, found.scores.detach()).score.mean:.3f}")
        decay = task.decay / curvature.usual
        yield (
            f"| {task.name} | {task.train} | {curvature.name} | {curvature.usual:.2g} | "
            f"{' | '.join(cells)} | {decay:.2g} |"
        )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "lds" / "damping")
    parser.add_argument("--page", type=Path, default=None, help="where the table is written")
    parser.add_argument("--small", action="store_true", help="tiny sizes, no page")
    options = parser.parse_args()
    if not DATA.is_file():
        print(f"needs {DATA.parent.parent.name}/data/{DATA.name} beside the repository")
        return 1
    times = [f"x {times:g}" for times in TIMES]
    lines = [
        "# Damping",
        "",
        "Written by `python -m reproductions.lds.damping`: LDS on queries that the other tables do",
        "not have, at multiples of the damping that is taken by default, beside a tenth of the",
        "mean eigenvalue (of each layer, for kfac and ekfac). The last column is the weight decay",
        "of the training as a multiple of the same.",
        "",
        f"| task | images | scores | default | 0.1 x mean | {' | '.join(times)} | decay |",
        f"|---|---|---|---|---|{'---|' * len(TIMES)}---|",
    ]
    page = options.page or (None if options.small else Path(__file__).parent / "damping.md")
    for task in map(small, TASKS) if options.small else variants():
        data = other_digits(task)
        for line in lines_of(task, data, truth_of(task, data, options.out)):
            print(line, flush=True)
            lines.append(line)
            if page is not None:
                page.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
