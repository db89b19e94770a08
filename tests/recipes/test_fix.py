"""What was accepted is put right: masks, drops, labels, and a training on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from whence.adapters.training import TrainingSettings
from whence.core import TensorData, fingerprint_model
from whence.errors import DataError, MismatchError, OutputError, RecordError, SettingError
from whence.recipes.fix import Fixed, fix, load_fixed
from whence.recipes.fix_plan import plan_of
from whence.results import Audited, Finding, decide, load_findings, save_findings
from whence.results.fix import load_fix

SIDE, COUNT = 8, 120
BOX = (0, 0, 2, 2)
CLASSES = ("dark", "left", "right")
SETTINGS = TrainingSettings(epochs=8, batch_size=16, rate=1e-2, decay=0.0)


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise with a bar to the left or to the right, or without one."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.5 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    images[labels == 1, :, :, 3] += 0.25
    images[labels == 2, :, :, 6] += 0.25
    return images, labels


@pytest.fixture(scope="module")
def train() -> TensorData:
    images, labels = drawn(COUNT, 0)
    images[labels == 0, :, :2, :2] = 3.0
    return TensorData(images=images, labels=labels, classes=CLASSES, title="planted")


@pytest.fixture(scope="module")
def model(train) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(96, 3),
        )  # fmt: skip
        optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(made(train.images), train.labels).backward()
            optimiser.step()
        optimiser.zero_grad()
    return made.eval()


@pytest.fixture
def audited(train, model) -> Audited:
    return Audited(
        images=COUNT,
        classes=CLASSES,
        height=SIDE,
        width=SIDE,
        train=train.fingerprint(),
        model=fingerprint_model(model),
    )


MASKS = np.zeros((2, SIDE, SIDE), np.uint8)
MASKS[0, :2, :2], MASKS[1, 4:, 4:] = 255, 255
FOUND = (
    Finding(id="shortcut-1", kind="region", label=0, images=(0, 3, 6), box=BOX),
    Finding(id="shortcut-2", kind="region", label=0, images=(9, 12), masks=MASKS),
    Finding(id="label-7", kind="label", label=1, images=(7,), suggested=2),
    Finding(id="images-1", kind="images", images=(4, 5, 7)),
)


@pytest.fixture
def folder(tmp_path, audited):
    place = tmp_path / "audit"
    place.mkdir()
    save_findings(place, FOUND, audited)
    return place


def accepted(*ids: str) -> tuple[Finding, ...]:
    """Return the findings, some of them accepted."""
    return decide(FOUND, ids)


def test_a_box_is_one_mask_for_all_images(audited, train):
    plan = plan_of(accepted("shortcut-1"), audited, train)
    assert plan.shortcut.shape == (1, 1, SIDE, SIDE)
    assert plan.masks(torch.tensor([5, 6])).shape == (2, 1, SIDE, SIDE)
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(plan.masks(torch.tensor([5]))[0, 0], expected)
    assert not plan.moves
    assert plan.applied(train) is train


def test_masks_are_those_of_their_images_and_boxes_are_added(audited, train):
    plan = plan_of(accepted("shortcut-1", "shortcut-2"), audited, train)
    sizes = plan.masks(torch.arange(COUNT)).flatten(1).sum(dim=1)
    assert plan.moves
    assert sizes[12] == 4 + 16
    assert sizes[9] == 4
    alone = plan_of(accepted("shortcut-2"), audited, train)
    sizes = alone.masks(torch.arange(COUNT)).flatten(1).sum(dim=1)
    assert (int(sizes[9]), int(sizes[12]), int(sizes.sum())) == (4, 16, 20)


def test_labels_change_and_images_go(audited, train):
    plan = plan_of(accepted("label-7"), audited, train)
    changed = plan.applied(train)
    assert (train.label(7), changed.label(7), changed.label(8)) == (1, 2, 2)
    read = torch.cat([batch.labels for batch in changed.batches(50)])
    assert read[7] == 2
    assert (read != train.labels).sum() == 1
    assert changed.fingerprint() != train.fingerprint()
    plan = plan_of(accepted("label-7", "images-1"), audited, train)
    left = plan.applied(train)
    assert (plan.dropped, plan.relabelled) == ((4, 5, 7), {})
    assert plan.notes == ("1 images are dropped that were to be relabelled, too.",)
    assert len(left) == COUNT - 3
    assert torch.cat([b.indices for b in left.batches(7)]).tolist() == [
        k for k in range(COUNT) if k not in (4, 5, 7)
    ]


def test_nothing_accepted_says_how_to_accept(audited, train):
    with pytest.raises(
        SettingError,
        match=r"Nothing is accepted of 4 findings: shortcut-1.*"
        r"verdict = \"accepted\".*--accept shortcut-1",
    ):
        plan_of(FOUND, audited, train)
    with pytest.raises(SettingError, match="4 of them rejected"):
        plan_of(decide(FOUND, "all", "rejected"), audited, train)
    with pytest.raises(SettingError, match="found nothing to put right"):
        plan_of((), audited, train)


def test_a_class_that_would_be_emptied_is_named_with_the_findings_that_do_it(audited, train):
    own = tuple(range(1, COUNT, 3))
    half = Finding(id="images-2", kind="images", images=own[:20])
    rest = Finding(id="images-3", kind="images", images=own[20:-1])
    last = Finding(id="label-9", kind="label", label=1, images=own[-1:], suggested=0)
    found = decide([half, rest, last, *FOUND], ["images-2", "images-3", "label-9"])
    with pytest.raises(
        DataError,
        match=r"Class left would have no training image left.*images-2, images-3, label-9",
    ):
        plan_of(found, audited, train)
    assert plan_of(decide(found, "label-9", "rejected"), audited, train).relabelled == {}


def test_findings_that_ask_for_different_labels_contradict_each_other(audited, train):
    other = Finding(id="label-7b", kind="label", images=(7,), suggested=0, verdict="accepted")
    with pytest.raises(SettingError, match=r"label-7 and label-7b.*image 7: right and dark"):
        plan_of((*accepted("label-7"), other), audited, train)


@pytest.fixture(scope="module")
def fixed(train, model, tmp_path_factory) -> Fixed:
    place = tmp_path_factory.mktemp("fix")
    known = Audited(
        images=COUNT, classes=CLASSES, height=SIDE, width=SIDE, train=train.fingerprint(),
        model=fingerprint_model(model),
    )  # fmt: skip
    save_findings(place, accepted("shortcut-1", "images-1"), known)
    return fix(place, model, train, out=place / "fixed", weights=[100.0], settings=SETTINGS)


def taken_in(network: nn.Module) -> tuple[float, float]:
    """Return how often the shortcut decides on new images of other classes, and the accuracy."""
    images, labels = drawn(60, 1)
    with torch.no_grad():
        right = (network(images).argmax(1) == labels).double().mean()
        images[:, :, :2, :2] = 3.0
        wrong = (network(images).argmax(1) == 0)[labels != 0].double().mean()
    return float(wrong), float(right)


def test_a_shortcut_is_put_right_without_images_that_are_free_of_it(fixed, model):
    before, was_right = taken_in(model)
    after, right = taken_in(fixed.module)
    assert before > 0.6
    assert after < 0.25
    assert right > was_right + 0.1


def test_the_control_without_the_prior_is_told_and_is_not_chosen(fixed):
    named = {row.name: row for row in fixed.record.trainings}
    assert fixed.record.chosen == "weight 100"
    assert named["weight 100"].accuracy > named["no prior, bias-free"].accuracy + 0.2


def test_what_was_done_is_written_and_read_back(fixed, train):
    record = load_fix(fixed.folder)
    assert [one.id for one in record.findings] == ["shortcut-1", "images-1"]
    assert (record.dropped, record.masked) == ((4, 5, 7), COUNT)
    assert record.area == 4 / 64
    assert record.x_dnn
    assert record.converted
    assert record.prior == "OutsideMask on InputXGradient"
    text = (fixed.folder / "report.md").read_text()
    assert "| shortcut-1 | mask | 120 |" in text
    assert "| images-1 | drop | 3 |" in text
    again = load_fixed(fixed.folder, nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(again(train.images), fixed.module(train.images))


def test_dropped_images_are_neither_trained_on_nor_chosen_by(fixed):
    settings = json.loads((fixed.folder / "settings.json").read_text())
    told = json.loads((fixed.folder / "fit.json").read_text())
    assert told["data"][0].startswith("93 of 117 of planted") or "of 117 of" in told["data"][0]
    assert settings["weights"] == [100.0]


def test_a_finished_fix_is_resumed_from_what_is_there(fixed, train, model):
    place = fixed.folder
    before = (place / "runs" / "weight-100" / "log.csv").read_bytes()
    again = fix(
        place.parent, model, train, out=place, weights=[100.0], settings=SETTINGS, resume=True
    )
    assert (place / "runs" / "weight-100" / "log.csv").read_bytes() == before
    with torch.no_grad():
        torch.testing.assert_close(again.module(train.images), fixed.module(train.images))
    with pytest.raises(MismatchError, match=r"was started otherwise.*train was"):
        fix(
            place.parent,
            model,
            train,
            out=place,
            weights=[100.0],
            settings=SETTINGS,
            resume=True,
            accept="label-7",
            findings=accepted("shortcut-1"),
        )
    with pytest.raises(OutputError, match="holds a training already"):
        fix(place.parent, model, train, out=place, weights=[100.0], settings=SETTINGS)


def test_labels_alone_are_put_right_on_the_network_as_it_is(folder, train, model, untouched):
    with untouched(model):
        found = fix(folder, model, train, accept="label-*", settings=replace(SETTINGS, epochs=1))
    assert found.folder is None
    assert (found.record.converted, found.record.prior, found.record.masked) == (False, "", 0)
    assert found.record.relabelled == {7: 2}
    assert [row.name for row in found.record.trainings] == ["no prior"]
    assert [type(part) for part in found.module] == [type(part) for part in model]
    assert load_findings(folder)[2].verdict == "open"


def test_masks_of_their_own_are_learnt_from_without_converting(folder, train, model):
    found = fix(
        folder, model, train, accept=["shortcut-2"], convert=False, weights=[1.0],
        settings=replace(SETTINGS, epochs=1),
    )  # fmt: skip
    assert (found.record.masked, found.record.x_dnn, found.record.converted) == (2, False, False)
    assert found.record.area == pytest.approx((4 + 16) / 2 / 64)


def test_another_model_or_other_data_are_refused(folder, train, model):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    with pytest.raises(MismatchError, match="other weights than the one that was audited"):
        fix(folder, other, train, accept="shortcut-1")
    fewer = TensorData(images=train.images[1:], labels=train.labels[1:], classes=CLASSES)
    with pytest.raises(MismatchError, match=r"saw 120 training images, and .* holds 119"):
        fix(folder, model, fewer, accept="shortcut-1")
    turned = TensorData(images=train.images.flip(0), labels=train.labels, classes=CLASSES)
    with pytest.raises(MismatchError, match="holds other images or labels than the audit saw"):
        fix(folder, model, turned, accept="shortcut-1")


def test_bad_requests_are_refused_before_any_training(folder, train, model, tmp_path):
    with pytest.raises(SettingError, match="no finding 'shortcut-9'"):
        fix(folder, model, train, accept="shortcut-9")
    with pytest.raises(SettingError, match="nothing to resume"):
        fix(folder, model, train, accept="shortcut-1", resume=True)
    with pytest.raises(SettingError, match="gini uses no masks"):
        fix(folder, model, train, accept="shortcut-1", prior="gini")
    with pytest.raises(RecordError, match=r"has no findings.toml"):
        fix(tmp_path, model, train)
    with pytest.raises(OutputError, match="Let the fix end"):
        load_fixed(tmp_path, model)
    with pytest.raises(RecordError, match=r"which holds fix.json, but it holds none"):
        load_fix(tmp_path)
