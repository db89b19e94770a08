"""The reference has every public name and every command, as they are today."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PYTHON = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
ROOMS = re.findall(r":: whence\.(\w+)$", PYTHON, re.MULTILINE)


@pytest.fixture(scope="module")
def constants():
    spec = importlib.util.spec_from_file_location("manual_constants", DOCS / "constants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_says_what_it_is(room, constants):
    package = importlib.import_module(f"whence.{room}")
    found = constants.constants_of(room)
    for name in package.__all__:
        told = found[name] if name in found else inspect.getdoc(getattr(package, name))
        assert told, f"whence.{room}.{name} has no docstring"
        if inspect.isclass(value := getattr(package, name)):
            assert "__doc__" in vars(value), f"whence.{room}.{name} inherits its docstring"


@pytest.mark.parametrize("room", ROOMS)
def test_constants_are_in_the_reference(room, constants):
    shown = f".. room-constants:: {room}\n" in PYTHON
    assert shown == bool(constants.constants_of(room))


def test_a_constants_text_is_the_one_below_its_definition(constants, tmp_path):
    path = tmp_path / "file.py"
    path.write_text('A = 1\n"""First."""\nB: int = 2\n"""Second,\n\nlonger.\n"""\nC = 3\nD = 4\n')
    assert constants.texts_in(path) == {"A": "First.", "B": "Second,\n\nlonger."}


def commands(group, path=()):
    """Yield the words of every command, commands of commands included."""
    for name, command in getattr(group, "commands", {}).items():
        yield (*path, name)
        yield from commands(command, (*path, name))


def test_every_command_is_in_the_reference_once_and_no_other():
    from typer.main import get_command

    from whence.cli import app

    shown = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    found = re.findall(r"\{command-help\} (.+)$", shown, re.MULTILINE)
    listed = [tuple(words.split()) for words in found]
    assert sorted(listed) == sorted(commands(get_command(app)))
