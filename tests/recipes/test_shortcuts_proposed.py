"""Appearances that told the class in training are found, without masks; where there are none, no.

The truth is planted: a textured ground behind digits, or a stamp that moves about.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from whence.core import TensorData
from whence.network import Network
from whence.recipes.boxes import CarriedMap
from whence.recipes.shortcut_cells import look_of
from whence.recipes.shortcuts import propose_shortcuts

SIDE, STAMP = 24, 6
COLOURS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.7]])


def pencil():
    """Twos and fives in pencil, and whether each pixel is the digit's."""
    digits = load_digits()
    rows = np.flatnonzero((digits.target == 2) | (digits.target == 5))
    ink = torch.from_numpy(digits.images[rows] / 16).float().repeat_interleave(3, 1)
    ink = ink.repeat_interleave(3, 2)[:, None]
    return ink, torch.from_numpy((digits.target[rows] == 5).astype(np.int64))


def grounds(kinds, generator):
    """Textures: stripes of one colour or the other, with noise."""
    at = torch.arange(SIDE)
    stripes = ((at // 2) % 2).float()
    drawn = []
    for kind in kinds.tolist():
        lines = stripes[:, None] if kind else stripes[None, :]
        noise = 0.1 * torch.rand(3, SIDE, SIDE, generator=generator)
        drawn.append(COLOURS[kind].view(3, 1, 1) * (0.6 + 0.4 * lines) + noise)
    return torch.stack(drawn)


def on_ground(ink, labels, agree, seed):
    generator = torch.Generator().manual_seed(seed)
    same = torch.rand(len(labels), generator=generator) < agree
    kinds = torch.where(same, labels, 1 - labels)
    digit = ink > 0.25
    return torch.where(digit, ink.expand(-1, 3, -1, -1), grounds(kinds, generator)), ~digit


def stamped(ink, rows, seed):
    """Grey digits, those of some rows with a red stamp at a place drawn for each."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.35 * ink.expand(-1, 3, -1, -1).clone()
    images += 0.05 * torch.rand(images.shape, generator=generator)
    where = torch.zeros(len(ink), 1, SIDE, SIDE, dtype=torch.bool)
    for row in rows.tolist():
        top, left = torch.randint(0, SIDE - STAMP + 1, (2,), generator=generator).tolist()
        where[row, :, top : top + STAMP, left : left + STAMP] = True
    return torch.where(where, torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1), images), where


def learnt(images, labels, epochs=24):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 2),
    )
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimiser.step()
    return model.eval()


def proposed(train, train_labels, test, test_labels, **settings):
    network = Network.read(learnt(train, train_labels), train[:2])
    return propose_shortcuts(
        network,
        TensorData(images=train, labels=train_labels, classes=("two", "five")),
        TensorData(images=test, labels=test_labels),
        **settings,
    )


INK, LABELS = pencil()
HALF = torch.arange(len(INK)) % 3 > 0


def masked(findings, count):
    found = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for one in findings:
        found[list(one.images)] |= torch.from_numpy(one.masks == 255)
    return found


@pytest.fixture(scope="module")
def behind():
    """Findings where the ground told the class in training and not in the audit."""
    train, ground = on_ground(INK[HALF], LABELS[HALF], 0.85, 1)
    test, _ = on_ground(INK[~HALF], LABELS[~HALF], 0.5, 2)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    maps = [
        CarriedMap(
            index=k,
            label=int(LABELS[HALF][k]),
            values=ground[k, 0].numpy().astype(np.float32),
            picture=picture,
        )
        for k in range(20)
    ]
    findings = proposed(train, LABELS[HALF], test, LABELS[~HALF], maps=maps)
    return findings, ground[:, 0]


def test_a_ground_behind_the_objects_is_found_pixel_by_pixel_for_each_class(behind):
    findings, ground = behind
    assert {one.label for one in findings} == {0, 1}
    assert [one.id for one in findings] == ["appearance-1", "appearance-2"]
    found = masked(findings, len(ground))
    both = (found & ground).sum()
    assert both / found.sum() > 0.75 > ground.float().mean() + 0.1
    assert both / ground.sum() > 0.4


def test_the_evidence_says_that_it_told_the_class_in_training_and_no_more(behind):
    for one in behind[0]:
        seen = one.evidence
        assert seen["p"] <= 0.01
        assert seen["tells the class in training images"] > 0.75
        assert seen["tells the class in audited images"] < 0.6
        points, elsewhere = "evidence that points to the label", "evidence from elsewhere that does"
        assert seen[points] < seen[elsewhere]
        assert seen["share of the class's images"] > 1.5 * seen["share of other classes' images"]
        assert ("two", "five")[one.label] in one.summary


def test_the_mass_of_training_maps_in_it_is_reported_beside_its_area(behind):
    for one in behind[0]:
        assert one.evidence["maps looked at"] > 0
        area = one.evidence["share of the area of these images"]
        assert area < one.evidence["share of the influence"] <= 1


def test_where_the_ground_never_told_the_class_nothing_is_proposed():
    train, _ = on_ground(INK[HALF], LABELS[HALF], 0.5, 3)
    test, _ = on_ground(INK[~HALF], LABELS[~HALF], 0.5, 4)
    assert proposed(train, LABELS[HALF], test, LABELS[~HALF]) == ()


def test_a_ground_that_tells_the_class_in_the_audit_too_is_not_proposed():
    train, _ = on_ground(INK[HALF], LABELS[HALF], 0.95, 5)
    test, _ = on_ground(INK[~HALF], LABELS[~HALF], 0.95, 6)
    assert proposed(train, LABELS[HALF], test, LABELS[~HALF]) == ()


def test_a_stamp_that_moves_about_is_found_where_it_is():
    labels, others = LABELS[HALF], LABELS[~HALF]
    drawn = torch.rand(len(LABELS), generator=torch.Generator().manual_seed(7))
    train, where = stamped(INK[HALF], ((labels == 1) & (drawn[HALF] < 0.7)).nonzero()[:, 0], 8)
    test, _ = stamped(INK[~HALF], (drawn[~HALF] < 0.5).nonzero()[:, 0], 9)
    findings = proposed(train, labels, test, others)
    assert 1 in {one.label for one in findings}
    (one,) = (each for each in findings if each.label == 1)
    found = masked([one], len(train))
    carriers = where[:, 0].flatten(1).any(dim=1)
    inside = found & where[:, 0]
    assert inside[carriers].sum() / where.sum() > 0.8
    assert found[carriers].float().mean() < 0.3


def test_few_labelled_images_or_a_network_without_maps_propose_nothing():
    train, _ = on_ground(INK[HALF], LABELS[HALF], 0.95, 1)
    data = TensorData(images=train, labels=LABELS[HALF])
    network = Network.read(learnt(train, LABELS[HALF], epochs=1), train[:2])
    few = TensorData(images=train[:20], labels=LABELS[HALF][:20])
    assert propose_shortcuts(network, data, few) == ()
    unlabelled = TensorData(images=train)
    assert propose_shortcuts(network, data, unlabelled) == ()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2)).eval()
    assert propose_shortcuts(Network.read(flat, train[:2]), data, data) == ()


def test_cells_are_looked_at_where_the_map_is_deep_and_still_fine_enough():
    network = Network.read(
        learnt(INK[:8].expand(-1, 3, -1, -1), LABELS[:8], epochs=1), INK[:2].expand(-1, 3, -1, -1)
    )
    look = look_of(network)
    assert look.grid == (12, 12)
    assert look.fine.node == "relu_1"
    assert look.deep[-1].node == network.cut().node
    assert look_of(network, side=24).grid == (24, 24)
