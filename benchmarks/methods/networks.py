"""The networks: a small CNN and a small vision transformer, trained with and without a shortcut.

Each is kept under ``build/methods``, and a training that was stopped goes on.
"""

import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.methods.scenes import SIDE, training_batch
from reproductions.harmonizing.networks import Transformer, normed
from reproductions.harmonizing.training import share, written
from reproductions.xdnn.pictures import REPOSITORY
from whence.adapters import LoadedModel, declared_preprocessing
from whence.core import Progress, silent

__all__ = ["BUILD", "CNN", "NETWORKS", "VIT", "network", "seconds_of", "trained"]

BUILD = REPOSITORY / "build" / "methods"
CNN, VIT = "CNN", "ViT"
NETWORKS = (CNN, VIT)
STEPS = {CNN: 700, VIT: 2000}
RATES = {CNN: 3e-3, VIT: 2e-3}
BATCH, KEPT = 64, 100
"""Images of a step, and steps between two times that a training is kept."""


def network(name: str, seed: int = 0) -> nn.Module:
    """Return an untrained network in eval mode, drawn from its seed."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        made = normed(3, 16) if name == CNN else Transformer(3, SIDE, 4, 48, 2, token=True)
    return made.eval()


def place_of(name: str, *, shortcut: bool, build: Path = BUILD) -> Path:
    """Return the folder of a network."""
    return build / "networks" / f"{name.lower()}-{'shortcut' if shortcut else 'plain'}"


def seconds_of(name: str, *, shortcut: bool, build: Path = BUILD) -> float:
    """Return the seconds of processor time that a training took, stops and all."""
    path = place_of(name, shortcut=shortcut, build=build) / "cpu-seconds.txt"
    return float(path.read_text("utf-8")) if path.is_file() else 0.0


def trained(
    name: str, *, shortcut: bool, build: Path = BUILD, progress: Progress = silent
) -> LoadedModel:
    """Return a trained network; it is trained if it is not there yet."""
    place = place_of(name, shortcut=shortcut, build=build)
    model, done = network(name), place / "weights.pt"
    if not done.is_file():
        place.mkdir(parents=True, exist_ok=True)
        train(name, model, place, shortcut=shortcut, progress=progress)
    model.load_state_dict(torch.load(done, weights_only=True))
    return LoadedModel(
        module=model.eval(),
        name=name,
        classes=tuple(str(k) for k in range(10)),
        preprocessing=declared_preprocessing(
            {"size": SIDE, "interpolation": "bilinear", "mean": 0.0, "std": 1.0}, "the benchmark"
        ),
    )


def train(name: str, model: nn.Module, place: Path, *, shortcut: bool, progress: Progress) -> None:
    """Train a network on images that are composed anew for every step."""
    steps = STEPS[name]
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATES[name], weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: share(at / steps))
    state, first, spent = place / "state.pt", 0, 0.0
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        schedule.load_state_dict(kept["schedule"])
        first, spent = kept["step"], kept["seconds"]
    model.train()
    before = time.process_time()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(1000 + step)
        images, labels = training_batch(BATCH, generator, shortcut=shortcut)
        loss = functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % KEPT == 0:
            progress(f"training {name}", step + 1, steps)
            kept = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
                "seconds": spent + time.process_time() - before,
            }
            written(kept, state)
    seconds = spent + time.process_time() - before
    (place / "cpu-seconds.txt").write_text(f"{seconds:.1f}", "utf-8")
    written(model.state_dict(), place / "weights.pt")
    state.unlink(missing_ok=True)
