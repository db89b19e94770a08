"""What is measured: our ways, and those of other libraries, on the same network and images."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.influence.setup import Setup
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
from whence.influence.fitting import ekfac
from whence.training_features import influence_fn

__all__ = ["CELLS", "Cell", "Work"]

MAPPED = 16
"""Training images of a map cell; all have one query."""

TOP = 10


@final
@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to measure.

    Args:
        run: Does it; returns scores ``(n, q)`` if there are any.
        units: Training images that it goes over, or maps that it makes.
        note: What else to say, known after the run.
    """

    run: Callable[[], Tensor | None]
    units: int
    note: Callable[[], str] = str


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row of the table.

    Args:
        name: What is done.
        library: By whom.
        unit: What its time is divided by: ``image`` or ``map``.
        make: Prepares the work; not measured.
        aim: Training steps per unit that it should take at most; None without an aim.
        exact: Which exact score its lists are compared with: ``cos``, ``dot`` or nothing.
        few: Whether it goes over as few images as other libraries do.
    """

    name: str
    library: str
    make: Callable[[Setup], Work]
    unit: str = "image"
    aim: float | None = None
    exact: str = ""
    few: bool = False


def scored(setup: Setup, scorer: GradCos | GradDot, queries: int, **settings: Any) -> Influence:  # noqa: ANN401
    """Return our scores."""
    train, test = setup.data
    labels = labels_of(test.labels)[:queries]
    return influence(
        setup.network, train, test.images[:queries], Margin(labels), scorer=scorer, **settings
    )


def labels_of(labels: Tensor | None) -> Tensor:
    """Return labels, which these data have."""
    return torch.zeros(0, dtype=torch.int64) if labels is None else labels


def cosines(setup: Setup) -> Work:
    """Exact Grad-Cos of all queries."""
    routes: list[str] = []

    def run() -> Tensor:
        found = scored(setup, GradCos(), setup.queries, batch_size=setup.batch)
        routes.append(str(found.route))
        return found.scores

    return Work(run=run, units=setup.images, note=lambda: routes[-1])


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


def asked(setup: Setup, *, exactly: bool) -> Work:
    """Queries of an index, estimated or re-ranked."""
    train, test = setup.data
    folder = Path(tempfile.mkdtemp()) / "index"
    index_gradients(setup.network, train, folder, batch_size=setup.batch)
    target = Margin(labels_of(test.labels))
    notes: list[str] = []

    def run() -> Tensor:
        scores = torch.full((setup.images, setup.queries), -torch.inf)
        if exactly:
            found = retrieve(
                setup.network,
                train,
                folder,
                test.images,
                target,
                k=TOP,
                candidates=2 * TOP,
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
        ekfac(recorder, train, batch_size=setup.batch)

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


def datasets(setup: Setup) -> tuple[Any, Any]:
    """Return both sets as other libraries take them."""
    train, test = setup.data
    return (
        TensorDataset(train.images, labels_of(train.labels)),
        TensorDataset(test.images, labels_of(test.labels)),
    )


def captum(setup: Setup, *, fast: bool) -> Work:
    """TracIn at one checkpoint by captum, over all layers or the last one."""
    from captum.influence import TracInCP, TracInCPFast  # noqa: PLC0415 - slow

    train, _ = datasets(setup)
    _, test = setup.data
    settings: dict[str, Any] = {
        "train_dataset": train,
        "checkpoints": [""],
        "checkpoints_load_func": lambda _model, _path: 1.0,
        "loss_fn": nn.CrossEntropyLoss(reduction="sum"),
        "batch_size": setup.batch,
    }
    if fast:
        head = [m for m in setup.model.modules() if isinstance(m, nn.Linear)][-1]
        made = TracInCPFast(setup.model, head, **settings)
    else:
        made = TracInCP(setup.model, sample_wise_grads_per_batch=True, **settings)

    def run() -> Tensor:
        found: Tensor = made.influence((test.images, labels_of(test.labels)))
        return found.detach().T

    return Work(run=run, units=setup.images)


def trak(setup: Setup) -> Work:
    """TRAK by its authors' library."""
    from trak import TRAKer  # noqa: PLC0415 - slow

    train, test = (DataLoader(d, batch_size=setup.batch) for d in datasets(setup))

    def run() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            made = TRAKer(
                model=setup.model,
                task="image_classification",
                train_set_size=setup.images,
                save_dir=folder,
                device="cpu",
                proj_dim=512,
                use_half_precision=False,
                logging_level=logging.ERROR,
            )
            state = setup.model.state_dict()
            made.load_checkpoint(state, model_id=0)
            for batch in train:
                made.featurize(batch=batch, num_samples=len(batch[0]))
            made.finalize_features()
            made.start_scoring_checkpoint("q", state, model_id=0, num_targets=setup.queries)
            for batch in test:
                made.score(batch=batch, num_samples=len(batch[0]))
            return torch.tensor(made.finalize_scores(exp_name="q"))

    return Work(run=run, units=setup.images, note=lambda: "512 dimensions")


def dattri(setup: Setup) -> Work:
    """Grad-Cos by dattri."""
    from dattri.algorithm.tracin import TracInAttributor  # noqa: PLC0415 - slow
    from dattri.task import AttributionTask  # noqa: PLC0415

    shape = setup.data[0].images.shape[1:]

    def loss(params: Any, pair: Any) -> Tensor:  # noqa: ANN401 - of another library
        images, labels = pair
        logits = functional_call(setup.model, params, (images.reshape(-1, *shape),))
        return functional.cross_entropy(logits, labels.reshape(-1))

    train, test = (DataLoader(d, batch_size=setup.batch) for d in datasets(setup))
    made = TracInAttributor(
        task=AttributionTask(
            loss_func=loss, model=setup.model, checkpoints=[setup.model.state_dict()]
        ),
        weight_list=torch.ones(1),
        normalized_grad=True,
        projector_kwargs={"proj_type": "identity", "proj_dim": 1},
    )

    def run() -> Tensor:
        found: Tensor = made.attribute(train, test)
        return found

    return Work(run=run, units=setup.images)


def kronfluence(setup: Setup, strategy: str) -> Work:
    """Scores by kronfluence: with the identity they are Grad-Dot; or EK-FAC's two fits."""
    from kronfluence.analyzer import Analyzer, prepare_model  # noqa: PLC0415 - slow
    from kronfluence.arguments import FactorArguments  # noqa: PLC0415
    from kronfluence.task import Task  # noqa: PLC0415

    class Classification(Task):  # type: ignore[misc] # the library has no types
        """Cross-entropy of a classifier."""

        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Tensor:  # noqa: ANN401, FBT001, FBT002 - the library's
            """Return the summed loss, of the labels or of drawn ones."""
            images, labels = batch
            logits = model(images)
            if sample:
                labels = torch.multinomial(logits.detach().softmax(dim=1), 1).flatten()
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Tensor:  # noqa: ANN401
            """Return what is asked about queries."""
            return self.compute_train_loss(batch, model)

    from copy import deepcopy  # noqa: PLC0415

    task = Classification()
    model = prepare_model(deepcopy(setup.model), task)
    train, test = datasets(setup)
    folder = tempfile.mkdtemp()
    analyzer = Analyzer("bench", model, task, cpu=True, output_dir=folder)
    size = {"per_device_batch_size": setup.batch, "overwrite_output_dir": True}

    def fit() -> None:
        settings = FactorArguments(strategy=strategy)
        analyzer.fit_all_factors("factors", train, factor_args=settings, **size)

    if strategy == "ekfac":
        return Work(run=fit, units=setup.images)
    fit()

    def run() -> Tensor:
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            test,
            train,
            per_device_query_batch_size=setup.queries,
            per_device_train_batch_size=setup.batch,
            overwrite_output_dir=True,
        )
        found: Tensor = analyzer.load_pairwise_scores("scores")["all_modules"]
        return found.T

    return Work(run=run, units=setup.images)


def cells() -> Iterator[Cell]:
    """Yield the rows of the table, in its order."""
    ours = "whence"
    yield Cell(name="exact Grad-Cos", library=ours, make=cosines, aim=2.2, exact="cos")
    yield Cell(name="exact Grad-Dot, 1 query", library=ours, make=one_query)
    yield Cell(name="index of projections", library=ours, make=indexed, aim=0.75)
    yield Cell(
        name="index, estimated",
        library=ours,
        make=lambda setup: asked(setup, exactly=False),
        exact="cos",
    )
    yield Cell(
        name="index, exact re-rank",
        library=ours,
        make=lambda setup: asked(setup, exactly=True),
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
    yield Cell(name="EK-FAC, fitting", library=ours, make=curved, few=True)
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
    )
    yield Cell(name="TRAK", library="TRAK", make=trak)
    yield Cell(name="Grad-Cos", library="dattri", make=dattri, exact="cos")


CELLS = tuple(cells())
"""The rows of the table."""
