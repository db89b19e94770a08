"""The scorers of whence on a task, each fitted to the models of all training images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reproductions.lds.tasks import Digits, Task
from reproductions.lds.training import model_of
from reproductions.lds.truth import STAGES, Truth
from whence.core import Margin, TensorData
from whence.curvature import SampledLabels
from whence.influence import (
    EKFAC,
    KFAC,
    SCORERS,
    TRAK,
    Checkpoint,
    DataInf,
    Influence,
    InfluenceFunction,
    Projected,
    ProjectedFisher,
    RepresenterPoints,
    Scorer,
    SelfInfluence,
    influence,
    self_influence,
)
from whence.network import Network

ALONG = ("tracin", "gas")
"""Scorers over the stages of one training run."""

AVERAGED = ("grad-dot", "grad-cos", "trak", "kfac", "ekfac")
"""Scorers that are also taken over several models."""

BATCH = 100

DECAY = "damping = decay"
"""The weight decay of the training: what the curvature of the trained loss has on its diagonal."""

LAYER = "0.1 x mean, labels"
"""Damping by each layer's mean eigenvalue and sampled labels, as kronfluence has them."""

SKETCH = Projected(dimension=4096, kind="sketch")

DRAWN = ("kfac", "ekfac")
"""Scorers whose scores depend on what is drawn enough to be looked at."""

DRAWS = 5
"""Fits of these, here and in the library that they are compared with."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A scorer with the models that it looks at.

    Args:
        scorer: The scorer.
        models: ``"one"``, ``"stages"`` of one training run, or ``"several"`` runs.
        setting: What was set other than by default.
        draws: How often it is fitted, each time with other labels or signs drawn.
    """

    scorer: Scorer
    models: str = "one"
    setting: str = ""
    draws: int = 1

    @property
    def name(self) -> str:
        """What the row is called in tables and files."""
        name = f"{self.scorer.name}, {self.setting}" if self.setting else self.scorer.name
        return name if self.models != "several" else f"{name} x models"


def rows_of(task: Task) -> Iterator[Row]:
    """Yield the rows of a task: every scorer by default, then some with other settings."""
    for scorer in SCORERS:
        models = "stages" if scorer.name in ALONG else "one"
        yield Row(scorer=scorer, models=models, draws=DRAWS if scorer.name in DRAWN else 1)
    theirs = {"damping": "layer", "draws": SampledLabels()}
    yield Row(scorer=KFAC(**theirs), setting=LAYER, draws=DRAWS)
    yield Row(scorer=EKFAC(**theirs), setting=LAYER, draws=DRAWS)
    wide = [
        Row(scorer=TRAK(space=SKETCH), setting="sketch"),
        Row(scorer=ProjectedFisher(space=SKETCH), setting="sketch"),
    ]
    decay = [Row(scorer=made(damping=task.decay), setting=DECAY) for made in (KFAC, EKFAC)]
    yield from wide
    yield from (replace(row, draws=DRAWS) for row in decay)
    yield Row(scorer=InfluenceFunction(damping=task.decay), setting=DECAY)
    yield Row(scorer=DataInf(damping=task.decay), setting=DECAY)
    yield Row(scorer=RepresenterPoints(penalty=task.decay / 2), setting=DECAY)
    if task.members > 1:
        for scorer in SCORERS:
            if scorer.name in AVERAGED:
                yield Row(scorer=scorer, models="several")
        for row in (*wide[:1], *decay):
            yield replace(row, models="several")


def network_of(task: Task, data: Digits, truth: Truth) -> Network:
    """Return the first model of all training images, read."""
    return Network.read(model_of(task, truth.members[-1], 0), data.images[:2])


def checkpoints_of(task: Task, truth: Truth, models: str) -> list[Checkpoint] | None:
    """Return the weights that a row looks at, beside those of the network itself."""
    if models == "one":
        return None
    if models == "several":
        last = truth.members[-1]
        every = [{name: value[row] for name, value in last.items()} for row in range(task.members)]
        return [Checkpoint(weights=weights) for weights in every]
    return [
        Checkpoint(
            weights={name: value[0] for name, value in weights.items()},
            learning_rate=rate,
        )
        for weights, rate in zip(truth.members, rates_of(task), strict=True)
    ]


def rates_of(task: Task) -> list[float]:
    """Return the mean learning rate of the steps before each stage."""
    if task.batch == 0:
        return [task.rate] * STAGES
    return [task.rate * (1 - (stage + 0.5) / STAGES) for stage in range(STAGES)]


def training_data(data: Digits) -> TensorData:
    """Return the training images as whence reads them."""
    return TensorData(images=data.images, labels=data.labels)


def scored(task: Task, data: Digits, truth: Truth, row: Row) -> Influence:
    """Return the scores of all training images for all queries' labels."""
    return influence(
        network_of(task, data, truth),
        training_data(data),
        data.query_images,
        Margin(data.query_labels),
        scorer=row.scorer,
        checkpoints=checkpoints_of(task, truth, row.models),
        batch_size=BATCH,
    )


def self_scored(task: Task, data: Digits, truth: Truth, row: Row) -> SelfInfluence:
    """Return every training image's score for itself."""
    return self_influence(
        network_of(task, data, truth),
        training_data(data),
        scorer=row.scorer,
        checkpoints=checkpoints_of(task, truth, row.models),
        batch_size=BATCH,
    )


def scores(task: Task, data: Digits, truth: Truth, row: Row) -> dict[str, Tensor]:
    """Return the scores of a row as a cell keeps them: ``(n, q)``, or ``(draws, n, q)``."""
    if row.draws == 1:
        return {"scores": scored(task, data, truth, row).scores.detach()}
    rows = [replace(row, scorer=seeded(row.scorer, seed), draws=1) for seed in range(row.draws)]
    return {"scores": torch.stack([scores(task, data, truth, r)["scores"] for r in rows])}


def seeded(scorer: Scorer, seed: int) -> Scorer:
    """Return a scorer that draws other labels or signs."""
    if not isinstance(scorer, KFAC | EKFAC):
        msg = f"{scorer.name} draws nothing that is looked at"
        raise TypeError(msg)
    return replace(scorer, seed=seed)
