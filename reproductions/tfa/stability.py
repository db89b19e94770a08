"""T7: do maps stay when the network is trained again, or was not yet ready, or the noise is new?"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reproductions.tfa.experiments import FRACTIONS
from reproductions.tfa.maps import Case, makers, of
from reproductions.tfa.queries import Queries, Sizes, case_of, queries_of, scores_of
from reproductions.tfa.tasks import Task
from whence.attribution import SmoothGrad
from whence.core import Margin, Method, ModelScalar, Noise, Shuffled
from whence.evaluation import RelevanceRank, random_order
from whence.evaluation.training_maps import KeptPixels, MapStability
from whence.network import Network
from whence.training_features import influence_fn, map_named, reduced

__all__ = ["ablation", "smoothing", "stability"]

SAMPLES, SIGMAS = (2, 8, 32), (0.025, 0.05, 0.1, 0.2)

Values = dict[str, dict[str, list[float]]]


def stability(
    task: Task, models: Mapping[str, nn.Module], sizes: Sizes, *, pairs: int = 2
) -> dict[str, Any]:
    """Return the rank correlation of maps between the first network and others.

    Queries and training images are those of the first network, so that only the map changes.

    Args:
        task: The task.
        models: Networks by what they are; the names of others begin with the kind of change, as
            in ``"another training: 1"``.
        sizes: How many queries.
        pairs: Training images for each query.
    """
    first, *others = models
    queries = queries_of(task, models[first], sizes)
    case, top = case_of(task, models[first], queries, pairs)
    found: Values = {}
    for name in others:
        other = seen_by(task, models[name], queries, top, case)
        for query in queries.of("object"):
            rows = top[query]
            here, there = (plain(c, query, rows, at) for at, c in enumerate((case, other)))
            for kind, values in here.items():
                alike = MapStability()(torch.stack([values, there[kind]]))
                own = found.setdefault(kind, {}).setdefault(name.split(":")[0], [])
                own += [round(v, 5) for v in alike.tolist()]
    return {"stability": found}


def seen_by(task: Task, model: nn.Module, queries: Queries, top: Tensor, case: Case) -> Case:
    """Return the same queries and training images in another network."""
    scores = scores_of(task, model, queries, top)
    return Case(
        network=Network.read(model, task.images[:2]),
        model=model,
        influence=scores,
        fresh=scores,
        images=task.images,
        labels=task.labels,
        neutral=case.neutral,
    )


def plain(case: Case, query: int, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """Return all maps but those of another network; the seed is that of the random order."""
    every = {k: make for k, make in makers(case.neutral).items() if "neutral" not in k}
    found = {name: make(case, query, rows) for name, make in every.items()}
    found["random pixels"] = random_order(case.images[rows], seed=2 * query + seed)
    return found


def smoothing(samples: int, sigma: float, seed: int) -> Method:
    """Return the paper's smoothing, or none for no samples."""
    return SmoothGrad(samples=samples, sigma=sigma, seed=seed)


def ablation(task: Task, model: nn.Module, sizes: Sizes) -> dict[str, Any]:
    """Return T7 over draws of the noise, T4 and T1 of smoothed maps, and of what they are beside.

    The two-step map is smoothed alike: the saliency of the training image for its own label.
    """
    queries = queries_of(task, model, sizes)
    case, top = case_of(task, model, queries, 5)
    kept = KeptPixels(fractions=FRACTIONS, fills=(Shuffled(), Noise()), batch_size=32)
    found: Values = {}

    def add(name: str, measure: str, values: Tensor) -> None:
        found.setdefault(name, {}).setdefault(measure, []).extend(values.double().tolist())

    for query in queries.of("object"):
        rows = top[query][:1]
        whole = influence_fn(case.influence, query, case.labels[rows])
        for name, draws in smoothed(case, query, rows).items():
            maps = torch.stack(draws)
            if len(draws) > 1:
                add(name, "T7", MapStability()(maps))
            add(name, "T4 gap", kept(whole, case.images[rows], maps[0]))
    for query in queries.of("shortcut") if task.shortcut is not None else ():
        rows = top[query]
        rows = rows[task.marked[rows]][:1]
        if len(rows):
            for name, draws in smoothed(case, query, rows, draws=1).items():
                add(name, "T1 rank", RelevanceRank()(draws[0], task.square))
    return {"ablation": found}


def smoothed(case: Case, query: int, rows: Tensor, *, draws: int = 2) -> dict[str, list[Tensor]]:
    """Return maps by name, each for some draws of the noise."""
    found: dict[str, list[Tensor]] = {}
    own = ModelScalar(case.network, Margin(case.labels[rows]))
    score = influence_fn(case.influence, query, case.labels[rows])
    for samples in SAMPLES:
        for sigma in SIGMAS:
            methods = [smoothing(samples, sigma, seed) for seed in range(draws)]
            name = f"n = {samples}, sigma = {sigma}"
            for kind, f in (("tfa", score), ("2: saliency", own)):
                found[f"{kind}, {name}"] = [read(m(f, case.images[rows])) for m in methods]
    for name in ("tfa", "shared-evidence"):
        found[name] = [of(case.influence, query, rows, map_named(name), case)]
    for name in ("2: saliency", "2: LRP"):
        found[name] = [makers(case.neutral)[name](case, query, rows)]
    found["random pixels"] = [random_order(case.images[rows], seed=s) for s in range(draws)]
    return found


def read(values: Tensor) -> Tensor:
    """Return the reading of the paper: the channels' absolute maximum."""
    return reduced(values.detach(), "absolute-maximum")[:, None]
