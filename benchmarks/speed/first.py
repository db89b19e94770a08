"""The first table: reading, attribution, influence and training-feature maps."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, paired
from whence.adapters.torchvision import open_torchvision
from whence.attribution import InputXGradient, IntegratedGradients
from whence.core import Margin, ModelScalar, TensorData, logit
from whence.influence import GradCos, GradDot, Influence, influence
from whence.network import Network
from whence.training_features import held_weights, influence_fn

__all__ = ["rows"]

CLASSES = 10
QUERIES = 20
STEPS = 16


def resnet(side: int, device: str) -> tuple[nn.Module, Tensor]:
    """Return a ResNet-18 with random weights and a batch of images."""
    torch.manual_seed(0)
    model = open_torchvision().models.resnet18(num_classes=CLASSES).to(device).eval()
    return model, torch.randn(16, 3, side, side, device=device)


def rows(side: int = 64, device: str = "cpu") -> Iterator[Row]:
    """Yield one row after the other."""
    model, images = resnet(side, device)
    network = Network.read(model, images)
    labels = torch.arange(len(images), device=device) % CLASSES
    name = f"ResNet-18 at {side} px, batch {len(images)}"
    yield paired(
        without_gradient(lambda: network(images)),
        without_gradient(lambda: model(images)),
        name=f"a read network's forward ({name})",
        against="the eager model's forward",
        goal=1.05,
        rounds=15,
    )
    f = ModelScalar(network, logit(labels))
    step = one_pass(model, images, labels)
    yield paired(
        lambda: InputXGradient()(f, images),
        step,
        name="InputXGradient",
        against="one pass (input gradient)",
        goal=1.1,
        rounds=11,
    )
    yield paired(
        lambda: IntegratedGradients(steps=STEPS)(f, images),
        step,
        name=f"IntegratedGradients, {STEPS} steps",
        against=f"{STEPS} passes",
        units=STEPS,
        goal=1.05,
        rounds=5,
    )
    yield from training_rows(model, network, images, labels, device)


def training_rows(
    model: nn.Module, network: Network, images: Tensor, labels: Tensor, device: str
) -> Iterator[Row]:
    """Yield the rows that are measured against a training step."""
    train = TensorData(images=images.cpu(), labels=labels.cpu())
    queries = torch.randn(QUERIES, *images.shape[1:], device=device)
    target = Margin(torch.arange(QUERIES, device=device) % CLASSES)
    step = training_step(model, images, labels)
    found: dict[str, Influence] = {}

    def score() -> None:
        found["grad-cos"] = influence(network, train, queries, target, scorer=GradCos())

    score()
    prepared = Prepared(found["grad-cos"])
    yield paired(
        lambda: prepared.scores(images, labels),
        step,
        name=f"exact Grad-Cos against {QUERIES} queries, per training image",
        against="one training step",
        goal=2.8,
        rounds=7,
    )
    dot = influence(network, train, queries[:1], target.at(torch.tensor([0])), scorer=GradDot())
    cos = found["grad-cos"]
    held = held_weights(cos, torch.arange(len(images))).to(device)
    yield paired(
        map_of(cos, labels, images, held),
        step,
        name="Grad-Cos training-feature maps, weights held, per image",
        against="one training step",
        goal=2.0,
        rounds=7,
    )
    for title, scores, goal in (("Grad-Dot", dot, 2.0), ("Grad-Cos", cos, None)):
        maps = map_of(scores, labels, images)
        yield paired(
            maps,
            step,
            name=f"{title} training-feature maps of a batch, per image",
            against="one training step",
            goal=goal,
            rounds=7,
        )
        yield paired(
            maps,
            naive_loop(model, images, labels, scores),
            name=f"{title} training-feature maps of a batch, per image",
            against="a loop with create_graph",
            rounds=3,
        )


class Prepared:
    """Scores of a batch against queries that are there already."""

    def __init__(self, scores: Influence) -> None:
        self.made = scores

    def scores(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the Grad-Cos scores of a batch."""
        recorded = self.made.recorder.record(images, Margin(labels))
        squared = recorded.squared_norm()
        weights = self.made.members[0].scoring.weights(squared, squared)
        return recorded.dot(self.made.queries.blocks) * weights[:, None]


def map_of(
    scores: Influence, labels: Tensor, images: Tensor, weights: Tensor | None = None
) -> Callable[[], Tensor]:
    """Return the work of mapping a batch that shares a query."""
    f = influence_fn(scores, 0, labels, weights)

    def work() -> Tensor:
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            total = f(leaf).sum()
        return torch.autograd.grad(total, leaf)[0]

    return work


def naive_loop(
    model: nn.Module, images: Tensor, labels: Tensor, scores: Influence
) -> Callable[[], Tensor]:
    """Return the same maps by double backward, one image at a time."""
    parameters = dict(model.named_parameters())
    vector = {n: v[0] for n, v in scores.queries.only(0).dense().items()}
    names = list(vector)

    def work() -> Tensor:
        found = []
        for image, label in zip(images, labels, strict=True):
            leaf = image[None].detach().requires_grad_()
            target = Margin(label[None])
            margin = target(model(leaf)).sum()
            gradients = torch.autograd.grad(
                margin, [parameters[n] for n in names], create_graph=True
            )
            score = sum((g * vector[n]).sum() for g, n in zip(gradients, names, strict=True))
            squared = sum(g.square().sum() for g in gradients)
            weight = scores.members[0].scoring.weights(squared[None], torch.sigmoid(-margin)[None])
            found.append(torch.autograd.grad((score * weight).sum(), leaf)[0])
        return torch.cat(found)

    return work


def one_pass(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """Return one forward and one backward to the images."""

    def work() -> Tensor:
        leaf = images.detach().requires_grad_()
        total = model(leaf).gather(1, labels[:, None]).sum()
        return torch.autograd.grad(total, leaf)[0]

    return work


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """Return one forward and one full backward pass to all weights."""
    weights = list(model.parameters())

    def work() -> object:
        loss = nn.functional.cross_entropy(model(images), labels)
        return torch.autograd.grad(loss, weights)

    return work


def without_gradient(f: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return the work under ``no_grad``."""

    def work() -> Tensor:
        with torch.no_grad():
            return f()

    return work
