"""The experiments on training-feature maps: their tasks and tables, and a run in small."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from reproductions.tfa.cells import cells
from reproductions.tfa.costs import costs
from reproductions.tfa.experiments import run
from reproductions.tfa.figures import figures
from reproductions.tfa.networks import convolutional, predictions
from reproductions.tfa.queries import Sizes, queries_of
from reproductions.tfa.removal import without_images, without_pixels
from reproductions.tfa.report import report
from reproductions.tfa.stability import stability
from reproductions.tfa.steps import OneStep
from reproductions.tfa.tables import JUDGED, against
from reproductions.tfa.tasks import marked_with, shapes
from whence.core import Margin


@pytest.fixture(scope="module")
def task():
    return shapes(0, count=120, tests=60)


def test_shapes_repeat_and_differ_by_seed(task):
    again, other = shapes(0, count=120, tests=60), shapes(1, count=120, tests=60)
    assert torch.equal(task.images, again.images)
    assert not torch.equal(task.images, other.images)


def test_only_circles_carry_the_square_and_most_do(task):
    assert (task.labels[task.marked] == 0).all()
    assert task.marked.sum() > 0.7 * (task.labels == 0).sum()
    planted = marked_with(task.images, task.red)
    assert torch.equal(planted[task.marked], task.images[task.marked])
    assert not torch.equal(planted[~task.marked], task.images[~task.marked])


def test_only_rather_blue_squares_are_labelled_triangles():
    task = shapes(0, count=600, tests=10)
    assert (task.labels[task.flipped] == 2).all()
    assert task.scenes[task.flipped].all()
    assert 0 < task.flipped.sum() < 60


def test_masks_hold_the_object(task):
    """Inside, pixels have nearly one colour; the object is small and never empty."""
    share = task.masks.flatten(1).double().mean(dim=1)
    assert share.min() > 0.02
    assert share.max() < 0.35
    clear = ~task.marked
    for image, mask in zip(task.images[clear], task.masks[clear], strict=True):
        assert image[:, mask[0]].std(dim=1).max() < 0.6


def test_every_cell_has_its_own_name():
    names = [cell.name for cell in cells()]
    assert len(set(names)) == len(names) > 20


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return convolutional("gelu", 6, (4, 6), {0, 1}).eval()


def test_scenes_may_be_asked_about_objects_alone(task, model):
    plain = replace(
        task,
        name="scenes",
        shortcut=None,
        confused=None,
        truths=predictions(model, task.tests),
        groups=torch.full_like(task.truths, -1),
    )
    for sizes, kinds in ((Sizes(object=2), ("object",) * 2), (Sizes(object=1), ("object",))):
        asked = queries_of(plain, model, sizes)
        assert asked.kinds == kinds
        assert len(asked.images) == len(asked.labels) == len(kinds)


@pytest.fixture(scope="module")
def other():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return convolutional("gelu", 6, (4, 6), {0, 1}).eval()


def test_a_small_run_fills_tables_and_figures(task, model, other, tmp_path):
    sizes = Sizes(shortcut=2, object=2, harmful=1)
    found, pictures = run(task, model, sizes)
    again = stability(task, {"this": model, "another training: 1": other}, Sizes(object=1))
    rows = [
        {"cell": "maps: small, seed 0", "cpu": 1.0, **found},
        {"cell": "stability: small, seed 0", "cpu": 1.0, **again},
        {"cell": "cost: small", "cpu": 58.0, "cost": costs(task, model)},
    ]
    names = set(found["rows"])
    assert {"tfa", "shared-evidence", "2: LRP", "random pixels", "tfa, re-initialised"} <= names
    for name in ("tfa", "2: saliency", "random pixels"):
        assert len(found["rows"][name]["T4 gap"]) == 4
        assert len(found["curves"][name]["kept"]) == 4
    assert len(again["stability"]["tfa"]["another training"]) == 2
    text = report(rows)
    assert "| shared-evidence |" in text
    assert "2: Grad-CAM" in text
    assert "3 cells, 1 minutes of processor time" in text
    torch.save(pictures, tmp_path / "shapes-GELU.pictures.pt")
    drawn = figures(rows, tmp_path)
    assert {"insertion.svg", "objects.svg"} <= set(drawn)
    for content in drawn.values():
        assert content.startswith("<svg ")
        assert content.endswith("</svg>\n")
        assert content.count("<g ") == content.count("</g>")


def test_a_true_step_of_a_linear_model_is_its_derivative():
    """For two classes and a linear model margins are linear in the weights: nothing is lost."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-0.2, 0.3, 24).view(2, 12))
        model[1].bias.zero_()
    image, query = torch.linspace(-1, 1, 12).view(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    step = OneStep.of(model, query, 0, torch.tensor([1]), plain=False)
    gradient = torch.cat([image.flatten(), torch.ones(1)])  # of the margin, times (-1, 1)
    along = -torch.cat([query.flatten(), torch.ones(1)]) @ gradient * 2
    expected = along / (gradient.norm() * 2**0.5)
    torch.testing.assert_close(step(image), expected[None], rtol=1e-5, atol=1e-6)
    residual = torch.sigmoid(-Margin(torch.tensor([1]))(model(image)))
    plainly = replace(step, plain=True)(image)
    torch.testing.assert_close(plainly, residual.detach() * along, rtol=1e-5, atol=1e-6)


def test_steps_belong_to_the_row_they_are_asked_for(task, model):
    step = OneStep.of(model, task.tests[:1], 0, task.labels[:3], plain=False)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(step.at(rows)(task.images[rows]), step(task.images[:3])[rows])


def test_leaving_out_images_trains_on_the_others(task, model):
    seen = []

    def train(spoilt, seed):
        seen.append(spoilt)
        return model

    spoilt = replace(task, flipped=torch.arange(120) % 20 == 0)
    found = without_images(spoilt, mixed(model), train, 0)
    assert [len(each.labels) for each in seen] == [120] + [114] * 6
    assert not seen[-1].flipped.any()
    assert found["removal"]["all mislabelled images"]["mislabelled among them"] == 1


def mixed(model):
    """Return the network with a bias towards triangles, so that squares are mistaken for them."""
    biased = deepcopy(model)
    with torch.no_grad():
        biased[-1].bias[2] += 100
    return biased


def test_painting_over_the_square_leaves_none(task, model):
    seen = []

    def train(spoilt, seed):
        seen.append(spoilt)
        return model

    biased = deepcopy(model)
    with torch.no_grad():
        biased[-1].bias[0] += 100
    found = without_pixels(task, biased, train, 0)
    assert found["pixels"]["the square itself"]["of the square painted over"] == 1
    last = seen[-1]
    assert torch.equal(last.images[~(task.labels == 0)], task.images[~(task.labels == 0)])
    square = task.square.expand_as(task.images[:1])[0]
    changed = [
        not torch.equal(a[square], b[square])
        for a, b in zip(last.images[task.marked], task.images[task.marked], strict=True)
    ]
    assert all(changed)


def test_ours_is_compared_with_the_best_of_the_baselines():
    def rows(**values):
        return {name: {"T3 rank": own} for name, own in values.items()}

    row = {
        "cell": "maps: made up",
        "rows": {
            **rows(ours=[0.9, 0.8, 0.9, 0.8]),
            "2: one": {"T3 rank": [0.1, 0.1, 0.1, 0.1]},
            "2: other": {"T3 rank": [0.5, 0.5, 0.5, 0.5]},
        },
    }
    (line,) = against("made up", [row], "ours")
    assert "other 0.500" in line
    assert "+0.350" in line
    assert "better" in line
    assert "T3 rank" in JUDGED
