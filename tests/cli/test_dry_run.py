"""`--dry-run`: what a run would cost, and nothing written."""

import json
from importlib.util import find_spec

import pytest

from whence.cli.dry_run import advice_on, amount, span
from whence.recipes.rehearsal import Estimate

SMALL = ("--set", "steps=4")
RUNS = {
    "explain": ("explain", "test", "--model", "model.py:tiny", *SMALL),
    "audit": ("audit", "--model", "model.py:tiny", "--train", "train", "--test", "test", *SMALL,
              "--count", 2, "-k", 2),
    "evaluate": ("evaluate", "test", "--model", "model.py:tiny", "--method", "gradient",
                 "--metric", "deletion:steps=2"),
    "transfer": ("transfer", "--model", "a=model.py:tiny", "--model", "b=model.py:tiny", "--test",
                 "train", "--method", "gradient", "--fill", "zero", "--coverage", 0.25),
    "index": ("index", "build", "--model", "model.py:tiny", "--train", "train"),
    "fit": ("fit", "--model", "model.py:tiny", "--train", "train", "--validation", "test",
            "--epochs", 4),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_it_says_what_would_be_done_and_writes_nothing(name, whence, place, document):
    if name == "fit" and find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    before = sorted(path.name for path in place.iterdir())
    found = document(whence(*RUNS[name], "--out", "result", "--dry-run", "--json"))
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == before
    assert found["dry_run"] is True
    assert found["passes"] > 1
    assert 0 < found["low"] <= found["seconds"] <= found["high"]
    assert found["disk"] == sum(found["files"].values()) > 1000
    assert found["out"] == "result"
    real = whence(*RUNS[name], "--out", "result")
    assert real.exit_code == 0, real.output
    written = {
        path.name + ("/" if path.is_dir() else "")
        for path in (place / "result").iterdir()
        if path.name != "run.toml"
    }
    assert set(found["files"]) == written


def test_it_is_printed_in_words(whence):
    text = whence(*RUNS["explain"], "--out", "result", "--dry-run").stdout
    for words in ("What it would cost", "6 images", "passes", "time", "memory", "report.html",
                  "Nothing was written."):  # fmt: skip
        assert words in text


def test_a_place_that_is_taken_does_not_matter(whence, place):
    assert whence(*RUNS["explain"], "--out", "result").exit_code == 0
    held = {path: path.read_bytes() for path in (place / "result").iterdir()}
    assert whence(*RUNS["explain"], "--out", "result", "--dry-run").exit_code == 0
    assert {path: path.read_bytes() for path in (place / "result").iterdir()} == held


def test_what_is_wrong_is_said_as_without_it(whence):
    found = whence("explain", "nowhere", "--model", "model.py:tiny", "--dry-run")
    assert (found.exit_code, found.stderr.startswith("Error: ")) == (1, True)


def test_the_training_passes_of_an_audit_are_those_of_its_record(whence, place, document):
    from whence.results import load_audit

    two, four = (
        document(whence(*RUNS["audit"], "--out", "result", "--dry-run", "--json", *words))
        for words in ((), ("--checkpoint", "weights.pt", "--checkpoint", "weights.pt"))
        if not words or save_weights(place)
    )
    assert whence(*RUNS["audit"], "--out", "result").exit_code == 0
    once = load_audit(place / "result").run.settings["passes over the training data"]
    assert once == 1
    assert four["passes"] > two["passes"] + 12  # another pass over 12 images, and its queries


def save_weights(place):
    import torch

    from whence.adapters import load_model

    torch.save(load_model("model.py:tiny").module.state_dict(), place / "weights.pt")
    return True


def test_memory_and_disk_that_will_not_do_come_with_advice(tmp_path):
    found = Estimate(
        size=1, passes=1.0, work=1.0, seconds=1.0, low=1.0, high=1.0, cpu=1.0,
        memory=2 * 10**12, available=10**9, files={"a": 10**18}, measured=1.0,
    )  # fmt: skip
    memory, disk = advice_on(found, tmp_path / "none" / "yet")
    assert "2 TB are needed and 1 GB are free" in memory
    assert "--batch-size" in memory
    assert "--out" in disk


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (12.4, "12 s"), (119, "119 s"), (240, "4 min"), (9000, "2.5 h")],
)
def test_times_are_said_as_a_person_says_them(seconds, text):
    assert span(seconds) == text
    assert amount(999) == "999 bytes"
    assert amount(1.5e9) == "1.5 GB"
    assert json.dumps(text)
