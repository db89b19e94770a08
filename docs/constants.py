"""What the rooms make public beside classes and functions, and what their files say about it.

Sphinx documents a constant only in the file that defines it; a room shows it where it is used.
"""

import ast
import importlib
import inspect
import itertools
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src" / "whence"


def constants_of(room: str) -> dict[str, str]:
    """Return the public constants and types of a room, each with the text below its definition.

    Args:
        room: Such as ``core``. A constant without a text has an empty one.
    """
    package = importlib.import_module(f"whence.{room}")
    names = [
        name
        for name in package.__all__
        if not inspect.isclass(getattr(package, name))
        and not inspect.isroutine(value(package, name))
    ]
    told: dict[str, str] = {}
    for path in sorted((SOURCES / room).rglob("*.py")):
        told |= texts_in(path)
    return {name: told.get(name, "") for name in names}


def value(package: object, name: str) -> object:
    """Return what a room holds under a name, without its decorators."""
    return inspect.unwrap(getattr(package, name))


def texts_in(path: Path) -> dict[str, str]:
    """Return the texts below the assignments of a file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = {}
    for one, after in itertools.pairwise(body):
        targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            for target in targets:
                if isinstance(target, ast.Name):
                    found[target.id] = inspect.cleandoc(str(after.value.value))
    return found
