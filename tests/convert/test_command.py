"""`whence convert`, run on files."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from whence.cli import app

FACTORY = """
import torch
from torch import nn

def made(*layers):
    net = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
    net.preprocessing = {"size": 12, "mean": 0.5, "std": 0.5}
    net.classes = ("circle", "plus", "square")
    return net

def tiny():
    return made(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(2),
                nn.Flatten(), nn.Linear(16, 3))

class Rounds(nn.Module):
    def forward(self, x):
        return torch.div(x, 0.1, rounding_mode="floor")

def held(count):
    layers = []
    for _ in range(count):
        layer = nn.Conv2d(3, 3, 1)
        nn.init.constant_(layer.weight, 10 / 3)
        nn.init.constant_(layer.bias, -100.0)
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(432, 3))
    net.preprocessing = {"size": 12, "mean": 0.5, "std": 0.5}
    return net.train()

def diverging():
    return held(6)

def overflowing():
    return held(45)

def rounding():
    return made(nn.Conv2d(3, 4, 3, stride=2), Rounds(), nn.Flatten(), nn.Linear(100, 3))
"""


@pytest.fixture
def whence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "model.py").write_text(FACTORY, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        drawn = np.random.default_rng(k).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(tmp_path / "pictures" / f"{k}.png")

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


def test_a_model_is_converted_written_and_used_without_its_source(whence, tmp_path):
    result = whence("convert", "model.py:tiny", "--out", "x.safetensors", "--images", "pictures")
    assert result.exit_code == 0, result.output
    assert "an X-DNN" in result.stdout
    assert "Conv2d lost its bias" in result.stdout
    assert "Written to x.safetensors" in result.stdout
    (tmp_path / "model.py").unlink()
    found = json.loads(whence("homogeneity", "x.safetensors", "--json").stdout)
    assert (found["holds"], found["degree"], found["offenders"]) == (True, 1, [])
    shown = whence(
        "explain", "pictures", "--model", "x.safetensors", "--method", "input-x-gradient", "--json"
    )
    assert shown.exit_code == 0, shown.output


def test_the_json_holds_the_certificate_and_the_scales(whence):
    result = whence("convert", "model.py:tiny", "--out", "x.safetensors", "--json")
    found = json.loads(result.stdout)
    assert (found["holds"], found["certificate"]["degree"]) == (True, 1)
    assert found["certificate"]["classes"] == ["circle", "plus", "square"]
    assert [scale["path"] for scale in found["scales"]] == ["0", "5", "logits"]


def test_a_model_that_cannot_be_converted_writes_nothing_and_says_why(whence, tmp_path):
    result = whence("convert", "model.py:rounding", "--out", "x.safetensors")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1 (div): It rounds. Never, because rounding has steps of one size." in result.stderr
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("images", [(), ("--images", "pictures")], ids=["noise", "images"])
def test_a_network_that_diverges_is_warned_of_with_the_scale_of_each_layer(whence, images):
    words = ("--out", "x.safetensors", "--route", "strip-biases", *images)
    result = whence("convert", "model.py:diverging", *words)
    assert result.exit_code == 0, result.output
    assert "Activations explode or vanish in the converted network" in result.stdout
    assert "10: 100 -> " in result.stdout
    assert "small learning rate" in result.stdout
    found = json.loads(
        whence("convert", "model.py:diverging", *words, "--overwrite", "--json").stdout
    )
    assert "10" in found["diverging"]


def test_a_network_that_overflows_writes_nothing_and_says_where(whence, tmp_path):
    result = whence("convert", "model.py:overflowing", "--out", "x.safetensors")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "overflows" in result.stderr
    assert "8: 100 -> " in result.stderr
    assert not (tmp_path / "x.safetensors").exists()


def test_paths_that_lead_nowhere_are_one_message(whence):
    for words, said in [
        (("convert", "none.py:net", "--out", "x.safetensors"), "none.py"),
        (("convert", "model.py:nothing", "--out", "x.safetensors"), "no callable 'nothing'"),
        (("homogeneity", "none.safetensors"), "There is no file none.safetensors"),
        (("convert", "model.py:tiny", "--out", "x.safetensors", "--images", "none"), "none"),
    ]:
        result = whence(*words)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr.startswith("Error: ")
        assert said in result.stderr


def test_bad_places_and_routes_are_refused(whence):
    for words, said in [
        (("--out", "x.pt"), "NAME.safetensors"),
        (("--out", "no/x.safetensors"), "There is no folder"),
        (("--out", "x.safetensors", "--route", "strip-bias"), "Did you mean strip-biases"),
    ]:
        result = whence("convert", "model.py:tiny", *words)
        assert (result.exit_code, said in result.stderr) == (1, True), result.stderr
    assert whence("convert", "model.py:tiny", "--out", "x.safetensors").exit_code == 0
    again = whence("convert", "model.py:tiny", "--out", "x.safetensors")
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    replaced = whence("convert", "model.py:tiny", "--out", "x.safetensors", "--overwrite")
    assert replaced.exit_code == 0


def test_the_bias_mass_and_the_energy_share_are_reported(whence):
    wrapped = whence(
        "convert", "model.py:tiny", "--out", "w.safetensors", "--route", "norm-wrapper"
    )
    assert "of the attribution is mere pixel energy" in wrapped.stdout
    words = ("--route", "activations", "--route", "homogeneous-coordinate")
    exact = whence("convert", "model.py:tiny", "--out", "t.safetensors", *words)
    assert exact.exit_code == 0, exact.output
    assert "the value of the extra feature" in exact.stdout
    refused = whence("homogeneity", "t.safetensors")
    assert (refused.exit_code, "with_coordinate" in refused.stderr) == (1, True)
