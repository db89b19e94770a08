"""The networks of the experiments: small ones, trained here and kept, and a ResNet-20."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproductions.tfa.tasks import Task

__all__ = ["accuracy", "convolutional", "fitted"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


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


def fitted(
    model: nn.Module, task: Task, path: Path, *, epochs: int, seed: int, rate: float = 4e-3
) -> nn.Module:
    """Return the model trained on a task; its weights are kept and read again."""
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    generator = torch.Generator().manual_seed(seed)
    size, count = 64, len(task.images)
    steps = epochs * -(-count // size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=generator).split(size):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(task.images[rows]), task.labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified as their label says."""
    logits = torch.cat([model(part) for part in images.split(200)])
    return float((logits.argmax(dim=1) == labels).float().mean())
