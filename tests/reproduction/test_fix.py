"""The loop's proof: proposals judged by counting, intervals, and ways that differ as they say."""

import numpy as np
import pytest
import torch
from scipy.stats import t
from torch import nn

from reproductions.fix.cases import Case, Images, Settings
from reproductions.fix.loop import ROWS, accepted, is_mark, judged, measured, predicted
from reproductions.fix.report import interval, table
from whence.results import Finding

SIDE, COUNT = 8, 24
SETTINGS = Settings(epochs=1, rate=1e-3, more=1, more_rate=1e-3, weight=1.0)


@pytest.fixture
def case():
    """Noise with a white corner on images of class 1."""
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(COUNT) % 2
    images[labels == 1, :, :2, :2] = 1
    truth = torch.zeros(COUNT, 1, SIDE, SIDE, dtype=torch.bool)
    truth[labels == 1, :, :2, :2] = True
    some = Images(images=images, labels=labels)
    return Case(
        train=some,
        audited=some,
        clean=some.only(labels == 0),
        against=some.only(labels == 1),
        truth=truth,
        fair=None,
        classes=("a", "b"),
        shortcut=1,
        network=lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        ),
    )


def region(**changes):
    evidence = {
        "pixels alike": 0.9,
        "share of the influence": 0.6,
        "share of the area": 0.05,
        "training images of the class that show it": 12,
        "training images of other classes that show it": 1,
    }
    return Finding(
        id="shortcut-1",
        kind="region",
        label=1,
        images=(1, 3, 5),
        box=(0, 0, 4, 2),
        evidence=evidence | changes,
    )


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"pixels alike": 0.5}, False),
        ({"share of the influence": 0.3}, False),
        ({"training images of other classes that show it": 2}, False),
    ],
    ids=["all", "not alike", "not dense", "not its own"],
)
def test_a_region_is_accepted_if_all_of_the_rule_holds(changes, taken):
    assert is_mark(region(**changes)) is taken


def test_a_proposal_is_judged_by_the_pixels_of_images_that_carry_the_shortcut(case):
    found = accepted(case, [region()])
    assert judged(case, found)["overlap"] == pytest.approx(4 / 8)
    assert judged(case, found)["precision"] == pytest.approx(4 / 8)
    assert judged(case, found)["recall"] == 1
    assert found.kept.tolist() == [k for k in range(COUNT) if k not in (1, 3, 5)]


def test_masks_concern_their_images_and_drop_those_of_their_class_alone(case):
    masks = np.zeros((3, SIDE, SIDE), np.uint8)
    masks[:, :4, :4] = 255
    one = Finding(id="appearance-1", kind="region", label=1, images=(0, 1, 3), masks=masks)
    found = accepted(case, [one])
    assert found.inside.flatten(1).any(dim=1).nonzero()[:, 0].tolist() == [0, 1, 3]
    assert found.kept.tolist() == [0, 2, *range(4, COUNT)]


def test_every_way_gives_a_network_and_only_x_dnns_are_homogeneous(case):
    torch.manual_seed(0)
    model = case.network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = accepted(case, [region()])
    made = {name: way(case, SETTINGS, model, found, 0) for name, way in ROWS.items()}
    for name, network in made.items():
        with torch.no_grad():
            once, twice = network(case.train.images), network(2 * case.train.images)
        assert torch.allclose(twice, 2 * once, atol=1e-5) == ("X-DNN" in name)
        assert set(measured(case, network)) == {"clean", "against", "taken in"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_accuracies_are_counted(case):
    torch.manual_seed(0)
    model = case.network().eval()
    guess = predicted(model, case.against.images)
    row = measured(case, model)
    assert row["against"] == pytest.approx(float((guess == 1).float().mean()))
    assert row["taken in"] == pytest.approx(float((guess == 1).float().mean()))


def test_intervals_are_students():
    values = [0.5, 0.55, 0.62, 0.48]
    half = 100 * t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert interval(values) == f"{100 * np.mean(values):.1f} ± {half:.1f}"
    assert interval([0.5]) == "50.0"


def test_a_case_that_was_not_run_is_said_to_be_missing():
    assert "Not run" in table("CIFAR-10", [])
