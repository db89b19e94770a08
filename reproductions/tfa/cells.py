"""The cells of the experiment: which network on which data, and what is asked of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reproductions.tfa.costs import costs
from reproductions.tfa.experiments import run
from reproductions.tfa.networks import at, fitted, resnet20, small
from reproductions.tfa.queries import Sizes
from reproductions.tfa.removal import trainer, without_images, without_pixels
from reproductions.tfa.scenes import boxes, cifar, pets, scenes, spoilt_cifar
from reproductions.tfa.stability import ablation, stability
from reproductions.tfa.tasks import Task, shapes

__all__ = ["Cell", "Setup", "cells", "setups"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One network on one task.

    Args:
        name: What it is called in the tables, without the seed.
        seed: Of weights and training.
        task: Makes the task.
        network: Makes the network before its training.
        epochs: Of training; 0 takes the network as it is.
        rate: The highest learning rate.
        sizes: How many queries of each kind.
        needs: What of the shared data it needs; empty for data that are made here.
        more: Makes more test images of the same kind, where they can be drawn.
    """

    name: str
    seed: int
    task: Callable[[], Task]
    network: Callable[[], nn.Module]
    epochs: int
    rate: float = 4e-3
    sizes: Sizes
    needs: str = ""
    more: Callable[[], Task] | None = None

    @property
    def title(self) -> str:
        """The name with the seed."""
        return f"{self.name}, seed {self.seed}" if self.epochs else self.name

    def fresh(self) -> nn.Module:
        """Return the network before its training."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self.network().eval()

    def models(self, task: Task, out: Path) -> dict[float, nn.Module]:
        """Return the network at several moments of its training; the last is at 1."""
        if not self.epochs:
            return {1.0: self.fresh()}
        file = out / f"{self.title.replace(', ', '-').replace(' ', '')}.weights.pt"
        kept = fitted(self.fresh(), task, file, epochs=self.epochs, seed=self.seed, rate=self.rate)
        return {moment: at(self.fresh(), weights) for moment, weights in kept.items()}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One piece of work whose result is kept.

    Args:
        name: Its name among the results.
        needs: What of the shared data it needs.
        work: From the folder for weights and pictures to the result.
    """

    name: str
    needs: str
    work: Callable[[Path], dict[str, Any]]


def setups() -> list[Setup]:
    """Return every network on every task."""
    found = []
    for seed in range(3):
        found += [
            Setup(
                name=f"shapes, {shown}",
                seed=seed,
                task=partial(shapes, seed),
                network=small(shown.lower(), 6, 32),
                epochs=10,
                sizes=Sizes(shortcut=8, object=10, harmful=6),
                more=partial(shapes, seed + 50, count=2, tests=4000),
            )
            for shown in ("ReLU", "GELU")
        ]
        found += [
            Setup(
                name="CIFAR-10 with squares, ResNet-20",
                seed=seed,
                task=spoilt_cifar,
                network=resnet20,
                epochs=4,
                rate=1e-3,
                sizes=Sizes(shortcut=6, object=6, harmful=6),
                needs="cifar10_lossless.npz",
            ),
            Setup(
                name="scenes, ReLU",
                seed=seed,
                task=scenes,
                network=small("relu", 2, 64),
                epochs=12,
                sizes=Sizes(shortcut=6, object=6),
                needs="petscenes64_cats_on_reef.zip",
            ),
        ]
    for seed in range(2):
        found += [
            Setup(
                name=name,
                seed=seed,
                task=task,
                network=small(name.split(", ")[1].lower(), classes, 64),
                epochs=epochs,
                sizes=Sizes(object=8),
                needs=file,
            )
            for name, task, classes, epochs, file in (
                ("pets, ReLU", pets, 3, 30, "pets3_trimaps.zip"),
                ("boxes, GELU", boxes, 10, 15, "tinyimagenet10_boxes.zip"),
            )
        ]
    whole = Setup(
        name="CIFAR-10, ResNet-20",
        seed=0,
        task=cifar,
        network=resnet20,
        epochs=0,
        sizes=Sizes(object=10),
        needs="cifar10_lossless.npz",
    )
    return [*found, whole]


def cells() -> list[Cell]:
    """Return all cells, the most telling first."""
    every = setups()
    first = {setup.name: setup for setup in every if setup.seed == 0}
    found = [cell("maps", setup, maps) for setup in first.values()]
    relu, gelu, tuned = (first[n] for n in ("shapes, ReLU", "shapes, GELU", TUNED))
    found += [cell("ablation", s, smoothing) for s in (relu, gelu, tuned)]
    found += [
        cell("stability", s, partial(again, others=others_of(s, every)))
        for s in (relu, gelu, tuned, *(first[n] for n in PICTURES))
    ]
    found += [cell("removal", s, left_out) for s in (relu, gelu, tuned)]
    found += [cell("pixels", s, painted_over) for s in (gelu, tuned)]
    found += [cell("cost", first[n], priced) for n in TIMED]
    found += [cell("maps", setup, maps) for setup in every if setup.seed]
    return found


TUNED = "CIFAR-10 with squares, ResNet-20"
PICTURES = ("scenes, ReLU", "pets, ReLU", "boxes, GELU")
TIMED = ("shapes, GELU", "scenes, ReLU", "CIFAR-10, ResNet-20")
"""The networks on which the cost of maps is measured."""


def others_of(setup: Setup, every: list[Setup]) -> list[Setup]:
    """Return the same network on the same data, trained with other seeds."""
    if setup.name.startswith("shapes"):  # whose data change with the seed
        return [replace(setup, name=f"{setup.name}, same data", seed=10 + k) for k in range(2)]
    return [s for s in every if s.name == setup.name and s.seed != setup.seed]


def cell(kind: str, setup: Setup, work: Callable[[Setup, Path], dict[str, Any]]) -> Cell:
    """Return a piece of work on a network."""
    return Cell(name=f"{kind}: {setup.title}", needs=setup.needs, work=partial(work, setup))


def maps(setup: Setup, out: Path) -> dict[str, Any]:
    """T1 to T6; pictures are kept beside."""
    task = setup.task()
    row, pictures = run(task, setup.models(task, out)[1.0], setup.sizes)
    if setup.seed == 0:
        torch.save(pictures, out / f"{setup.name.replace(', ', '-').replace(' ', '')}.pictures.pt")
    return row


def smoothing(setup: Setup, out: Path) -> dict[str, Any]:
    """The ablation of noise count and sigma."""
    task = setup.task()
    return ablation(task, setup.models(task, out)[1.0], Sizes(shortcut=4, object=4))


def again(setup: Setup, out: Path, others: list[Setup]) -> dict[str, Any]:
    """T7 over training seeds and checkpoints."""
    task = setup.task()
    moments = setup.models(task, out)
    named = {"this": moments.pop(1.0)}
    named |= {f"at {share:.0%} of the training: 0": model for share, model in moments.items()}
    named |= {f"another training: {s.seed}": s.models(task, out)[1.0] for s in others}
    return stability(task, named, Sizes(object=6))


def left_out(setup: Setup, out: Path) -> dict[str, Any]:
    """Training without harmful images."""
    task = setup.task()
    train = trainer(setup.network, epochs=setup.epochs, rate=setup.rate)
    more = setup.more() if setup.more else None
    return without_images(task, setup.models(task, out)[1.0], train, setup.seed, more)


def painted_over(setup: Setup, out: Path) -> dict[str, Any]:
    """Training without the pixels that maps show."""
    task = setup.task()
    train = trainer(setup.network, epochs=setup.epochs, rate=setup.rate)
    return without_pixels(task, setup.models(task, out)[1.0], train, setup.seed)


def priced(setup: Setup, out: Path) -> dict[str, Any]:
    """The cost of maps."""
    task = setup.task()
    return {"cost": costs(task, setup.models(task, out)[1.0])}
