"""`whence explain` on what does not fit: one message with the place and the cure."""

import numpy as np
import pytest

ZOO = """
import torch
from torch import nn

def base():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(16, 3),
        )

def ready(net):
    net.preprocessing = {"size": 12, "mean": 0.5, "std": 0.5}
    net.classes = ("circle", "plus", "square")
    return net

class Around(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net, self.change = base(), change
        ready(self)

    def forward(self, x):
        return self.change(self.net, x)

def good(): return ready(base())
def double(): return ready(base().double())
def meta(): return ready(base().to("meta"))
def scripted(): return ready(torch.jit.script(base()))
def fixed(): return ready(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)))
def segmentation(): return ready(nn.Sequential(nn.Conv2d(3, 3, 1)))
def outputs(): return Around(lambda net, x: {"out": net(x), "aux": net(x)})
def divides(): return Around(lambda net, x: net(x) / (x - x).sum((2, 3)))
def mixes(): return Around(lambda net, x: net(x - x.mean()))
def leaves(): return Around(lambda net, x: net(torch.from_numpy(x.detach().numpy())))
def branching(): return Around(lambda net, x: net(x) if x.sum() > 0 else net(-x))
def smooth():
    layers = nn.Conv2d(3, 3, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return ready(nn.Sequential(*layers))
"""

CASES = [
    ("good", ("--target", "7"), ["Class 7 does not exist: classes run from 0 to 2"]),
    ("good", ("--target", "cirle"), ["no class 'cirle'", "Did you mean circle?"]),
    ("good", ("--versus", "predicted"), ["name the same class", "versus='runner-up'"]),
    ("good", ("--target", "label", "--method", "lrp"), []),
    ("double", (), ["weights are torch.float64, but the images are torch.float32", ".to("]),
    ("meta", (), ["on the device 'meta'", "shapes without values"]),
    ("fixed", ("--input", "size=9"), ["does not take pictures of shape (1, 3, 9, 9)"]),
    ("segmentation", (), ["it returned (1, 3, 12, 12)", ".mean(dim=(2, 3))"]),
    ("outputs", (), ["it returned dict with 'out', 'aux'", "Wrap the model"]),
    ("divides", ("--method", "lrp"), ["It began in 'div'", "division by zero"]),
    ("mixes", ("--method", "lrp"), ["mixes the images of a batch", "dim=(1, 2, 3)"]),
    ("leaves", ("--method", "lrp"), ["leaves torch", "zoo.py line", "from_numpy"]),
    ("branching", ("--method", "lrp"), ["depends on pixel values", "zoo.py line", "torch.where"]),
    ("scripted", ("--method", "lrp"), ["TorchScript", "load_state_dict(scripted.state_dict())"]),
    ("smooth", ("--method", "guided-backpropagation"), ["'gelu' in 1", "would be the plain"]),
    ("smooth", ("--method", "attention-rollout"), ["no attention", "grad-cam or a gradient"]),
    ("good", ("--method", "grad-cam", "--set", "node=conv9"), ["no node or module 'conv9'"]),
    ("good", ("--input", "std=0"), ["positive deviations"]),
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "words", "says"), CASES, ids=[" ".join((m, *w)) for m, w, _ in CASES]
)
def test_what_does_not_fit_is_named_with_the_cure(model, words, says, whence, place):
    (place / "zoo.py").write_text(ZOO, encoding="utf-8")
    quick = () if "--method" in words else ("--set", "steps=2")
    result = whence("explain", "test", "--model", f"zoo.py:{model}", *quick, *words)
    if not says:
        assert result.exit_code == 0, result.output
        return
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for part in says:
        assert part in result.stderr
    assert not (place / "explain-test").exists()


def test_pictures_of_nan_are_left_out_and_named(whence, place, document):
    (place / "zoo.py").write_text(ZOO, encoding="utf-8")
    pictures = np.random.default_rng(0).random((4, 12, 12, 3), dtype=np.float32)
    pictures[2, 3, 3, 0] = np.nan
    np.savez(place / "data.npz", x=pictures)
    words = ("--model", "zoo.py:good", "--method", "gradient", "--json")
    found = document(whence("explain", "data.npz", *words))
    assert len(found["images"]) == 3
    assert [one["name"] for one in found["skipped"]] == ["x[2]"]
