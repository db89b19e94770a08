"""Each row: a metric of ours, the one of Quantus, and a figure that both sides tell."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

import numpy as np
import torch

from benchmarks.metrics.alone import Alone
from benchmarks.metrics.setup import Task
from whence.attribution import InputXGradient
from whence.core import ModelScalar, Zero, logit
from whence.evaluation import (
    ROAD,
    Deletion,
    Hit,
    Infidelity,
    Insertion,
    MaxSensitivity,
    NoisyLinear,
    ParameterRandomisation,
    PixelFlipping,
    RemovedSquares,
)
from whence.evaluation.robustness import drawn_boxes

__all__ = ["Pair", "pairs"]

STEPS, BATCH = 100, 128
SHARES = tuple(range(10, 100, 10))
LAYERS = {"LeNet": 5, "residual": 17}
SAMPLES, RADIUS = 20, 0.1
PLAIN = {"normalise": False, "disable_warnings": True}


@final
@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two pieces of work, each of which returns the mean of its figure over the images.

    Args:
        name: What is measured.
        ours: Our work.
        theirs: That of Quantus.
        alone: The passes that the definition asks for, and nothing else.
        same: Whether the figures must agree.
        note: What the figure is, or why the two differ.
    """

    name: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    alone: Callable[[], float]
    same: bool
    note: str


def pairs(task: Task, quantus: Any) -> list[Pair]:  # noqa: ANN401 - a library without types
    """Return all rows."""
    alone = Alone.of(task)
    return [
        *flips(task, quantus, alone),
        road(task, quantus, alone),
        infidelity(task, quantus, alone),
        sensitivity(task, quantus, alone),
        randomised(task, quantus, alone),
    ]


def flips(task: Task, quantus: ModuleType, alone: Alone) -> list[Pair]:
    """Return pixel flipping, deletion and insertion."""

    def area(values: torch.Tensor) -> float:
        step = task.images[0].numel() // STEPS
        metric = quantus.PixelFlipping(features_in_step=step, perturb_baseline=0.0, **PLAIN)
        call = task.theirs | {"a_batch": values.numpy()}
        with torch.no_grad():
            first = task.f(task.images)
        rest = torch.from_numpy(np.array(metric(**call))).float()  # without the whole image
        return float(torch.trapezoid(torch.cat([first[:, None], rest], 1), dx=1 / STEPS).mean())

    settings: dict[str, Any] = {"steps": STEPS, "fill": Zero(), "batch_size": BATCH}
    judged = task.f, task.images, task.values
    note = "area of the logit over {} steps; the image itself put before Quantus' curve"
    return [
        Pair(
            name=name,
            ours=lambda metric=metric: float(metric(*judged).mean()),  # type: ignore[misc]
            theirs=lambda signed=signed: area(signed),  # type: ignore[misc]
            alone=lambda: alone.passes(STEPS + 1),
            same=True,
            note=note.format(STEPS) + more,
        )
        for name, metric, signed, more in (
            ("pixel flipping", PixelFlipping(**settings), task.values, ""),
            ("deletion", Deletion(**settings), task.values, ""),
            ("insertion", Insertion(**settings), -task.values, "; of -a, read backwards"),
        )
    ]


def road(task: Task, quantus: ModuleType, alone: Alone) -> Pair:
    """Return ROAD as accuracy at nine shares, without noise."""

    def theirs() -> float:
        metric = quantus.ROAD(percentages=list(SHARES), noise=1e-9, **PLAIN)
        found = metric(**task.theirs)
        told = found if isinstance(found, dict) else found[0]
        return float(np.mean(list(told.values())))

    metric = ROAD(order="most", fill=NoisyLinear(noise=0.0), batch_size=BATCH)
    f = ModelScalar(task.model, Hit(task.labels))
    return Pair(
        name="ROAD",
        ours=lambda: float(metric(f, task.images, task.values).mean()),
        theirs=theirs,
        alone=lambda: alone.passes(len(SHARES)),
        same=True,
        note="accuracy, mean over nine shares",
    )


def infidelity(task: Task, quantus: ModuleType, alone: Alone) -> Pair:
    """Return infidelity of as many perturbed images."""
    side, repeats = task.images.shape[3] // 6, 5
    patches = 36

    def theirs() -> float:
        metric = quantus.Infidelity(
            perturb_patch_sizes=[side], n_perturb_samples=repeats, perturb_baseline=0.0, **PLAIN
        )
        return float(np.mean(metric(**task.theirs)))

    metric = Infidelity(
        perturbation=RemovedSquares(largest=1 / 6),
        scaled=False,
        samples=patches * repeats,
        batch_size=BATCH,
    )
    return Pair(
        name="infidelity",
        ours=lambda: float(metric(task.f, task.images, task.values).mean()),
        theirs=theirs,
        alone=lambda: alone.passes(patches * repeats + 1),
        same=False,
        note=(
            f"{patches * repeats} perturbed images each; Quantus removes patches on top of one "
            f"another, multiplies contributions by the image again, and repeats the same {patches}"
        ),
    )


def sensitivity(task: Task, quantus: ModuleType, alone: Alone) -> Pair:
    """Return max-sensitivity, with the same draws on both sides."""
    method = InputXGradient()
    draws = drawn_boxes(0, torch.arange(SAMPLES), task.images).flatten(1).numpy()

    def theirs() -> float:
        number = iter(range(SAMPLES))

        def added(arr: np.ndarray, indices: object, **_: object) -> np.ndarray:
            del indices
            moved: np.ndarray = arr + np.float32(RADIUS) * draws[next(number)]
            return moved

        metric = quantus.MaxSensitivity(nr_samples=SAMPLES, perturb_func=added, **PLAIN)
        explained = {"method": "InputXGradient"}
        call = task.theirs | {"explain_func": quantus.explain, "explain_func_kwargs": explained}
        return float(np.mean(metric(**call)))

    metric = MaxSensitivity(radius=RADIUS, samples=SAMPLES, batch_size=BATCH)

    def ours() -> float:
        return float(metric(task.f, task.images, task.values, method).mean())

    note = f"input times gradient, {SAMPLES} equal draws; Quantus by Captum"
    return Pair(
        name="max-sensitivity",
        ours=ours,
        theirs=theirs,
        alone=lambda: alone.maps(SAMPLES),
        same=True,
        note=note,
    )


def randomised(task: Task, quantus: ModuleType, alone: Alone) -> Pair:
    """Return the cascading randomisation of parameters, top down."""
    similarity = importlib.import_module("quantus.functions.similarity_func")

    def theirs() -> float:
        metric = quantus.MPRT(
            similarity_func=similarity.correlation_spearman, abs=False,
            return_average_correlation=True, **PLAIN,
        )  # fmt: skip
        explained = {"method": "InputXGradient"}
        call = task.theirs | {"explain_func": quantus.explain, "explain_func_kwargs": explained}
        return float(np.mean(metric(**call)))

    def ours() -> float:
        target = logit(task.labels)
        found = ParameterRandomisation()(task.model, task.images, target, InputXGradient())
        return float(found.correlations.mean())

    return Pair(
        name="parameter randomisation",
        ours=ours,
        theirs=theirs,
        alone=lambda: alone.maps(LAYERS[task.network] + 1),
        same=False,
        note=(
            f"mean Spearman correlation over {LAYERS[task.network]} layers; other random weights, "
            "and Quantus' mean holds the 1.0 of the network as it was"
        ),
    )


def silenced(work: Callable[[], float]) -> float:
    """Return what the work returns, without the warnings of either side."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()
