"""`whence evaluate` and `whence metrics` as a user types them."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from whence.evaluation.catalogue import METRICS, TRAINED

SMALL = ("--metric", "deletion:steps=2", "--metric", "gini", "--method", "gradient")


@pytest.fixture
def evaluate(whence):
    """Run a small evaluation of the tiny model into ``out/``."""

    def run(*words, source="test", model="model.py:tiny"):
        return whence("evaluate", source, "--model", model, "--out", "out", *SMALL, *words)

    return run


def test_an_evaluation_prints_a_table_and_writes_its_folder(evaluate, place):
    found = evaluate()
    assert found.exit_code == 0, found.output
    assert re.search(r"^method +deletion:steps=2 ↓ +gini$", found.stdout, re.MULTILINE)
    assert re.search(r"^\(random-map\) ", found.stdout, re.MULTILINE)
    for name in ("report.html", "evaluation.json", "values.csv", "table.csv", "table.md"):
        assert (place / "out" / name).is_file(), name


def test_its_json_holds_what_the_table_holds(evaluate, document):
    found = document(evaluate("--json"))
    assert found["images"] == 6
    one = next(s for s in found["scores"] if (s["metric"], s["method"]) == ("gini", "gradient"))
    assert one["verdict"] == "no claim"
    assert one["estimate"]["low"] <= one["estimate"]["mean"] <= one["estimate"]["high"]


def test_a_config_that_was_saved_does_the_same(evaluate, whence, place, document):
    first = document(evaluate("--json", "--count", 5, "--metric-set", "fill=black"))
    again = document(whence("evaluate", "--config", "out/run.toml", "--out", "again", "--json"))
    assert again["scores"] == first["scores"]
    assert (place / "again" / "values.csv").read_bytes() == (
        place / "out" / "values.csv"
    ).read_bytes()
    words = ("evaluate", "--config", "out/run.toml", "--out", "few", "--count", 2, "--json")
    assert document(whence(*words))["images"] == 2


NETWORKS = """
images = "test"
count = 2
out = "study"

[metric]
"deletion, black" = "deletion:fill=black,steps=2"

[method]
quick = "integrated-gradients:steps=2"

[maps]
theirs = "theirs.npy"

[[network]]
name = "one"
model = "model.py:tiny"
weights = "weights.pt"
input = { size = 12, mean = 0.5, std = 0.5 }

[[network]]
name = "two"
model = "model.py:tiny"
"""


def test_a_file_names_networks_methods_metrics_and_maps(
    whence, place, document, weight_file, monkeypatch
):
    weight_file(lambda state: {name: value / 2 for name, value in state.items()})
    np.save(place / "theirs.npy", np.random.default_rng(0).normal(size=(6, 12, 12)))
    (place / "study.toml").write_text(NETWORKS)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    found = document(whence("evaluate", "--config", "../study.toml", "--json"))
    assert [one["name"] for one in found["networks"]] == ["one", "two"]
    assert found["networks"][0]["fingerprint"] != found["networks"][1]["fingerprint"]
    assert [one["name"] for one in found["metrics"]] == ["deletion, black"]
    assert {"quick", "theirs"} <= {one["name"] for one in found["methods"]}
    assert (place / "study" / "report.html").exists()
    other = ("--model", "../model.py:tiny", "--out", "other", "--json")
    words = ("evaluate", "--config", "../study.toml", *other)
    assert len(document(whence(*words))["networks"]) == 1  # typed networks replace the file's


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network = 3", "line 1: a network is a section, [[network]]"),
        ("[[network]]\nname = 'a'", "line 2: every [[network]] needs a model; this one has name"),
        ("[[network]]\nmodel = 'a'\nmodle = 'a'", "line 3: a network has no setting 'modle'"),
        ("metrisc = []", "Did you mean 'metric'"),
        ("metric = [3.5]", "metric takes a list, each a text; got 3.5"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(whence, place, text, message):
    (place / "study.toml").write_text(text)
    found = whence("evaluate", "test", "--config", "study.toml")
    assert (found.exit_code, message in found.stderr) == (1, True), found.stderr


def test_a_file_in_the_place_of_images_is_told_where_to_go(evaluate):
    assert "--config study.toml" in evaluate(source="study.toml").stderr


def test_several_networks_maps_and_masks(whence, place, document):
    masks = place / "masks"
    for path in (place / "test").rglob("*.png"):
        mask = np.zeros((12, 12), np.uint8)
        mask[2:7, 2:7] = 255
        own = masks / path.relative_to(place / "test")
        own.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(own)
    np.save(place / "maps.npy", np.random.default_rng(0).normal(size=(6, 12, 12)))
    found = document(
        whence(
            "evaluate",
            "test",
            "--model",
            "one=model.py:tiny",
            "--model",
            "two=model.py:tiny",
            "--masks",
            "masks",
            "--maps",
            "theirs=maps.npy",
            "--metric",
            "relevance-mass",
            "--metric",
            "spearman",
            "--method",
            "gradient",
            "--out",
            "out",
            "--json",
        )
    )
    assert [one["name"] for one in found["networks"]] == ["one", "two"]
    scores = {(s["network"], s["method"]): s["estimate"]["mean"] for s in found["scores"]}
    assert scores["one", "theirs"] == scores["two", "theirs"]
    across = [a for a in found["agreements"] if a["first"] == ["one", "gradient"]]
    same = next(a for a in across if a["second"] == ["two", "gradient"])
    assert same["estimate"]["mean"] == pytest.approx(1.0)


def test_weights_of_the_only_network_need_no_name(evaluate, weight_file, document):
    weights = weight_file(lambda state: {k: 0 * v for k, v in state.items()})
    found = document(evaluate("--weights", weights, "--json"))
    own = next(s for s in found["scores"] if (s["metric"], s["method"]) == ("gini", "gradient"))
    assert own["estimate"] is None
    assert own["undefined"] == {"the map is zero everywhere": 6}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--metric", "deletoin"), "Did you mean deletion"),
        (("--method", "gradeint"), "Did you mean gradient"),
        (("--maps", "theirs"), "key=value"),
        (("--maps", "theirs=none.npy"), "There is no file"),
        (("--masks", "nowhere"), "There is no data source"),
        (("--confidence", "2"), "confidence between 0 and 1"),
        (("--target", "nobody"), "Unknown target"),
    ],
)
def test_mistakes_end_with_one_line_and_1(evaluate, words, message):
    found = evaluate(*words)
    assert found.exit_code == 1
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_an_earlier_evaluation_is_not_replaced_unasked(evaluate):
    assert evaluate().exit_code == 0
    again = evaluate()
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    assert evaluate("--resume").exit_code == 0
    assert evaluate("--overwrite", "--count", 3).exit_code == 0


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_evaluation_that_is_stopped_can_be_resumed(place, stop, code, whence):
    words = ("evaluate", "test", "--model", "model.py:tiny", *SMALL, "--batch-size", "1")
    assert whence(*words, "--out", "whole").exit_code == 0
    started = subprocess.Popen(
        [sys.executable, "-c", "from whence.cli import main; main()", *words, "--out", "cut"],
        cwd=place,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    cells = place / "cut" / "cells"
    while started.poll() is None and (not cells.is_dir() or len(list(cells.iterdir())) < 3):
        time.sleep(0.005)
    started.send_signal(stop)
    told = started.communicate()[1].decode()
    if started.returncode == 0:
        pytest.skip("it had ended before it could be stopped")
    assert started.returncode == code
    assert stop == signal.SIGKILL or "--resume" in told
    assert not (place / "cut" / "report.html").exists()
    assert whence(*words, "--out", "cut", "--resume").exit_code == 0
    for name in ("values.csv", "table.csv", "table.md"):
        assert (place / "whole" / name).read_bytes() == (place / "cut" / name).read_bytes()


def test_metrics_names_every_metric_with_its_direction(whence, document):
    found = document(whence("metrics", "--json"))
    assert [one["name"] for one in found] == [*METRICS, *TRAINED]
    text = whence("metrics").stdout
    assert all(one["reference"].split("(")[0].strip() in text for one in found)


def test_metrics_shows_the_settings_of_one(whence):
    text = whence("metrics", "deletion").stdout
    assert re.search(r"^fill +zero$", text, re.MULTILINE)
    assert re.search(r"better +lower", text)
    wrong = whence("metrics", "deletoin")
    assert wrong.exit_code == 1
    assert "Did you mean deletion" in wrong.stderr
