"""The study: every method, control and true map, by every metric, through ``whence.evaluate``."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import whence
from benchmarks.methods.networks import BUILD, trained
from benchmarks.methods.scenes import NOISE, PHOTOGRAPHS, SHORTCUT, Scene, scene
from whence.adapters import LoadedModel
from whence.attribution import cards
from whence.core import Progress, TensorData, silent
from whence.results.evaluation import EvaluationRecord

__all__ = [
    "BLURRED",
    "CONTROLS",
    "COUNT",
    "LOCALISING",
    "METHODS",
    "METRICS",
    "NEAREST",
    "OBJECT",
    "OTHER",
    "SETS",
    "SKIPPED",
    "TRUTH",
    "TRUTHS",
    "study",
]

SETS = (PHOTOGRAPHS, SHORTCUT, NOISE)
COUNT, CELL = 64, 32
"""Images of each set, and images of a cell, which is what a run that is stopped can lose."""

TRUTH, BLURRED, NEAREST, OBJECT = "true map", "true map, blurred", "nearest to it", "digit"
"""The mask of what decides the class; the same out of focus; all pixels, those nearest to the mask
first, so that no metric has to order the rest by chance; and, beside a patch, the digit."""

TRUTHS = (TRUTH, BLURRED, NEAREST)

SIGMA = 2.0

SKIPPED = {
    "rise": 1000,
    "kernel-shap": 500,
    "lime": 500,
    "soundness-saliency": 20000,
    "extremal-perturbation": 800,
    "pertinent-negatives": 1800,
    "pertinent-positives": 1800,
}
"""Methods whose defaults take more than 300 passes for an image, with how many they take."""

OTHER = {
    "expected-gradients": "with its default reference, black, it is integrated gradients",
    "gradient-shap": "with its default reference, black, it is integrated gradients with noise",
    "x-gradient": "for X-DNNs only; on any other network it would be input x gradient",
}
"""Methods that say nothing of their own here, and why."""

METHODS = tuple(
    card.name for card in cards() if card.name not in SKIPPED and card.name not in OTHER
)
CONTROLS = ("input-map", "centre-map")
"""Beside the random, constant and edge maps that stand in every evaluation."""

METRICS = {
    "insertion": "insertion:steps=10",
    "deletion": "deletion:steps=10",
    "least first": "pixel-flipping:order=least,steps=10",
    "SRG": "srg:steps=10",
    "ROAD": "road:shares=0.1 0.3 0.5 0.7 0.9",
    "faithfulness correlation": "faithfulness-correlation:subsets=50",
    "infidelity": "infidelity:samples=50",
    "pointing game": "pointing-game",
    "energy pointing": "energy-pointing",
    "relevance mass": "relevance-mass",
    "relevance rank": "relevance-rank",
    "AUC": "map-auc",
    "Gini": "gini",
    "random logit": "random-logit",
}
"""The metrics by their names in the tables, with the settings that differ from the defaults."""

LOCALISING = ("pointing game", "energy pointing", "relevance mass", "relevance rank", "AUC")


def judged_scene(kind: str, count: int, model: LoadedModel) -> Scene:
    """Return the first images of a kind that a network gets right, as the truth demands."""
    pool = scene(kind, 2 * count + 16, judged=True, seed=20)
    with torch.no_grad():
        right = model.module(pool.images).argmax(dim=1) == pool.labels
    return pool.some(right.nonzero()[:count, 0])


def true_maps(pictures: Scene, kind: str) -> dict[str, Tensor]:
    """Return the true map, the same blurred, and beside a patch that of the digit."""
    truth = pictures.truth.float()
    found = {TRUTH: truth, BLURRED: blurred(truth)}
    return {**found, OBJECT: pictures.objects.float()} if kind == SHORTCUT else found


def blurred(maps: Tensor) -> Tensor:
    """Return maps under a Gaussian of 2 pixels; what lies outside the image counts as zero."""
    reach = torch.arange(-6, 7, dtype=maps.dtype)
    kernel = torch.exp(-(reach**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    down = functional.conv2d(maps, kernel[None, None, :, None], padding=(6, 0))
    return functional.conv2d(down, kernel[None, None, None, :], padding=(0, 6))


def nearest(masks: Tensor) -> Tensor:
    """Return 1 in the mask, and 1 over 1 and the distance to it outside, ``(n, 1, h, w)``."""
    height, width = masks.shape[2:]
    every = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()
    far = [torch.cdist(every, every[one.flatten() > 0]).amin(dim=1) for one in masks]
    return 1 / (1 + torch.stack(far)).reshape(-1, 1, height, width)


def study(
    kind: str,
    name: str,
    *,
    digits: bool = False,
    count: int = COUNT,
    build: Path = BUILD,
    progress: Progress = silent,
) -> EvaluationRecord:
    """Judge everything on a network and the images of a kind; nothing is done twice.

    Args:
        kind: One of :data:`SETS`.
        name: One of the networks.
        digits: Judge only where maps lie, and as if the digit decided the class, beside a patch.
        count: Images.
        build: Where networks and cells are kept.
        progress: Told how far the work is.
    """
    model = trained(name, shortcut=kind == SHORTCUT, build=build, progress=progress)
    pictures = judged_scene(kind, count, model)
    chosen = LOCALISING if digits else tuple(METRICS)
    masks = pictures.objects if digits else pictures.truth
    ask = partial(
        whence.evaluate,
        {name: model},
        data_of(pictures, kind),
        metrics={metric: METRICS[metric] for metric in chosen},
        masks=masks.float(),
        target="label",
        count=count,
        batch_size=CELL,
        resume=True,
        command="python -m benchmarks.methods",
        progress=progress,
    )
    place = build / f"{kind}-{name}-{count}{'-digits' if digits else ''}".lower()
    record = ask(methods=METHODS, maps=true_maps(pictures, kind), controls=CONTROLS, out=place)
    if digits:
        return record
    further = {NEAREST: nearest(pictures.truth.float())}
    return joined(record, ask(methods=(), maps=further, out=place.with_name(f"{place.name}-more")))


def joined(record: EvaluationRecord, more: EvaluationRecord) -> EvaluationRecord:
    """Return a record with the maps of another of the same images and metrics."""
    if record.images != more.images or record.labels != more.labels:
        msg = "The records are not of the same images. Remove build/methods and run it again."
        raise SystemExit(msg)
    extra = tuple(one for one in more.methods if one.kind == "maps")
    names = {one.name for one in extra}
    return replace(
        record,
        methods=(*record.methods, *extra),
        scores=(*record.scores, *(one for one in more.scores if one.method in names)),
    )


def data_of(pictures: Scene, kind: str) -> TensorData:
    """Return images as data; pixels are the networks' own units."""
    return TensorData(
        images=pictures.images,
        labels=pictures.labels,
        classes=tuple(str(k) for k in range(10)),
        title=f"digits on {kind}" if kind != SHORTCUT else "digits with a patch",
    )
