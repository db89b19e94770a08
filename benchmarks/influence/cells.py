"""What is measured: our ways, naive ones, and those of other libraries."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from benchmarks.influence.peers import captum, dattri, kronfluence, trak
from benchmarks.influence.setup import Setup
from benchmarks.influence.work import MAPPED, TOP, Cell, Work, labels_of
from whence.attribution import Gradient
from whence.core import Margin
from whence.gradients import Recorder
from whence.influence import (
    GradCos,
    GradDot,
    Influence,
    index_gradients,
    influence,
    retrieve,
    search_gradients,
)
from whence.influence.batches import training_images
from whence.influence.fitting import ekfac
from whence.training_features import influence_fn

__all__ = ["CELLS"]


def scored(setup: Setup, scorer: GradCos | GradDot, queries: int, **settings: Any) -> Influence:  # noqa: ANN401
    """Return our scores."""
    train, test = setup.data
    labels = labels_of(test.labels)[:queries]
    return influence(
        setup.network, train, test.images[:queries], Margin(labels), scorer=scorer, **settings
    )


def ranked(setup: Setup, scorer: GradCos | GradDot) -> Work:
    """Exact scores of all queries."""
    routes: list[str] = []

    def run() -> Tensor:
        found = scored(setup, scorer, setup.queries, batch_size=setup.batch)
        routes.append(str(found.route))
        return found.scores

    def some() -> Tensor:
        part = setup.part(setup.batch)
        return scored(part, scorer, setup.queries, batch_size=setup.batch).scores

    return Work(run=run, units=setup.images, note=lambda: routes[-1], some=some)


def one_query(setup: Setup) -> Work:
    """Exact Grad-Dot of one query, without norms."""
    routes: list[str] = []

    def run() -> Tensor:
        found = scored(setup, GradDot(), 1, norms=False, batch_size=setup.batch)
        routes.append(str(found.route))
        return found.scores

    return Work(run=run, units=setup.images, note=lambda: routes[-1])


def indexed(setup: Setup) -> Work:
    """An index of projected gradients."""
    train, _ = setup.data
    notes: list[str] = []

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            manifest = index_gradients(
                setup.network, train, Path(folder) / "index", batch_size=setup.batch
            )
            size = sum(shard.size for shard in manifest.shards) / manifest.rows
            notes.append(f"{size / 1000:.1f} kB per image")

    return Work(run=run, units=setup.images, note=lambda: notes[-1])


def asked(setup: Setup, candidates: int) -> Work:
    """Queries of an index: re-ranked exactly, or estimated if there are no candidates."""
    train, test = setup.data
    folder = Path(tempfile.mkdtemp()) / "index"
    index_gradients(setup.network, train, folder, batch_size=setup.batch)
    target = Margin(labels_of(test.labels))
    notes: list[str] = []

    def run() -> Tensor:
        scores = torch.full((setup.images, setup.queries), -torch.inf)
        if candidates:
            found = retrieve(
                setup.network,
                train,
                folder,
                test.images,
                target,
                k=TOP,
                candidates=candidates,
                sample=0,
                batch_size=setup.batch,
            )
            notes.append(f"{found.scored} of {found.rows} images scored exactly")
            return scores.scatter(0, found.indices.T, found.scores.T)
        near = search_gradients(
            setup.network, folder, test.images, target, count=min(100, setup.images)
        )
        return scores.scatter(0, near.indices.T, near.scores.T)

    return Work(run=run, units=setup.images, note=lambda: notes[-1] if notes else "")


def mapped(setup: Setup, scorer: GradCos | GradDot) -> Work:
    """Training-feature maps of images that share a query; the scores are there already."""
    train, _ = setup.data
    found = scored(setup, scorer, 1, batch_size=setup.batch)
    places = found.proponents(MAPPED).indices[0]
    images, labels = train.images[places], labels_of(train.labels)[places]
    method, f = Gradient(), influence_fn(found, 0, labels)

    def run() -> None:
        method(f, images)

    return Work(run=run, units=len(places))


def curved(setup: Setup) -> Work:
    """EK-FAC's factors and eigenvalues: two passes."""
    train, _ = setup.data
    recorder = Recorder(setup.network)

    def run() -> None:
        ekfac(training_images(recorder, train, batch_size=setup.batch))

    return Work(run=run, units=setup.images)


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of one image's loss, flat."""
    loss = functional.cross_entropy(model(images[None]), labels[None])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def looped(setup: Setup) -> Work:
    """The naive loop: one backward pass per image."""
    train, test = setup.data

    def run() -> Tensor:
        queries = torch.stack(
            [
                losses(setup.model, x, y)
                for x, y in zip(test.images, labels_of(test.labels), strict=True)
            ]
        )
        queries = functional.normalize(queries)
        rows = []
        for x, y in zip(train.images, labels_of(train.labels), strict=True):
            gradient = losses(setup.model, x, y)
            rows.append(queries @ gradient / gradient.norm())
        return torch.stack(rows)

    return Work(run=run, units=setup.images)


def vmapped(setup: Setup) -> Work:
    """``vmap`` over ``grad``, in batches."""
    train, test = setup.data
    held = {name: p.detach() for name, p in setup.model.named_parameters()}
    buffers = dict(setup.model.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(setup.model, {**parameters, **buffers}, (image[None],))
        return functional.cross_entropy(logits, label[None])

    formed = vmap(grad(loss), in_dims=(None, 0, 0))

    def flat(images: Tensor, labels: Tensor) -> Tensor:
        found = formed(held, images, labels)
        return functional.normalize(torch.cat([v.flatten(1) for v in found.values()], dim=1))

    def run() -> Tensor:
        queries = flat(test.images, labels_of(test.labels))
        parts = [
            flat(x, y) @ queries.T
            for x, y in zip(
                train.images.split(setup.batch),
                labels_of(train.labels).split(setup.batch),
                strict=True,
            )
        ]
        return torch.cat(parts)

    return Work(run=run, units=setup.images)


def naive_maps(setup: Setup) -> Work:
    """Grad-Cos maps by a loop with double backward."""
    train, test = setup.data
    parameters = list(setup.model.parameters())
    label = labels_of(test.labels)[0]
    query = functional.normalize(losses(setup.model, test.images[0], label), dim=0)

    def run() -> None:
        pairs = zip(train.images[:MAPPED], labels_of(train.labels)[:MAPPED], strict=True)
        for image, own in pairs:
            x = image[None].clone().requires_grad_()
            loss = functional.cross_entropy(setup.model(x), own[None])
            parts = torch.autograd.grad(loss, parameters, create_graph=True)
            gradient = torch.cat([g.flatten() for g in parts])
            torch.autograd.grad(query @ gradient / gradient.norm(), x)

    return Work(run=run, units=min(MAPPED, setup.images))


def cells() -> Iterator[Cell]:
    """Yield the rows of the table, in its order."""
    ours = "whence"
    yield Cell(
        name="exact Grad-Cos",
        library=ours,
        make=lambda setup: ranked(setup, GradCos()),
        aim=2.2,
        exact="cos",
    )
    yield Cell(
        name="exact Grad-Dot",
        library=ours,
        make=lambda setup: ranked(setup, GradDot()),
        exact="dot",
    )
    yield Cell(name="exact Grad-Dot, 1 query", library=ours, make=one_query)
    yield Cell(name="index of projections", library=ours, make=indexed, aim=0.75)
    yield Cell(
        name="index, estimated",
        library=ours,
        make=lambda setup: asked(setup, 0),
        exact="cos",
    )
    yield Cell(
        name="index, exact re-rank of 20",
        library=ours,
        make=lambda setup: asked(setup, 2 * TOP),
        exact="cos",
    )
    yield Cell(
        name="Grad-Dot maps, one query",
        library=ours,
        make=lambda setup: mapped(setup, GradDot()),
        unit="map",
        aim=1.7,
        few=True,
    )
    yield Cell(
        name="Grad-Cos maps, one query",
        library=ours,
        make=lambda setup: mapped(setup, GradCos()),
        unit="map",
        aim=4.0,
        few=True,
    )
    yield Cell(name="EK-FAC, fitting", library=ours, make=curved, few=True, small=True)
    yield Cell(name="Grad-Cos, naive loop", library="torch", make=looped, exact="cos")
    yield Cell(name="Grad-Cos, vmap(grad)", library="torch", make=vmapped, exact="cos")
    yield Cell(name="Grad-Cos maps, naive loop", library="torch", make=naive_maps, unit="map")
    yield Cell(
        name="TracInCP",
        library="captum",
        make=lambda setup: captum(setup, fast=False),
        exact="dot",
    )
    yield Cell(
        name="TracInCPFast, last layer",
        library="captum",
        make=lambda setup: captum(setup, fast=True),
        exact="dot",
    )
    yield Cell(
        name="Grad-Dot (identity)",
        library="kronfluence",
        make=lambda setup: kronfluence(setup, "identity"),
        exact="dot",
    )
    yield Cell(
        name="EK-FAC, fitting",
        library="kronfluence",
        make=lambda setup: kronfluence(setup, "ekfac"),
        small=True,
    )
    yield Cell(name="TRAK", library="TRAK", make=trak, small=True)
    yield Cell(name="Grad-Cos", library="dattri", make=dattri, exact="cos", small=True)


CELLS = tuple(cells())
"""The rows of the table."""
