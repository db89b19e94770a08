"""Which predictions are asked about, and their scores over the training images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reproductions.tfa.maps import Case
from reproductions.tfa.networks import predictions
from reproductions.tfa.tasks import Task, marked_with
from whence.core import Batch, Margin, TensorData
from whence.evaluation import reinitialised
from whence.influence import GradCos, Influence, influence
from whence.network import Network
from whence.training_features import neutral

__all__ = ["Queries", "Sizes", "Wanted", "case_of", "queries_of", "scores_of"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many queries of each kind: for the shortcut, for objects, for harmful examples."""

    shortcut: int = 0
    object: int = 0
    harmful: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """Which queries are asked.

    Args:
        images: ``(q, c, h, w)``.
        labels: The labels asked about.
        kinds: What each is for: ``shortcut``, ``contrast``, ``object`` or ``harmful``.
    """

    images: Tensor
    labels: Tensor
    kinds: tuple[str, ...]

    def of(self, kind: str) -> list[int]:
        """Return the places of the queries of a kind."""
        return [i for i, k in enumerate(self.kinds) if k == kind]


Part = tuple[str, Tensor, Tensor]


def queries_of(task: Task, model: nn.Module, sizes: Sizes) -> Queries:
    """Return the queries of a task; every one gets the label that the network predicts."""
    predicted = predictions(model, task.tests)
    found: list[Part] = []
    right = predicted == task.truths
    if task.shortcut is not None:
        found += planted(task, model, predicted, sizes)
        right &= task.truths != task.shortcut
    elif task.name == "scenes":
        odd = task.groups != task.truths
        right &= odd
        caught = (odd & (predicted != task.truths)).nonzero()[:, 0][: sizes.shortcut]
        rows = right.nonzero()[:, 0]
        pairs = [rows[predicted[rows] == k] for k in predicted[caught]]
        taken = torch.tensor([int(own[i % len(own)]) for i, own in enumerate(pairs)]).long()
        found.append(("shortcut", task.tests[caught], predicted[caught]))
        found.append(("contrast", task.tests[taken], predicted[taken]))
    plain = right.nonzero()[:, 0]
    spread = plain[torch.linspace(0, len(plain) - 1, sizes.object).round().long()]
    found.append(("object", task.tests[spread], predicted[spread]))
    return Queries(
        images=torch.cat([images for _, images, _ in found]),
        labels=torch.cat([labels for _, _, labels in found]),
        kinds=tuple(kind for kind, images, _ in found for _ in range(len(images))),
    )


def planted(task: Task, model: nn.Module, predicted: Tensor, sizes: Sizes) -> list[Part]:
    """Return queries that fell for the square, clean ones of its class, and misled ones."""
    if task.shortcut is None or task.confused is None:
        return []
    others = (task.truths != task.shortcut) & (predicted != task.shortcut)
    marked = marked_with(task.tests[others], task.red)
    caught = marked[predictions(model, marked) == task.shortcut][: sizes.shortcut]
    own = (task.truths == task.shortcut) & (predicted == task.shortcut)
    clean = task.tests[own][: len(caught)]
    true, given = task.confused
    wrong = task.tests[(task.truths == true) & (predicted == given)][: sizes.harmful]
    return [
        ("shortcut", caught, torch.full((len(caught),), task.shortcut)),
        ("contrast", clean, torch.full((len(clean),), task.shortcut)),
        ("harmful", wrong, torch.full((len(wrong),), given)),
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """The training data, of which only some images are gone over.

    Args:
        task: Whose training images.
        places: Which.
    """

    task: Task
    places: Tensor
    title: str = "wanted"
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.task.classes

    def __len__(self) -> int:
        """Return how many training images there are in all."""
        return len(self.task.labels)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return str(index)

    def label(self, index: int) -> int:
        """Return the label of an image."""
        return int(self.task.labels[index])

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Go over the wanted images, or over some."""
        data = TensorData(images=self.task.images, labels=self.task.labels)
        yield from data.batches(size, self.places.tolist() if indices is None else indices)

    def fingerprint(self) -> str:
        """Return nothing: these scores are never kept."""
        return ""


def scores_of(task: Task, model: nn.Module, queries: Queries, places: Tensor) -> Influence:
    """Return the scores of some training images for the queries, in another network."""
    network = Network.read(model, task.images[:2])
    data = Wanted(task=task, places=places.unique())  # type: ignore[no-untyped-call]
    return influence(network, data, queries.images, Margin(queries.labels), scorer=GradCos())


def case_of(task: Task, model: nn.Module, queries: Queries, top: int) -> tuple[Case, Tensor]:
    """Return the network with the scores of all training images, and each query's first ones."""
    train = TensorData(images=task.images, labels=task.labels)
    network = Network.read(model, task.images[:2])
    asked = Margin(queries.labels)
    scores = influence(network, train, queries.images, asked, scorer=GradCos(), memory=4 * 2**30)
    first = scores.proponents(top).indices
    fresh = scores_of(task, reinitialised(model, seed=1), queries, first)
    case = Case(
        network=network,
        model=model,
        influence=scores,
        fresh=fresh,
        images=task.images,
        labels=task.labels,
        neutral=neutral(scores, train, samples=32),
    )
    return case, first
