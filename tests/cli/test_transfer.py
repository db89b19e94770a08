"""`whence transfer` as a person types it."""

import json
import re

import numpy as np
import pytest

from whence.results.transfer import load_transfer

EXTRA = """

def other():
    net = tiny()
    with torch.no_grad():
        net[4].weight.mul_(-1)
    return net

def larger():
    net = nn.Sequential(nn.AvgPool2d(2), tiny())
    net.preprocessing = {"size": 24, "mean": 0.2, "std": 0.1}
    net.classes = ("circle", "plus", "square")
    return net.eval()
"""
SMALL = ("--method", "gradient", "--fill", "zero", "--coverage", "0.25")
TWO = ("--model", "a=model.py:tiny", "--model", "b=model.py:other", "--test", "train")


@pytest.fixture
def extended(place):
    path = place / "model.py"
    path.write_text(path.read_text("utf-8") + EXTRA, "utf-8")
    return place


def test_a_study_prints_means_and_writes_its_folder(whence, extended):
    found = whence("transfer", *TWO, *SMALL, "--out", "study")
    assert found.exit_code == 0, found.output
    for text in (
        "12 images of train, fill zero",
        "a  convolutional",
        "soft features, means over pairs of networks, per cent",
        "25 % features",
        "within convolutional",
        "No image was left out",
        "study/report.html",
    ):
        assert text in found.stdout
    record = load_transfer(extended / "study")
    within = [
        row.advantage
        for row in record.rows
        if (row.shown, row.mask, row.fill) == ("features", "25 %", "zero")
        and row.generator != row.evaluator
    ]
    clear = sum(one.low > 0 for one in within)
    part = found.stdout.split("25 % features")[1]
    assert re.search(rf"within convolutional .* {clear} of 2$", part, re.MULTILINE)
    right = record.row("a", "original").accuracy.value * 12
    assert f"{right:.0f} of 12 right" in found.stdout


def test_networks_of_other_sizes_and_units_are_compared(whence, extended, document):
    found = document(
        whence(
            "transfer",
            *("--model", "a=model.py:tiny", "--model", "b=model.py:larger", "--test", "train"),
            *SMALL,
            "--json",
        )
    )
    assert [one["size"] for one in found["networks"]] == [[12, 12], [24, 24]]
    shown = {(row["generator"], row["evaluator"], row["shown"]) for row in found["rows"]}
    assert ("a", "b", "features") in shown
    assert ("b", "a", "complement") in shown


def test_a_file_says_the_same_as_options_and_options_win(whence, extended, document):
    (extended / "study.toml").write_text(
        """
test = "train"
method = ["gradient"]
fill = ["zero"]
coverage = [0.25]
count = 6

[[network]]
name = "a"
model = "model.py:tiny"

[[network]]
name = "b"
model = "model.py:other"
family = "mine"
"""
    )
    file = document(whence("transfer", "--config", "study.toml", "--json"))
    assert file["data"]["count"] == 6
    assert file["networks"][1]["family"] == "mine"
    typed = document(whence("transfer", *TWO, *SMALL, "--count", 6, "--family", "b=mine", "--json"))
    assert file["rows"] == typed["rows"]
    won = document(whence("transfer", "--config", "study.toml", "--count", 4, "--json"))
    assert won["data"]["count"] == 4


def test_object_masks_are_read_from_a_file(whence, extended, document):
    np.save(extended / "masks.npy", np.ones((12, 12, 12), np.uint8))
    found = document(whence("transfer", *TWO, *SMALL, "--masks", "masks.npy", "--json"))
    rows = {(row["evaluator"], row["shown"]): row for row in found["rows"] if not row["generator"]}
    assert rows["a", "object"]["accuracy"] == rows["a", "original"]["accuracy"]
    np.save(extended / "masks.npy", np.full((12, 12, 12), 255, np.uint8))
    wrong = whence("transfer", *TWO, *SMALL, "--masks", "masks.npy")
    assert wrong.exit_code == 1
    assert "values from 0 to 1; got (12, 1, 12, 12), 255 to 255" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--model", "a=model.py:tiny", "--test", "train"), "Two networks or more are compared"),
        (TWO[:4], "Give the test images with --test SOURCE"),
        ((*TWO, "--method", "grad-cma"), "Did you mean grad-cam"),
        ((*TWO, "--weights", "w.pt"), "--weights is written NAME=VALUE"),
        ((*TWO, "--fill", "fog"), "Unknown fill 'fog'"),
        ((*TWO, "--coverage", "25"), "For 25 % write 0.25"),
        (("--config", "none.toml"), "There is no file none.toml"),
    ],
    ids=["one-network", "no-images", "method", "weights", "fill", "coverage", "file"],
)
def test_wrong_usage_is_told_in_a_line_without_a_traceback(whence, extended, words, text):
    found = whence("transfer", *words)
    assert found.exit_code == 1
    assert text in found.stderr.replace("\n", " ")
    assert "Traceback" not in found.output


def test_another_study_in_the_folder_is_not_replaced(whence, extended):
    assert whence("transfer", *TWO, *SMALL, "--out", "study").exit_code == 0
    before = json.loads((extended / "study" / "transfer.json").read_text())
    found = whence("transfer", *TWO, *SMALL, "--seed", 1, "--out", "study")
    assert (found.exit_code, "--resume" in found.stderr) == (1, True)
    found = whence("transfer", *TWO, *SMALL, "--seed", 1, "--out", "study", "--resume")
    assert found.exit_code == 1
    assert "differs in seed: seed was 0, and is 1" in found.stderr.replace("\n", " ")
    assert json.loads((extended / "study" / "transfer.json").read_text()) == before
    again = whence("transfer", *TWO, *SMALL, "--seed", 1, "--out", "study", "--overwrite")
    assert again.exit_code == 0, again.output
