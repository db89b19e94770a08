"""The experiments on training-feature maps: their tasks and tables, and a run in small."""

import pytest
import torch

from reproductions.tfa.__main__ import cells
from reproductions.tfa.experiments import costs, run
from reproductions.tfa.networks import convolutional
from reproductions.tfa.report import JUDGED, against, names_of, report
from reproductions.tfa.tasks import marked_with, shapes


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
    assert len(set(names)) == len(names) > 8


def test_a_small_run_fills_the_tables(task):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = convolutional("gelu", 6, (4, 6), {0, 1}).eval()
    found = run(task, model, (1, 2, 1), ablate=False)
    row = {"cell": "small, seed 0", "cpu": 1.0, **found}
    spent = {"cell": "cost: small", "cpu": 1.0, "cost": costs(task, model)}
    shown = {n for n in names_of([row]) if not n.endswith("re-initialised")}
    assert set(spent["cost"]) == shown - {"random pixels"}
    names = set(found["rows"])
    assert {"tfa", "shared-evidence", "2: LRP", "random pixels", "tfa, re-initialised"} <= names
    for name in ("tfa", "2: saliency", "random pixels"):
        assert len(found["rows"][name]["T4 gap"]) == 4
    text = report([row, spent])
    assert "| shared-evidence |" in text
    assert "2: Grad-CAM" in text


def test_ours_is_compared_with_the_best_of_the_baselines():
    def rows(**values):
        return {name: {"T3 rank": own} for name, own in values.items()}

    row = {
        "cell": "made up",
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
