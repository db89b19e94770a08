"""What each command prints and writes."""

import io
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from whence.cli import app
from whence.cli.console import bars, bold, faint, finite, table
from whence.results import load_audit, load_explanation

EXPLAIN = ("explain", "test", "--model", "model.py:tiny", "--set", "steps=8")
TABLES = {"influences.csv", "suspects.csv", "groups.csv"}
FILES = {"report.html", "audit.json", "arrays.npz", "findings.toml", "run.toml", *TABLES}


def test_an_audit_writes_its_folder_and_prints_where(audit, place):
    result = audit()
    assert result.exit_code == 0, result.output
    assert {path.name for path in (place / "audit").iterdir()} == FILES
    assert result.stdout.rstrip().endswith("audit/report.html")
    assert "2 test images traced to 12 training images" in result.stdout


def test_an_audits_json_agrees_with_the_record_that_it_wrote(audit, place, document):
    found = document(audit("--json"))
    record = load_audit(place / "audit")
    assert found["accuracy"] == record.accuracy
    assert found["model"]["fingerprint"] == record.model.fingerprint
    assert [q["index"] for q in found["queries"]] == [q.index for q in record.queries]
    for told, query in zip(found["queries"], record.queries, strict=True):
        assert told["prediction"] == record.model.classes[query.prediction]
        assert [p["index"] for p in told["proponents"]] == [p.index for p in query.proponents]
        assert [p["score"] for p in told["proponents"]] == [p.score for p in query.proponents]


def test_an_audit_audits_the_places_asked_for(audit, document):
    assert [q["index"] for q in document(audit("--queries", "5,0", "--json"))["queries"]] == [5, 0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # forward mode's
def test_an_audits_options_reach_the_record(audit, place):
    words = ("--score", "grad-dot", "--parameters", "last-layer", "--training-set", "batch_size=3")
    assert audit(*words, "--set", "rule=right").exit_code == 0
    settings = load_audit(place / "audit").run.settings
    assert settings["score"] == "grad-dot"
    assert settings["parameters"] == "last-layer"
    assert "rule='right'" in settings["method"]
    assert "steps=4" in settings["method"]
    assert "batch_size=3" in settings["training_method"]


def test_groups_and_removal_reach_the_record_and_the_tables(audit, place, document):
    (place / "odd.txt").write_text("0\nplus/1.png\n")
    words = ("--group", "mine=odd.txt", "--removal", "2,4", "--removal-draws", 1, "--json")
    how = ("--retrain", "fine-tune", "--retrain-set", "steps=2", "--removal-together")
    found = document(audit(*words, *how))
    record = load_audit(place / "audit")
    (mine,) = [g for g in found["groups"] if g["name"] == "mine"]
    assert (mine["kind"], mine["size"]) == ("list", 2)
    assert mine["scores"] == list(record.groups[0].scores)
    assert found["removal"]["counts"] == [2, 4]
    assert found["removal"]["trainings"] == 1 + 2 * 2
    assert found["removal"]["retrain"].startswith("FineTune(steps=2")
    assert (place / "audit" / "removal.csv").exists()
    assert [s["evidence"] for s in found["suspect_labels"]] == [
        list(s.evidence) for s in record.suspect_labels
    ]
    assert [h["queries"] for h in found["harmful"]] == [list(h.queries) for h in record.harmful]
    assert {q["stand_in"] for q in found["queries"]} == {""}


def test_groups_and_removal_are_printed(audit, place):
    (place / "odd.txt").write_text("0\n1\n")
    text = audit("--group", "odd.txt", "--removal", "2", "--overwrite").stdout
    assert "What groups did" in text
    assert "odd" in text
    assert "Without the proponents" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--group", "nothing.txt"), "cannot be read"),
        (("--removal", "few"), "--removal takes numbers"),
        (("--removal", "5,2"), "ascending"),
        (("--removal", "2", "--retrain", "scratch"), "last-layer, fine-tune"),
        (("--retrain-set", "steps=2"), "--removal"),
        (("--removal", "99"), "99 cannot be removed"),
    ],
)
def test_a_group_or_removal_that_makes_no_sense_is_refused(audit, place, words, message):
    result = audit(*words)
    assert (result.exit_code, message in result.stderr) == (1, True)
    assert not (place / "audit").exists()


def test_a_models_classes_come_from_the_data_where_it_has_none(audit, place, document):
    text = (place / "model.py").read_text()
    (place / "model.py").write_text(text.replace("net.classes =", "net.other ="))
    assert "net.other" in (place / "model.py").read_text()
    found = document(audit("--json"))
    assert {q["label"] for q in found["queries"]} <= {"circle", "plus", "square"}


def test_explain_writes_a_folder_named_after_its_source(whence, place, document):
    found = document(whence(*EXPLAIN, "--json"))
    assert found["out"] == "explain-test"
    record = load_explanation(place / "explain-test")
    assert [one["name"] for one in found["images"]] == list(record.names)
    assert [one["total"] for one in found["images"]] == [m.total for m in record.maps]
    assert (place / "explain-test" / "report.html").stat().st_size > 1000


def test_explain_shows_prediction_confidence_and_gap_of_each_image(whence):
    lines = whence(*EXPLAIN).stdout.splitlines()
    assert len([line for line in lines if "gap" in line and "explained" in line]) == 6


def test_explain_writes_the_picture_alone(whence, place):
    assert whence(*EXPLAIN, "--out", "maps.png").exit_code == 0
    with Image.open(place / "maps.png") as picture:
        assert picture.width > picture.height  # six columns of a picture above its map
    assert not (place / "explain-test").exists()
    again = whence(*EXPLAIN, "--out", "maps.png")
    assert (again.exit_code, "--overwrite" in again.stderr) == (1, True)


def test_explain_takes_one_picture(whence, document):
    words = ("explain", "test/plus/0.png", *EXPLAIN[2:], "--json")
    (one,) = document(whence(*words))["images"]
    assert one["name"] == "0.png"


def test_a_class_can_be_named_or_numbered(whence, document):
    by_name, by_number = (
        document(whence(*EXPLAIN, "--target", which, "--out", f"e{which}", "--json"))
        for which in ("square", "2")
    )
    assert by_name["images"] == by_number["images"]


def test_a_contrast_is_the_difference_of_two_classes(whence, document):
    def explained(*words):
        found = document(whence(*EXPLAIN, *words, "--out", "-".join(words), "--json"))
        return np.array([one["explained"] for one in found["images"]])

    contrast = explained("--target", "square", "--versus", "plus")
    difference = explained("--target", "square") - explained("--target", "plus")
    assert np.allclose(contrast, difference, atol=1e-6)


def test_an_unknown_class_is_refused_with_the_closest(whence):
    result = whence(*EXPLAIN, "--target", "sqare")
    assert result.exit_code == 1
    assert "Did you mean square?" in result.stderr


def test_methods_names_every_method_with_its_reference(whence, document):
    from whence.attribution import cards

    text = whence("methods").stdout
    assert all(card.name in text and card.reference in text for card in cards())
    assert [one["name"] for one in document(whence("methods", "--json"))] == [
        card.name for card in cards()
    ]


def test_methods_shows_the_settings_of_one(whence, document):
    assert "max_steps" in whence("methods", "integrated-gradients").stdout
    found = document(whence("methods", "integrated-gradients", "--json"))
    assert found["settings"]["steps"] == "32"
    assert whence("methods", "nothing").exit_code == 1


def test_describe_shows_each_operation_and_the_totals(whence, document):
    text = whence("describe", "model.py:tiny").stdout
    assert "conv2d" in text
    assert "163 parameters" in text
    found = document(whence("describe", "model.py:tiny", "--json"))
    assert found["parameters"] == 163
    assert "linear" in [row["operation"] for row in found["operations"]]


needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="torchvision is not installed"
)


@needs_torchvision
def test_describe_needs_no_weights_for_an_architecture(whence, document):
    found = document(whence("describe", "torchvision/resnet18", "--input", "size=64", "--json"))
    assert found["parameters"] == 11_689_512
    assert found["model"] == "torchvision/resnet18 without weights"
    assert found["preprocessing"]["size"] == [64, 64]


@needs_torchvision
def test_homogeneity_needs_weights_because_it_depends_on_them(whence):
    result = whence("homogeneity", "torchvision/resnet18")
    assert (result.exit_code, "has no weights" in result.stderr) == (1, True)


def test_homogeneity_names_the_biases_of_the_tiny_model(whence, document):
    assert "Not an X-DNN" in whence("homogeneity", "model.py:tiny").stdout
    found = document(whence("homogeneity", "model.py:tiny", "--json"))
    assert found["holds"] is False
    assert [one["path"] for one in found["offenders"]] == ["0", "4"]
    assert all(one["cure"] for one in found["offenders"])


def test_view_prints_a_page_without_a_server(audit, whence):
    audit()
    assert json.loads(whence("view", "audit", "--get", "/audit.json").stdout)["whence"] == "audit"
    missing = whence("view", "audit", "--get", "/etc/passwd")
    assert (missing.exit_code, missing.stdout) == (1, "")
    nothing = whence("view", "nowhere")
    assert (nothing.exit_code, "does not exist" in nothing.stderr) == (1, True)


def test_every_command_has_help_with_every_option_explained(whence):
    for name, command in get_command(app).commands.items():
        assert whence(name, "--help").exit_code == 0
        assert command.help
        unexplained = [p.name for p in command.params if not getattr(p, "help", "given")]
        assert unexplained == []


def test_the_version_is_the_packages(whence):
    import whence as package

    assert whence("--version").stdout.strip() == f"whence {package.__version__}"


def test_nothing_but_the_document_is_printed_where_json_is_asked_for(place):
    words = ["methods", "--json"]
    run = subprocess.run(
        [sys.executable, "-c", "from whence.cli import main; main()", *words],
        capture_output=True,
        check=True,
        text=True,
    )
    assert run.stderr == ""
    json.loads(run.stdout)


def test_progress_is_drawn_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, drawn in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with bars() as progress:
            progress("influence", 3, 10)
            progress("influence", 10, 10)
        assert ("influence" in stream.getvalue() and "10/10" in stream.getvalue()) is drawn
    monkeypatch.setattr(sys, "stderr", quiet := Terminal())
    with bars(quiet=True) as progress:
        progress("influence", 10, 10)
    assert quiet.getvalue() == ""


def test_a_table_aligns_its_columns_and_wraps_the_last(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    rows = [("a", "1", "one two three four"), ("long", "22", "five")]
    assert table(rows) == "a     1   one two three\n          four\nlong  22  five"


def test_a_pipe_gets_neither_styles_nor_wrapped_tables(place):
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    run = subprocess.run(
        [sys.executable, "-c", "from whence.cli import main; main()", "metrics", "deletion"],
        capture_output=True,
        check=True,
        text=True,
        env=environment,
    )
    assert "\x1b" not in run.stdout
    (line,) = [one for one in run.stdout.splitlines() if one.lstrip().startswith("reference")]
    assert len(line) > 20


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_no_styles_where_they_are_not_wanted(monkeypatch, name):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in bold("text")
    monkeypatch.setenv(name, "dumb")
    assert bold("text") == faint("text") == "text"


def test_json_has_null_where_a_number_is_not_finite():
    content = {"a": float("nan"), "b": [1.5, float("inf")], 3: (0, "x", None)}
    assert finite(content) == {"a": None, "b": [1.5, None], "3": [0, "x", None]}


@pytest.mark.parametrize("out", ["demo", "other"])
def test_the_demo_finds_what_was_planted(whence, place, document, out):
    found = document(whence("demo", "--out", out, "--seed", 0 if out == "demo" else 2, "--json"))
    assert found["test_accuracy"] >= 0.9
    assert found["probes_taken_for_the_shortcut"] >= 0.5
    assert found["patch_ratio"] >= 5
    assert found["flipped_label_precision"] >= 0.8
    network = {"network.py", "weights.safetensors", "data.npz"}
    assert {path.name for path in (place / out).iterdir()} == {*FILES, "findings.npz", *network}


def test_the_demo_prints_its_figures_and_replaces_its_own_folder(whence, monkeypatch):
    monkeypatch.setattr("whence.recipes.digits.EPOCHS", 1)
    assert whence("demo").exit_code == 0
    text = whence("demo").stdout
    for word in ("test accuracy", "times its share", "precision", "demo-audit/report.html"):
        assert word in text


def test_the_audits_defaults_are_the_same_on_the_command_line_and_in_python():
    import inspect

    import whence as package

    recipe = inspect.signature(package.audit).parameters
    options = {p.name: p.default for p in get_command(app).commands["audit"].params}
    shared = set(recipe) & set(options) - {"model", "train", "test", "out", "classes"}
    assert {"queries", "count", "k", "score", "method", "training_method"} <= shared
    assert {n: options[n] for n in shared} == {n: recipe[n].default for n in shared}
