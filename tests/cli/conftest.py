"""A tiny model and tiny data, as files, and a way to run the program on them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from whence.cli import app

CLASSES = ("circle", "plus", "square")
SIDE = 12

FACTORY = '''
import torch
from torch import nn

def tiny():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
    net.preprocessing = {"size": 12, "mean": 0.5, "std": 0.5}
    net.classes = ("circle", "plus", "square")
    return net

def nan():
    net = tiny()
    with torch.no_grad():
        net[4].weight[1, 2] = float("nan")
    return net

class Branching(nn.Module):
    """Its control flow depends on pixel values, which no export can follow."""

    def __init__(self):
        super().__init__()
        self.inner = tiny()
        self.preprocessing, self.classes = self.inner.preprocessing, self.inner.classes

    def forward(self, x):
        return self.inner(x if x.sum() > 0 else -x)

def branching():
    return Branching()
'''


def noise(seed):
    drawn = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with ``model.py``, ``train/`` and ``test/``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "model.py").write_text(FACTORY, encoding="utf-8")
    for split, count in (("train", 4), ("test", 2)):
        for number, name in enumerate(CLASSES):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                noise(100 * number + k + len(split)).save(folder / f"{k}.png")
    return tmp_path


@pytest.fixture
def whence(place):
    """Run the program in this process: ``whence("audit", "--count", 3)``."""

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


@pytest.fixture
def audit(whence):
    """Run a small audit of the tiny model into ``audit/``; options given twice count last."""

    def run(*words, model="model.py:tiny", train="train", test="test", out="audit"):
        fixed = ("--model", model, "--train", train, "--test", test, "--out", out)
        small = ("--count", 2, "-k", 2, "--set", "steps=4")
        return whence("audit", *fixed, *small, *words)

    return run


@pytest.fixture
def document():
    """Read the one JSON document that a command printed, and nothing else."""

    def read(result):
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return read


@pytest.fixture
def weight_file(place):
    """Write the tiny model's weights to ``weights.pt``, changed by a function first."""

    def write(change=lambda state: state):
        from whence.adapters import load_model

        module = load_model("model.py:tiny").module
        state = {name: value.clone() for name, value in module.state_dict().items()}
        torch.save(change(state), place / "weights.pt")
        return place / "weights.pt"

    return write
