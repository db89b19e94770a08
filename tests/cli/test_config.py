"""A TOML file for every run: `--config` and `--save-config`."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whence.cli import program
from whence.cli.entries import entries_of
from whence.cli.program import RUNS
from whence.cli.run_file import config_text, read_config
from whence.cli.toml import line_of, toml_line
from whence.errors import DataError, SettingError

EXPLAIN = ("explain", "test", "--model", "model.py:tiny", "--set", "steps=4", "--count", 3)


def entries(name):
    command = next(one for one in RUNS if one.__name__ == name)
    return entries_of(command)


def test_a_saved_run_is_repeated_from_anywhere(whence, place, document, monkeypatch):
    (place / "runs").mkdir()
    words = (*EXPLAIN, "--out", "one", "--save-config", "runs/e.toml", "--json")
    first = document(whence(*words))
    assert (place / "runs" / "e.toml").read_text().count("../") == 3  # images, model, out
    monkeypatch.chdir(place / "runs")
    again = document(whence("explain", "--config", "e.toml", "--out", "two", "--json"))
    assert [one["explained"] for one in again["images"]] == [
        one["explained"] for one in first["images"]
    ]
    assert (place / "runs" / "two" / "report.html").exists()


def test_a_result_folder_holds_the_file_that_repeats_it(whence, place, document, audit):
    whence(*EXPLAIN, "--out", "one")
    again = document(whence("explain", "--config", "one/run.toml", "--out", "two", "--json"))
    assert len(again["images"]) == 3
    assert audit("--score", "grad-dot", "--out", "a/b").exit_code == 0
    held = tomllib.loads((place / "a" / "b" / "run.toml").read_text())
    assert (held["command"], held["score"], held["train"]) == ("audit", "grad-dot", "../../train")
    assert held["out"] == "."
    again = whence("audit", "--config", "a/b/run.toml", "--overwrite", "--json")
    assert json.loads(again.stdout)["out"] == "a/b"


def test_the_folder_of_a_default_name_holds_it_too(whence, place):
    assert whence(*EXPLAIN).exit_code == 0
    assert (place / "explain-test" / "run.toml").exists()


def test_what_is_typed_wins_and_replaces_lists(whence, place, document):
    (place / "e.toml").write_text('images = "test"\nmodel = "model.py:tiny"\nset = ["steps=4"]\n')
    words = ("explain", "--config", "e.toml", "--json", "--out")
    assert "steps=4" in document(whence(*words, "one"))["method"]
    found = document(whence(*words, "two", "--set", "rule=right", "--count", 2))
    assert "steps=32" in found["method"]
    assert len(found["images"]) == 2


def test_a_table_stands_for_repeated_settings(whence, place, document):
    text = 'model = "model.py:tiny"\ncount = 1\n[set]\nsteps = 5\nbaseline = "black"\n'
    (place / "e.toml").write_text(text + "[input]\nsize = 12\nmean = [0.5, 0.5, 0.5]\nstd = 0.5")
    found = document(whence("explain", "test", "--config", "e.toml", "--json"))
    assert "steps=5" in found["method"]
    assert found["cost"] == 6


def test_a_file_is_not_replaced_unasked(whence, place):
    (place / "mine.toml").write_text("mine")
    found = whence(*EXPLAIN, "--save-config", "mine.toml")
    assert (found.exit_code, "--overwrite" in found.stderr) == (1, True)
    assert (place / "mine.toml").read_text() == "mine"
    assert not (place / "explain-test").exists()
    assert whence(*EXPLAIN, "--save-config", "mine.toml", "--overwrite").exit_code == 0
    assert "steps=4" in (place / "mine.toml").read_text()


WRONG = {
    "unknown": ("\nmodle = 'x'", "line 2: whence explain has no setting 'modle'. Did you mean 'mo"),
    "underscore": ("batch_sise = 3", "Did you mean 'batch-size'"),
    "kind": ("# a\n\ncount = '3'", "line 3: count takes a whole number; got '3'"),
    "truth": ("count = true", "line 1: count takes a whole number; got True"),
    "flag": ("fast = 1", "line 1: fast takes true or false; got 1"),
    "list": ("set = [3.5]", "line 1: set takes a list, each a text; got 3.5"),
    "text": ("target = []", "line 1: target takes a text; got []"),
    "bound": ("count = 0", "line 1: count is at least 1; got 0"),
    "command": ("command = 'audit'", "is for `whence audit`; this is `whence explain`"),
    "itself": ("config = 'x'", "has no setting 'config'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_is_named_with_its_line(kind, whence, place):
    text, message = WRONG[kind]
    (place / "e.toml").write_text(text)
    found = whence("explain", "test", "--model", "model.py:tiny", "--config", "e.toml")
    assert found.exit_code == 1
    assert found.stderr.startswith("Error: ")
    assert message in found.stderr
    assert not (place / "explain-test").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("count = = 3", "no readable TOML"), (None, "There is no file e.toml")]
)
def test_what_is_no_toml_is_no_traceback(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("e.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_config(Path("e.toml"), entries("explain"), "explain")


words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@given(
    method=words,
    settings=st.lists(words, max_size=3),
    count=st.integers(1, 10**6),
    fast=st.booleans(),
    batch=st.none() | st.integers(1, 99),
)
def test_options_that_were_written_read_back(
    tmp_path_factory, method, settings, count, fast, batch
):
    folder = tmp_path_factory.mktemp("written")
    given_ = {
        "method": method,
        "set_": settings,
        "count": count,
        "fast": fast,
        "batch_size": batch,
        "out": folder / "result",
    }
    path = folder / "run.toml"
    path.write_bytes(config_text(given_, entries("explain"), "explain", folder).encode())
    found, _ = read_config(path, entries("explain"), "explain")
    assert found.pop("out") == str(folder / "result")
    assert found == {key: value for key, value in given_.items() if value not in (None, [])
                     and key != "out"}  # fmt: skip


def test_a_name_that_is_no_unicode_is_refused():
    with pytest.raises(SettingError, match="no Unicode"):
        config_text({"method": "a\udc80"}, entries("explain"), "explain", Path())


def test_the_line_of_a_key_is_found_in_its_section():
    text = 'a = 1\n[set]\na = 2\n[[network]]\nb = 1\n[[network]]\n"a" = 3\n'
    assert line_of(text, "a") == 1
    assert line_of(text, "set") == 2
    assert line_of(text, "a", within="set") == 3
    assert line_of(text, "b", within="network", place=0) == 5
    assert line_of(text, "a", within="network", place=1) == 7


@given(st.text(st.characters(exclude_categories=("Cs",))), words)
def test_any_text_is_written_as_toml_reads_it(value, key):
    assert tomllib.loads(toml_line(key, value)) == {key: value}
    assert tomllib.loads(toml_line(key, [value, value])) == {key: [value, value]}


def test_every_command_that_writes_a_result_has_a_file():
    for name in ("audit", "explain", "fit", "convert"):
        flags = {flag for entry in entries(name) for flag in entry.flags}
        assert "--config" not in flags  # added by the one mechanism, not by the command
    assert {one.__name__ for one in program.index.RUNS} == {"build", "query"}
