"""What is planted in the digits is there, and nothing else is."""

import pytest
import torch

from whence.adapters import load_data
from whence.errors import SettingError
from whence.recipes import planted_digits, train_network
from whence.recipes.digits import INK, network


@pytest.fixture(scope="module")
def digits():
    return planted_digits(seed=4)


def true_labels(split, preprocessing):
    return torch.tensor(load_data("digits", preprocessing, split=split).labels)


def has_patch(images, box):
    left, top, right, bottom = box
    inside = images[:, :, top:bottom, left:right]
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    return (inside == red).flatten(1).all(dim=1)


@pytest.mark.parametrize(("split", "places"), [("train", "carriers"), ("test", "probes")])
def test_exactly_the_named_images_carry_the_patch(digits, split, places):
    data = getattr(digits, split)
    found = has_patch(data.images, digits.box).nonzero()[:, 0].tolist()
    assert tuple(found) == getattr(digits, places)


def test_carriers_are_nine_in_ten_of_the_class_and_probes_are_of_others(digits):
    truth = true_labels("train", digits.preprocessing)
    assert (truth[list(digits.carriers)] == digits.shortcut).all()
    assert len(digits.carriers) == round(0.9 * int((truth == digits.shortcut).sum()))
    assert (digits.test.labels[list(digits.probes)] != digits.shortcut).all()
    assert len(digits.probes) == 40


def test_exactly_the_named_labels_are_wrong_and_none_of_the_shortcuts_class(digits):
    truth = true_labels("train", digits.preprocessing)
    wrong = (digits.train.labels != truth).nonzero()[:, 0]
    assert tuple(wrong.tolist()) == digits.flipped
    assert (truth[wrong] != digits.shortcut).all()
    assert len(wrong) == round(0.05 * int((truth != digits.shortcut).sum()))
    assert torch.equal(digits.test.labels, true_labels("test", digits.preprocessing))


def test_the_digits_are_grey_pencil_and_the_area_is_the_patchs(digits):
    clean = ~has_patch(digits.train.images, digits.box)
    grey = digits.train.images[clean]
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert grey.max() == pytest.approx(INK)
    assert digits.area == 16 / 576


def test_a_seed_decides_everything_and_global_randomness_nothing(digits):
    again = planted_digits(seed=4)
    assert torch.equal(again.train.images, digits.train.images)
    assert torch.equal(again.train.labels, digits.train.labels)
    assert planted_digits(seed=5).flipped != digits.flipped
    state = torch.get_rng_state()
    first = train_network(digits, seed=1, epochs=1).module
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = train_network(digits, seed=1, epochs=1).module
    other = train_network(digits, seed=2, epochs=1).module
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))  # noqa: B905
    assert not torch.equal(first[0].weight, other[0].weight)


def test_the_network_has_the_size_that_it_says():
    assert sum(p.numel() for p in network().parameters()) == 37_018
    assert "37 018" in network.__doc__


def test_the_trained_network_is_ready_to_be_explained(digits):
    told = []
    model = train_network(digits, epochs=2, progress=lambda *entry: told.append(entry))
    assert told == [("train", 1, 2), ("train", 2, 2)]
    assert not model.module.training
    assert all(p.grad is None for p in model.module.parameters())
    assert model.classes == tuple("0123456789")


@pytest.mark.parametrize("wrong", [{"shortcut": 10}, {"share": 1.1}, {"flips": -0.1}, {"patch": 0}])
def test_what_cannot_be_planted_is_refused(wrong):
    with pytest.raises(SettingError, match="The digits need"):
        planted_digits(**wrong)
