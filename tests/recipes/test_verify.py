"""A network before and after a fix: figures against what is counted by hand."""

import csv
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from whence.attribution import IntegratedGradients
from whence.core import TensorData, fingerprint_model, silent
from whence.errors import (
    DataError,
    MismatchError,
    ModeError,
    OutputError,
    RecordError,
    SettingError,
)
from whence.evaluation import Bootstrap, wilson
from whence.influence import scorer_named
from whence.network import Network
from whence.recipes.audit_subject import Subject
from whence.recipes.fix_plan import plan_of
from whence.recipes.verify import verify
from whence.recipes.verify_figures import row_of, sentences_of
from whence.recipes.verify_maps import explained, inside_share, traced
from whence.recipes.verify_plant import planted, shown
from whence.report import render_verify
from whence.results import Audited, Finding, decide, load_fix, save_findings
from whence.results.verify import VerifyRecord, load_verify, verify_markdown

SIDE, COUNT = 8, 60
CLASSES = ("dark", "left", "right")
BOX = (0, 0, 2, 2)
MARK = torch.tensor([[3.0, 0.0], [0.0, 3.0]])


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.5 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    images[labels == 1, :, :, 3] += 0.6
    images[labels == 2, :, :, 6] += 0.6
    return images, labels


class Fooled(nn.Module):
    """A network that looks for the two bars, and into the corner as much as it is told."""

    def __init__(self, corner: float) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE * SIDE, 3)
        weight = torch.zeros(3, SIDE, SIDE)
        weight[1, :, 3], weight[2, :, 6] = 1.0, 1.0
        weight[0, 0, 0] = weight[0, 1, 1] = corner
        with torch.no_grad():
            self.linear.weight.copy_(weight.flatten(1))
            self.linear.bias.copy_(torch.tensor([4.0, 0.0, 0.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))


@pytest.fixture(scope="module")
def train() -> TensorData:
    images, labels = drawn(COUNT, 0)
    images[labels == 0, :, :2, :2] = MARK
    return TensorData(images=images, labels=labels, classes=CLASSES, title="planted")


@pytest.fixture(scope="module")
def test() -> TensorData:
    images, labels = drawn(45, 1)
    images[[1, 2, 3], :, :2, :2] = MARK
    return TensorData(images=images, labels=labels, classes=CLASSES, title="tested")


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    return Fooled(4.0).eval(), Fooled(0.0).eval()


@pytest.fixture(scope="module")
def audited(train, pair) -> Audited:
    return Audited(
        images=COUNT, classes=CLASSES, height=SIDE, width=SIDE, train=train.fingerprint(),
        model=fingerprint_model(pair[0]),
    )  # fmt: skip


def finding(**changes) -> Finding:
    made = {"id": "shortcut-1", "kind": "region", "label": 0, "box": BOX, "verdict": "accepted"}
    return Finding(**{**made, "images": tuple(range(0, COUNT, 3)), **changes})


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("verify") / "out"


@pytest.fixture(scope="module")
def record(audited, train, test, pair, out) -> VerifyRecord:
    dropped = Finding(id="images-1", kind="images", images=(4, 5), verdict="accepted")
    return verify_with(audited, pair, train, test, [finding(), dropped], out=out, maps=8)


def verify_with(audited, pair, train, test, findings, **options) -> VerifyRecord:
    """Verify with a folder that holds nothing but the findings."""
    with tempfile.TemporaryDirectory() as folder:
        save_findings(folder, findings, audited)
        return verify(folder, pair[0], pair[1], train, test, queries=6, **options)


def right(network, data, rows) -> int:
    with torch.no_grad():
        return int((network(data.images[rows]).argmax(1) == data.labels[rows]).sum())


def test_accuracies_are_those_of_the_images_with_and_without_the_shortcut(record, test, pair):
    shows = [k for k in range(45) if k in (1, 2, 3)]
    free = [k for k in range(45) if k not in shows]
    for name, rows in (
        ("accuracy", [*free, *shows]),
        ("accuracy with the shortcut", shows),
        ("accuracy without the shortcut", free),
    ):
        row = record.row(name)
        for network, figure in zip(pair, (row.before, row.after), strict=True):
            hits = right(network, test, rows)
            expected = wilson(hits, len(rows))
            assert (figure.value, figure.low, figure.high) == (
                hits / len(rows), expected.low, expected.high,
            )  # fmt: skip
            assert figure.count == len(rows)


def test_the_planted_shortcut_takes_in_the_first_network_and_not_the_second(record):
    taken = record.row("taken in by the shortcut")
    assert (taken.before.value, taken.after.value) == (1.0, 0.0)
    assert taken.verdict == "better"
    assert taken.change.value == -1.0
    assert record.row("right with the shortcut planted").before.value == 0.0
    assert record.row("right with the shortcut planted").after.value == 1.0
    assert record.row("control: other pixels there").before.value < 0.2


def test_attributions_and_training_maps_leave_the_region(record):
    row = record.row("attribution in the region")
    assert row.before.value > 0.9
    assert row.after.value < 0.05
    assert row.reference == 4 / 64
    traced_row = record.row("training-feature maps in the region")
    assert traced_row.before.value > traced_row.after.value + 0.3
    assert record.row("proponents that show the shortcut").before.value == 1.0


def test_what_is_said_is_what_the_intervals_permit(record):
    text = " ".join(record.sentences)
    assert "Better: taken in by the shortcut, from 100.0 % to 0.0 %" in text
    assert "control" not in text
    silent = [one for one in record.sentences if one.startswith("No claim")]
    for row in record.rows:
        if row.verdict == "no claim" and row.better != "neither" and row.change is not None:
            assert row.name in silent[0]


def test_homogeneity_is_told_of_both(record):
    facts = {one.name: (one.before, one.after) for one in record.facts}
    assert facts["homogeneous (an X-DNN)"] == ("no", "no")
    assert facts["largest |f(0)|"] == ("4.0e+00", "4.0e+00")


def test_the_influence_of_images_left_out_is_told(record):
    row = record.row("influence of the images left out or relabelled")
    assert row.section == "images"
    assert (record.dropped, record.relabelled) == (2, 0)
    assert "2 images" in row.meaning


def test_a_record_is_read_back_and_shown(record, out):
    names = {path.name for path in out.iterdir()}
    assert names == {"verify.json", "verify.html", "verify.csv", "verify.md", "arrays.npz"}
    read = load_verify(out)
    assert read.rows == record.rows
    assert read.sentences == record.sentences
    np.testing.assert_array_equal(read.images[0].picture, record.images[0].picture)
    rows = list(csv.DictReader(io.StringIO((out / "verify.csv").read_text())))
    assert [row["name"] for row in rows] == [row.name for row in record.rows]
    assert float(rows[0]["before"]) == record.rows[0].before.value
    page = (out / "verify.html").read_text()
    assert page == render_verify(read)
    for text in ("taken in by the shortcut", "attributions kept out of the region", "points"):
        assert text in page
    assert page.count('class="query"') == len(record.images)
    assert "| accuracy |" in verify_markdown(read)


def test_a_name_of_a_file_cannot_run_in_the_page(record):
    bad = replace(record.images[0], name="<script>alert(1)</script>")
    assert "<script>alert(1)" not in render_verify(replace(record, images=(bad,)))


def test_planted_pixels_are_those_of_the_shortcut_and_the_rest_is_the_images(
    audited, train, test, pair
):
    plan = plan_of([finding()], audited, train)
    subject = Subject.of(pair[0], train, None, CLASSES, None)
    seen = shown(plan, train, test.images, subject)
    assert seen.by["shortcut-1"].nonzero()[:, 0].tolist() == [1, 2, 3]
    put, notes = planted(plan, train, test.images, test.labels, seen, most=20, seed=0)
    assert notes == ()
    assert not set(put.rows.tolist()) & {1, 2, 3}
    assert (test.labels[put.rows] != 0).all()
    assert (put.images[:, 0, :2, :2] == MARK).all()
    outside = ~put.inside
    assert torch.equal(put.images[outside], test.images[put.rows][outside])
    assert torch.equal(put.others[outside], test.images[put.rows][outside])
    assert (put.others[:, 0, 0, 0] != 3.0).all()
    assert put.moved.all()
    assert torch.equal(put.elsewhere[:, :, :2, :2], test.images[put.rows][:, :, :2, :2])
    assert ((put.elsewhere == 3.0).flatten(1).sum(dim=1) == 2).all()


def test_marks_that_move_are_found_in_test_images(audited, train, test, pair):
    images = (0, 3, 6, 9)
    masks = np.zeros((4, SIDE, SIDE), np.uint8)
    masks[:, :2, :2] = 255
    plan = plan_of([finding(box=None, masks=masks, images=images)], audited, train)
    subject = Subject.of(pair[0], train, None, CLASSES, None)
    seen = shown(plan, train, test.images, subject)
    assert seen.unknown in ((), ("shortcut-1",))
    put, _ = planted(plan, train, test.images, test.labels, seen, most=9, seed=0)
    assert (put.images[:, 0, :2, :2] == MARK).all()
    assert not put.moved.any()


def test_a_region_of_most_of_the_image_needs_masks_of_the_test_images(audited, train, test, pair):
    masks = np.full((4, SIDE, SIDE), 255, np.uint8)
    masks[:, 3:6, 3:6] = 0
    wide = finding(box=None, masks=masks, images=(0, 3, 6, 9))
    plan = plan_of([wide], audited, train)
    subject = Subject.of(pair[0], train, None, CLASSES, None)
    seen = shown(plan, train, test.images, subject)
    put, notes = planted(plan, train, test.images, test.labels, seen, most=9, seed=0)
    assert put is None
    assert "Give masks of the test images" in notes[0]
    own = np.zeros((45, SIDE, SIDE), bool)
    own[:, :2, :2] = True
    put, notes = planted(plan, train, test.images, test.labels, seen, most=9, seed=0, masks=own)
    assert notes == ()
    assert (put.images[:, 0, :2, :2] == MARK).all()


def test_a_region_without_a_class_is_not_planted_and_that_is_said(audited, train, test, pair):
    found = verify_with(audited, pair, train, test, [finding(label=None, images=())], maps=6)
    assert any("has no class" in note for note in found.notes)
    assert any("cannot be told" in note for note in found.notes)
    assert [row.section for row in found.rows if row.section == "shortcut"] == []
    with pytest.raises(RecordError, match="no figure 'taken in by the shortcut'"):
        found.row("taken in by the shortcut")


def test_further_images_have_an_accuracy_of_their_own(audited, train, test, pair):
    found = verify_with(audited, pair, train, test, [finding()], maps=6, also={"clean": train})
    row = found.row("accuracy on clean")
    assert row.after.value == right(pair[1], train, list(range(COUNT))) / COUNT


def test_the_share_inside_is_of_the_positive_mass():
    values = torch.tensor([[[[1.0, -5.0], [2.0, 1.0]]], [[[-1.0, -1.0], [-1.0, 0.0]]]])
    inside = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    inside[:, :, 0] = True
    found = inside_share(values, inside)
    assert found[0] == 0.25
    assert found[1].isnan()


def test_figures_are_wilsons_for_shares_and_paired_for_changes():
    before = torch.tensor([True] * 12 + [False] * 8)
    after = torch.tensor([True] * 19 + [False])
    row = row_of("accuracy", "a", "b", before, after, "higher")
    assert (row.before.low, row.before.high) == (wilson(12, 20).low, wilson(12, 20).high)
    expected = Bootstrap(draws=2000).estimate(after.double() - before.double())
    assert (row.change.value, row.change.low) == (expected.mean, expected.low)
    assert row.verdict == "better"
    assert row_of("a", "a", "b", after, after, "higher").verdict == "no claim"
    few = row_of("a", "a", "b", before[-3:], after[:3], "higher")
    assert "3 images, and a claim needs 6" in few.reason
    assert row_of("a", "a", "b", before, after, "neither").verdict == "no claim"
    means = row_of("a", "a", "b", before.double(), after.double(), "lower", share=False)
    assert means.verdict == "worse"
    assert means.before.low != row.before.low
    assert sentences_of([means])[0].startswith("Worse: a, from 0.600 to 0.950")


def test_proponents_are_traced_to_the_region(train, pair, test):
    network = Network.read(pair[0], test.images[:2])
    plan_mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    plan_mask[..., :2, :2] = True
    found = traced(
        network, train, test.images[[1, 2]], scorer=scorer_named("grad-dot"), k=3,
        masks=lambda places: plan_mask.expand(len(places), 1, SIDE, SIDE),
        carriers=frozenset(range(0, COUNT, 3)), group=[4], wanted=[0, 1], progress=silent,
    )  # fmt: skip
    assert (found.carriers == 1).all()
    assert (found.inside > 0.5).all()
    assert found.group.isfinite().all()


def test_maps_are_of_each_networks_own_prediction(pair, test):
    network = Network.read(pair[0], test.images[:2])
    found = explained(network, test.images[:4], IntegratedGradients(steps=4))
    with torch.no_grad():
        logits = pair[0](test.images[:4])
    assert torch.equal(found.predictions, logits.argmax(1))
    bias = torch.tensor([4.0, 0.0, 0.0])[found.predictions]
    torch.testing.assert_close(found.values.flatten(1).sum(1), logits.max(1).values - bias)


def test_bad_requests_are_refused(audited, train, test, pair, tmp_path):
    def asked(**options):
        return verify_with(
            audited,
            options.pop("pair", pair),
            options.pop("train", train),
            options.pop("test", test),
            options.pop("found", [finding()]),
            **options,
        )

    with pytest.raises(SettingError, match="maps must be at least 1"):
        asked(maps=0)
    with pytest.raises(SettingError, match="Nothing is accepted"):
        asked(found=decide([finding()], "all", "open"))
    with pytest.raises(MismatchError, match="other weights than the one that was audited"):
        asked(pair=(pair[1], pair[1]))
    with pytest.raises(MismatchError, match="holds other images or labels"):
        asked(train=TensorData(images=train.images + 1, labels=train.labels, classes=CLASSES))
    with pytest.raises(DataError, match="holds no image with a label"):
        asked(test=TensorData(images=test.images))
    with pytest.raises(DataError, match=r"needed as \(45, 8, 8\)"):
        asked(test_masks=np.zeros((2, SIDE, SIDE), bool))
    with pytest.raises(ModeError):
        asked(pair=(pair[0], Fooled(0.0).train()))
    (tmp_path / "theirs.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"theirs.txt"):
        asked(out=tmp_path)
    with pytest.raises(RecordError, match=r"which holds fix.json"):
        load_fix(tmp_path)
