"""Findings <-> files that people edit."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from whence.errors import RecordError, SettingError
from whence.results import (
    Audited,
    Finding,
    decide,
    load_audited,
    load_findings,
    save_findings,
)

AUDITED = Audited(
    images=40, classes=("cat", 'a "dog"\n'), height=8, width=10, train="abc", model="def"
)
MASKS = np.zeros((3, 8, 10), np.uint8)
MASKS[1, 2:5, 3:7] = 255
FOUND = (
    Finding(
        id="shortcut-1",
        kind="region",
        summary='A corner: "2 x 2".',
        label=1,
        images=(3, 9, 17),
        box=(0, 0, 2, 2),
        evidence={"share of the influence": 0.5, "images": 3, "pixels": "alike"},
    ),
    Finding(id="shortcut-2", kind="region", images=(4, 8, 15), masks=MASKS),
    Finding(id="label-7", kind="label", label=0, images=(7,), suggested=1),
    Finding(id="images-1", kind="images", images=tuple(range(40)), note="ä, café"),
)


def plain(one: Finding) -> dict[str, object]:
    """Return a finding with its masks as bytes, so that two can be compared."""
    masks = None if one.masks is None else (one.masks.shape, one.masks.tobytes())
    return {**asdict(replace(one, masks=None, action="drop")), "masks": masks, "own": one.action}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_findings(tmp_path, FOUND, AUDITED)
    return tmp_path


def edited(folder: Path, old: str, new: str) -> None:
    """Edit the file as a person would."""
    path = folder / "findings.toml"
    text = path.read_text("utf-8")
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_what_is_saved_is_read_back(folder: Path) -> None:
    assert [plain(one) for one in load_findings(folder)] == [plain(one) for one in FOUND]
    assert load_audited(folder) == AUDITED


def test_masks_come_back_pixel_by_pixel(folder: Path) -> None:
    found = load_findings(folder)[1].masks
    assert found is not None
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, MASKS)


def test_a_person_accepts_edits_and_annotates(folder: Path) -> None:
    edited(folder, 'verdict = "open"', 'verdict = "accepted"')
    edited(folder, "box = [0, 0, 2, 2]", "box = [0, 0, 3, 2]")
    edited(folder, 'note = ""', 'note = "a sticker"')
    edited(folder, "suggested = 1", "suggested = 0")
    first, _, label, _ = load_findings(folder)
    assert (first.verdict, first.box, first.note) == ("accepted", (0, 0, 3, 2), "a sticker")
    assert label.suggested == 0


def test_a_region_of_a_persons_own_needs_an_id_and_a_box(folder: Path) -> None:
    path = folder / "findings.toml"
    text = path.read_text("utf-8")
    own = '\n[[finding]]\nid = "mine"\nverdict = "accepted"\nbox = [1, 1, 4, 4]\n'
    path.write_text(text + own, "utf-8")
    mine = load_findings(folder)[-1]
    assert (mine.id, mine.kind, mine.action, mine.box) == ("mine", "region", "mask", (1, 1, 4, 4))
    path.write_text(text + "\n[[finding]]\nbox = [1, 1, 4, 4]\n", "utf-8")
    with pytest.raises(RecordError, match="Finding number 5 has no id"):
        load_findings(folder)


def test_images_with_masks_can_be_taken_out_but_not_added(folder: Path) -> None:
    edited(folder, "images = [4, 8, 15]", "images = [8]")
    found = load_findings(folder)[1]
    assert found.images == (8,)
    np.testing.assert_array_equal(found.masks, MASKS[1:2])
    edited(folder, "images = [8]", "images = [8, 16]")
    with pytest.raises(RecordError, match="training image 16, for which it has no mask"):
        load_findings(folder)


def test_masks_can_be_given_up_for_a_box(folder: Path) -> None:
    edited(folder, "masks = true", "masks = false\nbox = [2, 2, 5, 5]")
    found = load_findings(folder)[1]
    assert (found.masks, found.box) == (None, (2, 2, 5, 5))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('verdict = "open"', 'verdict = "yes"', "shortcut-1 has the verdict 'yes'.*open or acc"),
        ('verdict = "open"', "verdict = accepted", "no valid TOML.*Words need quotes"),
        ('verdict = "open"', "verdict = true", "verdict needs text, but is True"),
        ('verdict = "open"', 'verdikt = "open"', "shortcut-1 has 'verdikt', which there is not"),
        ('action = "mask"', 'action = "paint"', "action 'paint'.*mask or drop"),
        ('action = "drop"', 'action = "relabel"', "images-1 is to relabel.*no suggested class"),
        ("box = [0, 0, 2, 2]", "box = [0, 0, 11, 2]", r"box \[0, 0, 11, 2\].*10 x 8 pixels"),
        ("box = [0, 0, 2, 2]", "box = [2, 0, 2, 2]", "left < right and top < bottom"),
        ("box = [0, 0, 2, 2]", "box = [-1, 0, 2, 2]", "from 0; got"),
        ("box = [0, 0, 2, 2]", "box = [0, 0, 2]", "needs four numbers"),
        ("box = [0, 0, 2, 2]", "box = [0, 0, 2, 2.5]", "needs a list of numbers"),
        ("box = [0, 0, 2, 2]", "", "shortcut-1 has neither a box nor masks"),
        ("suggested = 1", "suggested = 2", "class 2 as its suggested class.*classes 0 to 1"),
        ("images = [7]", "images = [40]", "label-7 names training image 40.*places 0 to 39"),
        ("images = [7]", "images = [7, 7]", "label-7 names a training image twice"),
        ("images = [7]", "images = []", "label-7 is to relabel images, but names none"),
        ('id = "label-7"', 'id = "shortcut-1"', "Two findings are called shortcut-1"),
        ('id = "shortcut-2"', 'id = "shortcut-9"', "shortcut-9 has no masks.*for: shortcut-2"),
        ('id = "label-7"', 'id = "label,7"', "without commas"),
        ("images = 40", "images = []", r"needs the table \[audited\]"),
        ("version = 1", "version = 2", "version = 1 at its top"),
        ("\n[[finding]]", "\n[finding]", "no valid TOML"),
        ("\n[[finding]]", "\n[[findings]]", "has 'findings', which there is not"),
    ],
)
def test_a_bad_edit_is_named(folder: Path, old: str, new: str, message: str) -> None:
    edited(folder, old, new)
    with pytest.raises(RecordError, match=message) as caught:
        load_findings(folder)
    assert "findings.toml" in str(caught.value)


def test_a_folder_without_findings_says_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no findings.toml, which `whence audit` writes"):
        load_findings(tmp_path)


def test_masks_that_are_missing_or_damaged_are_named(folder: Path) -> None:
    (folder / "findings.npz").write_bytes(b"PK no archive")
    with pytest.raises(RecordError, match=r"findings.npz cannot be read"):
        load_findings(folder)
    (folder / "findings.npz").unlink()
    with pytest.raises(RecordError, match=r"findings.npz cannot be read"):
        load_findings(folder)


def test_a_verdict_leaves_masks_alone(folder: Path) -> None:
    os.utime(folder / "findings.npz", (1, 1))
    save_findings(folder, decide(load_findings(folder), "shortcut-2"))
    assert (folder / "findings.npz").stat().st_mtime == 1
    assert load_findings(folder)[1].verdict == "accepted"
    fewer = replace(load_findings(folder)[1], images=(8,), masks=MASKS[1:2])
    save_findings(folder, (fewer,))
    assert (folder / "findings.npz").stat().st_mtime != 1


def test_an_impossible_finding_is_not_saved(folder: Path) -> None:
    before = (folder / "findings.toml").read_bytes()
    with pytest.raises(RecordError, match="images of 10 x 8 pixels"):
        save_findings(folder, [Finding(id="a", kind="region", box=(0, 0, 99, 99))])
    assert (folder / "findings.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (MASKS[:2], r"one for each of its 3 images; got \(2, 8, 10\)"),
        (MASKS + np.uint8(1), "0 or 255"),
    ],
    ids=["fewer", "grey"],
)
def test_masks_that_are_none_are_refused(masks: np.ndarray, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Finding(id="a", kind="region", images=(1, 2, 3), masks=masks)


def test_one_several_or_all_findings_are_decided() -> None:
    accepted = decide(FOUND, ["shortcut-1", "label-7"])
    assert [one.verdict for one in accepted] == ["accepted", "open", "accepted", "open"]
    assert {one.verdict for one in decide(accepted, "all", "rejected")} == {"rejected"}
    assert decide(FOUND, "images-1")[3].verdict == "accepted"
    fitting = decide(FOUND, "shortcut-*")
    assert [one.verdict for one in fitting] == ["accepted", "accepted", "open", "open"]


def test_deciding_about_what_is_not_there_names_what_is() -> None:
    with pytest.raises(SettingError, match=r"no finding 'shortcut-9'.*shortcut-1, shortcut-2"):
        decide(FOUND, "shortcut-9")
    with pytest.raises(SettingError, match="The audit found nothing"):
        decide((), "shortcut-1")
    with pytest.raises(RecordError, match="verdict 'maybe'"):
        decide(FOUND, "all", "maybe")


def test_names_from_file_systems_survive(tmp_path: Path) -> None:
    odd = replace(AUDITED, classes=("caf\udce9", "tab\tbell\x07\x7f"))
    save_findings(tmp_path, FOUND, odd)
    assert load_audited(tmp_path).classes == ("caf?", "tab\tbell\x07\x7f")
