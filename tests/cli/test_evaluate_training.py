"""Metrics that train networks again, as a user types them."""

import re

import pytest

WORDS = ("evaluate", "test", "--model", "net=model.py:tiny", "--method", "gradient")
TWO = ("--model", "two=model.py:tiny")
TRAINED = (
    "--metric", "roar:shares=0.4,seeds=2", "--metric", "data-randomisation", "--train", "train",
    "--retrain", "scratch:epochs=2,batch_size=4",
)  # fmt: skip


def test_roar_and_data_randomisation_stand_in_the_one_table(whence, place):
    found = whence(*WORDS, *TRAINED, "--metric", "gini", "--out", "out")
    assert found.exit_code == 0, found.output
    head = r"^method +roar:shares=0\.4,seeds=2 \u2193 +data-randomisation \u2193 +gini$"
    assert re.search(head, found.stdout, re.MULTILINE)
    assert re.search(r"^\(random-map\) +[01]\.\d+ +1\.000", found.stdout, re.MULTILINE)
    assert "ROAR starts from there" in found.stdout
    assert "by heart" in found.stdout
    assert (place / "out" / "cells" / "permuted-00.safetensors").is_file()
    page = (place / "out" / "report.html").read_text("utf-8")
    assert "scratch" in page.lower()


def test_the_same_from_a_file_and_with_weights_of_permuted_labels(
    whence, place, document, weight_file
):
    weights = weight_file(lambda state: {k: v.flip(0) for k, v in state.items()})
    first = document(whence(*WORDS, *TRAINED, "--permuted", weights, "--out", "one", "--json"))
    saved = whence(*WORDS, *TRAINED, "--permuted", weights, "--save-config", "study.toml")
    assert saved.exit_code == 0, saved.output
    text = (place / "study.toml").read_text("utf-8")
    assert 'retrain = "scratch:epochs=2,batch_size=4"' in text
    again = document(whence("evaluate", "--config", "study.toml", "--out", "two", "--json"))
    assert again["scores"] == first["scores"]
    assert not (place / "two" / "cells" / "permuted-00.safetensors").exists()


def test_the_pairs_of_methods_are_in_the_terminal_and_in_the_json(whence, document):
    words = (*WORDS, "--method", "input-x-gradient", "--metric", "deletion:steps=2")
    found = whence(*words, "--out", "out")
    assert "Method against method" in found.stdout
    assert re.search(r"^deletion:steps=2: .*(better than|no claim for)", found.stdout, re.MULTILINE)
    (pair,) = document(whence(*words, "--out", "again", "--json"))["comparisons"]
    assert (pair["first"], pair["second"]) == ("gradient", "input-x-gradient")
    assert pair["difference"]["low"] <= pair["difference"]["mean"] <= pair["difference"]["high"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--metric", "roar"), "--train SOURCE"),
        (("--metric", "data-randomisation"), "--permuted FILE"),
        (("--metric", "roar", "--train", "nowhere"), "There is no data source"),
        (("--metric", "roar", "--train", "train", "--retrain", "scrach"), "Did you mean scratch"),
        (("--metric", "gini", "--train", "train"), "no metric trains"),
        (("--metric", "data-randomisation", *TWO, "--permuted", "x=w"), "no network of this"),
        (("--metric", "data-randomization"), "Did you mean data-randomisation"),
        (("--metric", "roar:share=0.5", "--train", "train"), "Did you mean 'shares'"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_line_and_1(whence, words, message):
    found = whence(*WORDS, *words, "--out", "out")
    assert found.exit_code == 1
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_metrics_tells_what_they_need(whence):
    text = whence("metrics", "roar").stdout
    assert "training images" in text
    assert re.search(r"^shares +0\.1 0\.3 0\.5 0\.7 0\.9$", text, re.MULTILINE)
    assert "permuted" not in whence("metrics", "data-randomisation").stdout.split("Settings")[1]
