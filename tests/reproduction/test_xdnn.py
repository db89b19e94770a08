"""The reproduction of X-DNNs: its networks, what it measures of them, and how it goes on."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from reproductions.xdnn import __main__ as runner
from reproductions.xdnn import accuracy, contrast, training
from reproductions.xdnn.accuracy import Cell, difference, relative, verdicts
from reproductions.xdnn.kept import Clock, Kept, each_new, markdown
from reproductions.xdnn.networks import ARCHITECTURES, RESNET20, network
from reproductions.xdnn.pictures import CIFAR, DIGITS, pictures
from reproductions.xdnn.training import (
    CONVERTED,
    LONGER,
    REGULAR,
    SCRATCH,
    TUNED,
    from_scratch,
    trained,
)
from whence.convert import x_dnn
from whence.core import TensorData
from whence.network import Network
from whence.recipes.measure import CONTRASTS


class Drawn(HTMLParser):
    """The lines of a drawing, and which of its elements were not closed."""

    def __init__(self):
        super().__init__()
        self.lines, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if tag == "polyline":
            self.lines.append(dict(attrs)["points"].split())

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Networks are trained for one epoch, into another folder, and fitted to few images."""
    monkeypatch.setattr(training, "NETWORKS", tmp_path)
    monkeypatch.setattr(training, "EPOCHS", dict.fromkeys(training.EPOCHS, (1, 1)))
    monkeypatch.setattr(training, "CALIBRATION", 32)


def row(accuracy, *, curve=None, difference=0.0):
    return {
        "images": 100,
        "accuracy": accuracy,
        "contrast": curve or [accuracy] * len(CONTRASTS),
        "proven": curve is None,
        "scale_error": 0.0,
        "difference": difference,
        "lossless": accuracy,
        "seconds": 60.0,
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_becomes_an_x_dnn_before_its_training(architecture, generator):
    model = network(DIGITS, architecture)
    images = torch.randn(4, 1, 8, 8, generator=generator)
    assert not Network.read(model, images[:2]).homogeneity().holds
    made = x_dnn(model, images, routes=from_scratch(architecture)).model
    made.eval()
    with torch.no_grad():
        torch.testing.assert_close(made(4 * images), 4 * made(images), rtol=1e-4, atol=1e-4)


def test_first_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (network(DIGITS, "ViT", seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["places"], other["places"])


def test_the_images_of_a_task_are_apart_and_normalised():
    task = pictures(DIGITS)
    assert len(task.train) + len(task.validation) == 1438
    assert len(task.test) == 359
    images = task.some(500)
    assert images.shape == (500, 1, 8, 8)
    assert images.mean().abs() < 0.05
    assert images.std() == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("small")
def test_a_network_is_trained_converted_and_tuned_once(monkeypatch):
    model, normalisation = trained(DIGITS, "VGG", TUNED)
    assert normalisation == pictures(DIGITS).normalisation
    images = pictures(DIGITS).test.images[:8]
    assert Network.read(model, images).homogeneity().holds
    assert training.cost(DIGITS, "VGG", TUNED) > 0
    before = training.made(DIGITS, "VGG", training.REFITTED, 0, training.silent)
    assert not torch.equal(before(images), model(images))
    monkeypatch.setattr(training, "fit", None)
    again, _ = trained(DIGITS, "VGG", TUNED)
    assert torch.equal(again(images), model(images))
    regular, _ = trained(DIGITS, "VGG", REGULAR)
    assert not Network.read(regular, images).homogeneity().holds


def test_the_difference_is_the_mean_over_batches_and_nothing_without_biases(generator):
    images = torch.randn(20, 1, 4, 4, generator=generator)
    labels = torch.arange(20) % 3
    data = TensorData(images=images, labels=labels)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    model.eval()
    places = (torch.arange(512) + 0.5) / 512
    naive = []
    for rows in (range(16), range(16, 20)):
        gaps, sizes = [], []
        for k in rows:
            x, label = images[k], int(labels[k])
            integrated = x * slopes(model, places[:, None, None, None] * x, label).mean(dim=0)
            gaps.append((integrated - x * slopes(model, x[None], label)[0]).abs())
            sizes.append(integrated.abs())
        naive.append(float(torch.stack(gaps).mean() / torch.stack(sizes).mean()))
    assert difference(model, data, 20) == pytest.approx(sum(naive) / 2, rel=0.02)
    for layer in (model[1], model[3]):
        layer.bias = None
    assert difference(model, data, 20) < 1e-5


def slopes(model, points, label):
    points = points.clone().requires_grad_()
    return torch.autograd.grad(model(points)[:, label].sum(), points)[0]


def test_a_relative_difference_has_a_guard():
    assert relative(torch.tensor([2.0, -2.0]), torch.tensor([1.0, -2.0])) == pytest.approx(0.25)
    assert relative(torch.zeros(2), torch.zeros(2)) == 0


def test_a_verdict_compares_with_the_network_that_was_trained_as_long():
    rows = {}
    for architecture, variant, value in [
        ("VGG", REGULAR, 0.700),
        ("VGG", TUNED, 0.681),
        (RESNET20, REGULAR, 0.800),
        (RESNET20, LONGER, 0.900),
        (RESNET20, TUNED, 0.850),
    ]:
        name = Cell(dataset=CIFAR, architecture=architecture, variant=variant, seed=0).name
        rows[name] = row(value)
    near, far = verdicts(rows)
    assert near.endswith("VGG: converted and fine-tuned -1.9 against regular, within 2 points.")
    assert far.endswith("-5.0 against regular, trained on, not within 2 points.")


def test_the_figure_has_a_flat_line_and_a_falling_one():
    falling = [1 - 0.05 * k for k in range(len(CONTRASTS))]
    rows = {
        Cell(dataset=DIGITS, architecture="VGG", variant=REGULAR, seed=0).name: row(
            1.0, curve=falling
        ),
        Cell(dataset=DIGITS, architecture="VGG", variant=TUNED, seed=0).name: row(0.9),
    }
    drawn = Drawn()
    drawn.feed(contrast.figure(rows))
    assert not drawn.open
    curves = [line for line in drawn.lines if len(line) > 2]
    heights = [[float(place.split(",")[1]) for place in curve] for curve in curves]
    assert len(heights) == 2
    assert heights[0] == sorted(heights[0])
    assert heights[0][0] < heights[0][-1]
    assert len(set(heights[1])) == 1
    told = contrast.report(rows, "figure.svg")
    assert "The accuracy of every X-DNN is the same at every contrast." in told
    bent = row(0.9, curve=falling) | {"proven": True}
    name = Cell(dataset=DIGITS, architecture="VGG", variant=CONVERTED, seed=0).name
    assert "differs with the contrast" in contrast.report({**rows, name: bent}, "figure.svg")


def test_what_is_finished_is_not_measured_again(tmp_path):
    kept = Kept(path=tmp_path / "rows.jsonl")
    asked = []

    def measure(cell):
        asked.append(cell)
        if cell == "c" and len(asked) == 3:
            raise KeyboardInterrupt
        return {"value": cell.upper()}

    clock = Clock(left={"a": 1.0, "b": 1.0, "c": 2.0})
    with pytest.raises(KeyboardInterrupt):
        list(each_new(["a", "b", "c"], kept, measure, clock))
    assert list(clock.left) == ["c"]
    assert [r["value"] for r in each_new(["a", "b", "c"], kept, measure, clock)] == ["C"]
    assert asked == ["a", "b", "c", "c"]
    assert {name: r["value"] for name, r in kept.rows().items()} == {"a": "A", "b": "B", "c": "C"}
    assert clock.remaining() == 0


def test_the_time_left_follows_the_pace_of_this_machine():
    clock = Clock(left={"a": 10.0, "b": 20.0, "c": 50.0})
    assert clock.told() == "1 min 20 s left"
    clock.finished("b", 40.0)
    assert clock.remaining() == 2 * 60
    assert clock.told() == "2 min 00 s left"


def test_the_page_has_a_section_for_each_part_and_the_papers_numbers(monkeypatch, tmp_path):
    kept = Kept(path=tmp_path / "rows.jsonl")
    monkeypatch.setattr(accuracy, "KEPT", kept)
    cells = accuracy.cells()
    for cell in cells:
        kept.add(cell.name, row(0.5 if cell.variant == SCRATCH else 0.75))
    page = runner.page(["a", "c"], runner.parts())
    assert re.findall(r"^## (\w)\.", page, flags=re.MULTILINE) == ["a", "c"]
    assert f"{len(cells)} cells, {len(cells)} minutes" in page
    assert "| digits, VGG | 75.0 ± 0.0 | 50.0 ± 0.0 | 75.0 ± 0.0 |" in page
    assert "| CIFAR-10, ResNet-20 | 75.0 |  | 75.0 |" in page
    assert "| top-5 accuracy, X-DNN from scratch | 78.54 | 90.25 | 91.12 |" in page


def test_a_table_is_markdown():
    assert markdown(["", "x"], [["a", "1"]]) == "|  | x |\n|:--|--:|\n| a | 1 |"
