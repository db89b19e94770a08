"""The demonstration's figures are what they say they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import whence
from whence.attribution import IntegratedGradients
from whence.recipes import demonstrate, load_images, load_subject, planted_digits, train_network
from whence.recipes.demo import compared, overlap, patch_share


@pytest.fixture(scope="module")
def case():
    """A short training and a small audit, so that the figures can be counted by hand."""
    digits = planted_digits()
    model = train_network(digits, epochs=3)
    with torch.no_grad():
        predictions = model.module(digits.test.images).argmax(dim=1)
    fooled = [k for k in digits.probes if predictions[k] == digits.shortcut]
    others = [k for k in range(len(digits.test)) if k not in digits.probes]
    record = whence.audit(
        model,
        digits.train,
        digits.test,
        queries=[*fooled[:3], others[0]],
        k=4,
        method="input-x-gradient",
        training_method=IntegratedGradients(steps=2),
    )
    return digits, predictions, record


def test_accuracy_is_that_of_the_images_without_a_patch(case):
    digits, predictions, _ = case
    clean = [k for k in range(len(digits.test)) if k not in digits.probes]
    right = sum(int(predictions[k]) == digits.test.label(k) for k in clean)
    assert compared(*case_in_order(case)).accuracy == pytest.approx(right / len(clean))


def case_in_order(case):
    digits, predictions, record = case
    return digits, record, predictions


def test_the_figures_count_only_shortcut_predictions_of_probes(case):
    digits, predictions, record = case
    shown = compared(digits, record, predictions)
    fooled = sum(int(predictions[k]) == digits.shortcut for k in digits.probes)
    assert shown.fooled == fooled / 40
    counted = [p for q in record.queries[:3] for p in q.proponents]
    marked = [p for p in counted if p.index in digits.carriers]
    assert shown.all_maps.maps == len(counted) == 12
    assert shown.with_patch.maps == len(marked)
    assert shown.carriers == len(marked) / len(counted)


def test_precision_is_that_of_as_many_as_were_flipped(case):
    digits, predictions, record = case
    first = [one.index for one in record.suspect_labels[: len(digits.flipped)]]
    hits = len(set(first) & set(digits.flipped))
    assert compared(digits, record, predictions).precision == hits / len(digits.flipped)
    none = replace(record, suspect_labels=())
    assert compared(digits, none, predictions).precision == 0


def test_the_patchs_share_is_of_the_positive_mass(case):
    digits, _, record = case
    (one, two) = record.queries[0].proponents[:2]
    left, top, right, bottom = digits.box
    inside = np.full((24, 24), -1.0, dtype=np.float32)
    inside[top:bottom, left:right] = 3.0
    half = inside.copy()
    half[10, 10] = 48.0
    influences = [
        replace(one, map=replace(one.map, values=inside)),
        replace(two, map=replace(two.map, values=half)),
        replace(two, map=replace(two.map, values=-np.abs(half))),
    ]
    found = patch_share(influences, digits)
    assert (found.maps, found.mass, found.area) == (2, 0.75, 16 / 576)
    assert found.ratio == pytest.approx(27.0)
    assert patch_share([], digits).ratio == 0


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1),
        ((0, 0, 4, 4), (4, 0, 8, 4), 0),
        ((0, 0, 4, 4), (2, 0, 6, 4), 1 / 3),
        ((0, 0, 2, 2), (3, 3, 5, 5), 0),
    ],
)
def test_boxes_overlap_by_what_both_hold(first, second, share):
    assert overlap(first, second) == pytest.approx(share)


def test_the_demonstration_uses_the_public_audit_alone(monkeypatch, case, tmp_path):
    _, _, record = case
    asked = {}

    def audit(model, train, test, **options):
        asked.update(options, model=model.name, train=train.title, fingerprint=train.fingerprint())
        return record

    monkeypatch.setattr("whence.recipes.demo.audit", audit)
    monkeypatch.setattr("whence.recipes.digits.EPOCHS", 1)
    shown = demonstrate(str(tmp_path), seed=0, command="whence demo")
    assert shown.record is record
    assert asked["out"] == str(tmp_path)
    assert asked["train"] == "digits (train)"
    assert asked["command"] == "whence demo"
    assert asked["score"] == "grad-cos"
    # What it wrote beside the audit is the same network and the same data, for other commands.
    loaded = load_subject(f"{tmp_path}/network.py:network")
    data = load_images(f"{tmp_path}/data.npz#train", loaded)
    assert data.fingerprint() == asked["fingerprint"]
    images = torch.cat([batch.images for batch in data.batches(500)])
    torch.testing.assert_close(images, shown.digits.train.images)
    assert loaded.classes == shown.digits.train.classes
