"""`whence fix` and `whence verify` as a person types them."""

import json

import numpy as np
import pytest

from whence.core import fingerprint_model
from whence.recipes import load_images, load_subject
from whence.results import Audited, Finding, load_findings, save_findings

GIVEN = ("--model", "model.py:tiny", "--train", "train")
FIX = (*GIVEN, "--epochs", 1, "--batch-size", 4, "--prior-weights", "1")


@pytest.fixture
def audited(place):
    """An audit's findings, of which none is accepted."""
    loaded = load_subject("model.py:tiny")
    data = load_images("train", loaded)
    folder = place / "audit"
    folder.mkdir()
    found = (
        Finding(id="shortcut-1", kind="region", label=0, images=(0, 1), box=(0, 0, 3, 3)),
        Finding(id="label-5", kind="label", label=1, images=(5,), suggested=0),
        Finding(id="images-1", kind="images", images=(2, 3)),
    )
    known = Audited(
        images=len(data),
        classes=loaded.classes,
        height=12,
        width=12,
        train=data.fingerprint(),
        model=fingerprint_model(loaded.module),
    )
    save_findings(folder, found, known)
    return folder


def test_nothing_accepted_is_told_with_how_to_accept(whence, audited):
    found = whence("fix", "audit", *FIX, "--out", "fixed")
    assert found.exit_code == 1
    for text in ("Nothing is accepted of 3 findings", "findings.toml", "--accept shortcut-1"):
        assert text in found.stderr


def test_what_is_accepted_in_the_file_and_on_the_line_is_fixed_and_verified(whence, audited, place):
    path = audited / "findings.toml"
    path.write_text(path.read_text("utf-8").replace('= "open"', '= "accepted"', 1), "utf-8")
    assert [one.verdict for one in load_findings(audited)] == ["accepted", "open", "open"]
    found = whence("fix", "audit", *FIX, "--out", "fixed", "--accept", "label-*", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["findings"] == ["shortcut-1", "label-5"]
    assert told["relabelled"] == {"5": 0}
    assert (place / "fixed" / "fix.json").is_file()
    assert "label-5" in (place / "fixed" / "report.md").read_text("utf-8")

    how = ("--test", "test", "--maps", 2, "--queries", 2, "--count", 4)
    found = whence(
        "verify", "audit", "fixed", *GIVEN, *how, "--out", "verified", "--also", "seen=train"
    )
    assert found.exit_code == 0, found.output
    for text in ("accuracy on seen", "homogeneous", "verified/verify.html"):
        assert text in found.stdout
    assert {path.name for path in (place / "verified").iterdir()} >= {
        "verify.html",
        "verify.json",
        "verify.csv",
        "verify.md",
    }


def test_a_folder_that_is_no_audit_or_no_fix_is_named(whence, audited):
    found = whence("fix", "train", *FIX, "--out", "fixed")
    assert found.exit_code == 1
    assert "has no findings.toml" in found.stderr
    found = whence("verify", "audit", "audit", *GIVEN, "--test", "test", "--out", "verified")
    assert found.exit_code == 1
    assert "which holds fix.json" in found.stderr


def test_other_data_are_refused(whence, audited):
    found = whence(
        "fix",
        "audit",
        "--model",
        "model.py:tiny",
        "--train",
        "test",
        "--out",
        "fixed",
        "--accept",
        "all",
    )
    assert found.exit_code == 1
    assert "saw 12 training images" in found.stderr


def test_masks_of_test_images_come_from_a_file(whence, audited, place):
    np.save(place / "wrong.npy", np.ones((2, 12, 12)))
    found = whence("fix", "audit", *FIX, "--out", "fixed", "--accept", "images-1,label-5")
    assert found.exit_code == 0, found.output
    found = whence(
        "verify",
        "audit",
        "fixed",
        *GIVEN,
        "--test",
        "test",
        "--out",
        "verified",
        "--test-masks",
        "wrong.npy",
    )
    assert found.exit_code == 1
    assert "Masks of the test images are needed as (6, 12, 12)" in found.stderr
