"""One noun, one flag: the same option has the same name, kind and meaning in every command."""

import inspect

import pytest
from typer.main import get_command

from whence.cli import app, index, program
from whence.cli.entries import entries_of

COMMANDS = {one.__name__: one for one in program.COMMANDS} | {
    f"index {one.__name__}": one for one in index.COMMANDS
}
RUNS = {one.__name__ for one in program.RUNS} | {f"index {one.__name__}" for one in index.RUNS}
TABLE = {name: {entry.key: entry for entry in entries_of(one)} for name, one in COMMANDS.items()}
LOAD = {"describe", "homogeneity", "convert"}
"""Commands about a model, which is their argument."""
SEVERAL = {"evaluate", "transfer", "view"}
"""Commands that compare networks, each by its name."""

MEANS = {
    # flag: (kind, what its value is called, commands in which that differs, with the reason)
    "weights": (str, "FILE", SEVERAL),
    "classes": (str, "FILE", SEVERAL),
    "input": (str, "KEY=VALUE", SEVERAL),
    "device": (str, "", set()),
    "download": (bool, "", set()),
    "train": (str, "SOURCE", set()),
    "test": (str, "SOURCE", set()),
    "validation": (str, "SOURCE", set()),
    "train-labels": (str, "FILE", set()),
    "test-labels": (str, "FILE", set()),
    "labels": (str, "FILE", set()),
    "set": (str, "KEY=VALUE", set()),
    "score": (str, "NAME", set()),
    "route": (str, "NAME", set()),
    "prior": (str, "NAME", set()),
    "prior-weights": (str, "NUMBERS", set()),
    "target": (str, "CLASS", set()),
    "count": (int, "", set()),
    "k": (int, "", set()),
    "batch-size": (int, "", set()),
    "seed": (int, "", set()),
    "epochs": (int, "", set()),
    "overwrite": (bool, "", {"demo"}),  # replaces its own earlier demonstration
    "resume": (bool, "", set()),
    "dry-run": (bool, "", set()),
    "json": (bool, "", set()),
    "verbose": (bool, "", set()),
}
SAME = ("download", "resume", "dry-run", "json", "verbose", "device")
"""Flags whose help is word for word the same wherever they are."""


def plain(kind):
    """A place is a text, whether or not Python calls it a path."""
    return str if kind.__name__ == "Path" else kind


@pytest.mark.parametrize("flag", MEANS)
def test_a_flag_is_of_one_kind_everywhere(flag):
    kind, metavar, other = MEANS[flag]
    found = {name: entries[flag] for name, entries in TABLE.items() if flag in entries}
    assert len(found) >= 1
    for name, entry in found.items():
        assert plain(entry.kind) is kind, name
        if name not in other:
            assert entry.metavar == metavar, name
    if kind is bool:
        assert {entry.default for name, entry in found.items() if name not in other} == {False}


@pytest.mark.parametrize("flag", SAME)
def test_a_flag_says_the_same_everywhere(flag):
    assert len({one[flag].help for one in TABLE.values() if flag in one}) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_flags_that_one_expects(name):
    flags = set(TABLE[name])
    assert {"verbose"} <= flags
    assert ("json" in flags) or name == "view"
    if "model" in flags and name != "doctor":
        assert {"weights", "download", "classes", "input"} <= flags
        assert "device" in flags or name == "verify"  # which compares on the CPU
    if "out" in flags:
        assert "overwrite" in flags
    if "method" in flags and name not in {"methods", "transfer"}:
        assert "set" in flags
    if "train" in flags and name != "doctor":
        assert "train-labels" in flags
    if "resume" in flags:
        assert "out" in flags


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_run_writes_somewhere_and_has_a_file(name):
    command = get_command(app)
    for word in name.split():
        command = command.commands[word]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--config", "--save-config"} <= flags
    assert "--out" in flags or name == "index query"


@pytest.mark.parametrize("name", ["audit", "explain", "evaluate", "transfer", "fit", "index build"])
def test_work_that_takes_long_can_be_estimated(name):
    assert "dry-run" in TABLE[name]


@pytest.mark.parametrize("name", ["evaluate", "transfer", "fit", "fix", "index build"])
def test_work_that_is_kept_as_it_is_done_goes_on_with_resume(name):
    assert "resume" in TABLE[name]


def test_a_command_that_writes_files_is_a_run():
    writing = {name for name, entries in TABLE.items() if "out" in entries}
    assert writing <= RUNS


def test_what_a_command_is_about_is_its_argument():
    about = {
        name: [one.metavar for one in entries.values() if not one.flags]
        for name, entries in TABLE.items()
    }
    assert {name for name, found in about.items() if "MODEL" in found} == LOAD
    assert about["explain"] == about["evaluate"] == ["IMAGES"]
    assert about["index query"] == ["INDEX", "IMAGES"]


def test_flags_are_words_and_options_are_documented():
    for name, entries in TABLE.items():
        for entry in entries.values():
            assert entry.help, (name, entry.key)
            assert all(flag == flag.lower() and "_" not in flag for flag in entry.flags)
        assert inspect.getdoc(COMMANDS[name])
