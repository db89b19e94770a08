"""Habits that no linter checks, read from the source."""

import ast
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src" / "whence"
SOURCES = sorted(PACKAGE.rglob("*.py"))
IDS = [path.relative_to(PACKAGE).as_posix() for path in SOURCES]

MAY_TOUCH_A_MODEL = {
    "adapters/lightning.py": "the network that is trained is its caller's own copy",
    "recipes/fit.py": "it works on a copy of the model, made there",
    "recipes/fit_job.py": "it trains a copy of that copy",
    "recipes/fix.py": "it loads weights into a copy of its own",
    "adapters/models.py": "the model was built there, a moment ago",
    "priors/fit.py": "a copy of the model is trained, made a line before",
    "network/rewrite.py": "the hook is on an activation, and goes with the graph of that pass",
    "attribution/readings.py": "a copy of the model's structure was made a word before",
    "attribution/relevance/trace.py": "hooks and leaves are on activations of that one pass",
    "network/finite.py": "the same: activations of one pass, which are let go with it",
    "attribution/relevance/differences.py": "the leaves are activations of our own graph",
    "attribution/relevance/signals.py": "the hook is on an activation of our own graph, as above",
    "recipes/digits.py": "it trains the network that it made itself",
    "recipes/retrain_anew.py": "it trains a copy of the model, whose weights it draws anew",
    "recipes/load.py": "it builds an architecture that has no weights yet",
}
"""File, and why it may name a hook, ``requires_grad_``, ``.train(`` or ``.eval(``."""

DOORS = {
    "lightning": "adapters/lightning.py",
    "matplotlib": "display/canvas.py",
    "ray": "execution/ray.py",
    "skimage": "attribution/superpixels.py",
    "sklearn": "adapters/tables.py",
    "timm": "adapters/timm.py",
    "torchvision": "adapters/torchvision.py",
    "transformers": "adapters/transformers.py",
}
"""Each optional dependency, and the one file that imports it."""

each_source = pytest.mark.parametrize("path", SOURCES, ids=IDS)


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def room_path(path):
    return path.relative_to(PACKAGE).as_posix()


def called_names(path):
    """Yield the last name of everything that the file calls, with its line."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            name = called(node)
            owner = getattr(node.func, "value", None)
            fresh = isinstance(owner, ast.Call) and called(owner) in {"clone", "detach"}
            if not (fresh and name == "requires_grad_"):  # a leaf of our own, made on the spot
                yield name, node.lineno


def called(node):
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def imported_packages(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@each_source
def test_only_listed_files_touch_a_model(path):
    touching = re.compile(r"^(register_\w*hook|requires_grad_|train|eval)$")
    found = [(name, line) for name, line in called_names(path) if name and touching.match(name)]
    if room_path(path) not in MAY_TOUCH_A_MODEL:
        assert not found


def test_every_file_listed_to_touch_a_model_exists():
    assert {name for name in MAY_TOUCH_A_MODEL if not (PACKAGE / name).is_file()} == set()


@each_source
def test_optional_dependencies_have_one_door(path):
    behind = {package for package, door in DOORS.items() if door != room_path(path)}
    assert behind & set(imported_packages(path)) == set()


@each_source
def test_nothing_prints_asserts_or_seeds_the_world(path):
    banned = {"print", "seed", "seed_all", "set_default_dtype", "set_num_threads"}
    calls = [(name, line) for name, line in called_names(path) if name in banned]
    asserts = [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)]
    assert (calls, asserts) == ([], [])
    assert not re.search(r"torch\.(cuda\.|random\.)?manual_seed", path.read_text("utf-8"))


@each_source
def test_annotations_are_executed(path):
    assert "__future__" not in set(imported_packages(path))


@each_source
def test_a_file_has_at_most_450_lines_of_code(path):
    code = set()
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type in {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}:
                code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            code -= set(range(node.lineno, node.end_lineno + 1))
    assert len(code) <= 450


def test_there_is_no_room_for_leftovers():
    names = {part for path in SOURCES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc", "tools"} == set()


@each_source
def test_no_pickle_is_written_and_weights_are_read_safely(path):
    assert {"dill", "joblib", "pickle"}.isdisjoint(imported_packages(path))
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            name = ast.unparse(node.func)
            assert name != "torch.save"
            assert given.get("allow_pickle", "False") == "False"
            assert name != "torch.load" or given["weights_only"] == "True"


def test_every_room_is_tested_and_every_test_folder_has_its_room():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    tested = {path.parent.name for path in (REPOSITORY / "tests").glob("*/test_*.py")}
    assert (
        tested - {"architecture", "browser", "parity", "reproduction", "examples", "docs"} == rooms
    )


def test_tracked_files_name_no_machine():
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False, text=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    private = re.compile(r"/(home|root|Users|tmp|work|mnt|opt)/[a-z]|[A-Z]:\\\\Users")
    for name in filter(None, listing.stdout.split("\0")):
        path = REPOSITORY / name
        if path.suffix in {".png", ".jpg", ".svg"} or not path.is_file():
            continue
        if path == Path(__file__):
            continue
        assert not private.search(path.read_text(encoding="utf-8", errors="replace")), name
