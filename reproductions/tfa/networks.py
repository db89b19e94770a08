"""The networks of the experiments: small ones, trained here and kept, and a ResNet-20."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproductions.tfa.scenes import DATA
from reproductions.tfa.tasks import Task

__all__ = ["accuracy", "at", "convolutional", "fitted", "predictions", "resnet20", "small"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}

MOMENTS = (0.5, 0.75, 1.0)
"""Shares of the training after which the weights are kept."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar_resnet.py"


def convolutional(
    activation: str, classes: int, widths: tuple[int, ...], halve: set[int]
) -> nn.Module:
    """Return 3 x 3 convolutions with batch norms, a mean over all positions and a linear layer."""
    layers: list[nn.Module] = []
    before = 3
    for place, width in enumerate(widths):
        stride = 2 if place in halve else 1
        layers += [
            nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            ACTIVATIONS[activation](),
        ]
        before = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return nn.Sequential(*layers, *head)


def small(activation: str, classes: int, side: int) -> Callable[[], nn.Module]:
    """Return what makes a small network for images of a side."""
    halve = {1, 3} if side == 32 else {0, 1, 3}
    return lambda: convolutional(activation, classes, (24, 48, 64, 64, 64), halve)


def resnet20() -> nn.Module:
    """Return the ResNet-20 of the examples with its trained weights."""
    spec = importlib.util.spec_from_file_location("cifar_resnet", EXAMPLE)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.resnet20()
    file = DATA / "weights" / "resnet20-12fca82f.th"
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    return model.eval()


def fitted(
    model: nn.Module, task: Task, path: Path | None, *, epochs: int, seed: int, rate: float = 4e-3
) -> dict[float, Mapping[str, Tensor]]:
    """Return the weights of the model trained on a task, at several moments; kept in a file."""
    if path is not None and path.is_file():
        kept: dict[float, Mapping[str, Tensor]] = torch.load(path, weights_only=True)
        return kept
    generator = torch.Generator().manual_seed(seed)
    size, count = 64, len(task.images)
    steps = epochs * -(-count // size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    found: dict[float, Mapping[str, Tensor]] = {}
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)
        for rows in torch.split(order, size):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(task.images[rows]), task.labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        for moment in MOMENTS:
            if epoch + 1 == max(1, round(moment * epochs)):
                found[moment] = {k: v.clone() for k, v in model.state_dict().items()}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    return found


def at(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the model with these weights, ready to be asked."""
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """Return the predicted classes."""
    return torch.cat([model(part) for part in torch.split(images, 200)]).argmax(dim=1)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified as their label says."""
    return float((predictions(model, images) == labels).float().mean())
