"""The networks, trained; each is kept, and a training that was stopped goes on from its epoch."""

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproductions.harmonizing.networks import (
    CLASS_TOKEN,
    CNN,
    EFFICIENT,
    MEAN_TOKEN,
    NORMED,
    TRANSFORMERS,
    network,
)
from reproductions.harmonizing.scenes import BUILD, CIFAR, DIGITS, scenes, varied
from whence.core import Progress, silent

EPOCHS = {
    (DIGITS, CNN): 40,
    (DIGITS, NORMED): 25,
    (DIGITS, EFFICIENT): 40,
    (DIGITS, CLASS_TOKEN): 200,
    (DIGITS, MEAN_TOKEN): 200,
    (CIFAR, CNN): 3,
    (CIFAR, NORMED): 4,
    (CIFAR, EFFICIENT): 4,
    (CIFAR, CLASS_TOKEN): 12,
    (CIFAR, MEAN_TOKEN): 12,
}
"""Passes over the training images: so many that the five accuracies are near each other."""

WARMING = 0.1
"""Share of the steps in which the rate rises."""

BATCH = 64


def trained(dataset: str, name: str, progress: Progress = silent) -> nn.Module:
    """Return a trained network in eval mode; made if it is not there yet."""
    place = folder(dataset, name)
    model = network(dataset, name)
    done = place / "weights.pt"
    if not done.is_file():
        train(dataset, name, model, place, progress)
    model.load_state_dict(torch.load(done, weights_only=True))
    return model.eval()


def folder(dataset: str, name: str) -> Path:
    """Return where a network is kept."""
    return BUILD / "networks" / f"{dataset} {name}".replace(" ", "-").lower()


def seconds_of(dataset: str, name: str) -> float:
    """Return the seconds of processor time that a training took, stops and all."""
    path = folder(dataset, name) / "cpu-seconds.txt"
    return float(path.read_text("utf-8")) if path.is_file() else 0.0


def train(dataset: str, name: str, model: nn.Module, place: Path, progress: Progress) -> None:
    """Train a network; its state is kept after every epoch."""
    task, epochs = scenes(dataset), EPOCHS[dataset, name]
    steps = epochs * -(-len(task.train) // BATCH)
    rate = 1e-3 if name in TRANSFORMERS else 3e-3
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: share(at / steps))
    state = place / "state.pt"
    first = 0
    place.mkdir(parents=True, exist_ok=True)
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        schedule.load_state_dict(kept["schedule"])
        first = kept["epoch"]
    for epoch in range(first, epochs):
        progress(f"training {name}", epoch, epochs)
        before = time.process_time()
        train_epoch(dataset, model, optimiser, schedule, epoch)
        spent = seconds_of(dataset, name) + time.process_time() - before
        kept = {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        written(kept, state)
        (place / "cpu-seconds.txt").write_text(f"{spent:.1f}", "utf-8")
    written(model.state_dict(), place / "weights.pt")
    state.unlink(missing_ok=True)


def train_epoch(
    dataset: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    epoch: int,
) -> None:
    """Take the steps of one epoch."""
    task = scenes(dataset)
    model.train()
    generator = torch.Generator().manual_seed(1000 + epoch)
    for places, pictures in varied(dataset, task, generator, BATCH):
        images = task.normalisation.to_model(pictures)
        logits = model(images)
        loss = functional.cross_entropy(
            logits, task.train_labels[places].long(), label_smoothing=0.05
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval()


def share(done: float) -> float:
    """Return the share of the highest rate: it rises straight and falls as a cosine."""
    if done < WARMING:
        return done / WARMING + 1e-3
    return 0.5 + 0.5 * math.cos(math.pi * min((done - WARMING) / (1 - WARMING), 1.0))


def written(content: dict[str, object] | dict[str, Tensor], path: Path) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def accuracy(dataset: str, model: nn.Module) -> float:
    """Return the accuracy on the validation images."""
    task = scenes(dataset)
    with torch.no_grad():
        found = model(task.normalisation.to_model(task.validation)).argmax(dim=1)
    return float((found == task.validation_labels).double().mean())
