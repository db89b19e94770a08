"""What importing whence costs, asked of a fresh interpreter."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import whence

LIGHT = ["whence", "whence.errors", "whence.results", "whence.display", "whence.report"]


def modules_after(code):
    """Return the names of the top-level modules that an interpreter holds after ``code``."""
    show = "import sys; sys.stdout.write('\\n' + ' '.join({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, check=True, text=True
    )
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", [*LIGHT, "whence.viewer"])
def test_light_rooms_leave_no_torch_behind(name):
    assert modules_after(f"import {name}") & {"torch", "jaxtyping", "sklearn"} == set()


def test_help_imports_neither_torch_nor_numpy():
    code = (
        "import sys; sys.argv = ['whence', '--help']\n"
        "from whence.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code"
    )
    assert modules_after(code) & {"torch", "numpy", "PIL", "sklearn", "jinja2"} == set()


def test_the_public_face_loads_its_rooms_on_first_use():
    assert "torch" in modules_after("import whence; whence.explain")


def test_every_public_name_of_the_face_can_be_loaded():
    assert all(getattr(whence, name) is not None for name in whence.__all__)
    assert set(dir(whence)) == set(whence.__all__)


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(AttributeError, match=r"no attribute 'explian'.*explain"):
        _ = whence.explian


def rooms():
    return [f"whence.{room.name}" for room in pkgutil.iter_modules(whence.__path__) if room.ispkg]


@pytest.mark.parametrize("name", rooms())
def test_a_rooms_public_names_are_those_it_declares(name):
    room = importlib.import_module(name)
    declared = set(getattr(room, "__all__", []))
    assert declared <= set(dir(room))
    held = {
        key
        for key, value in vars(room).items()
        if not key.startswith("_") and not isinstance(value, ModuleType)
    }
    assert held == {key for key in declared if key in vars(room) and not key.startswith("_")}
