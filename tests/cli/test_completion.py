"""What a shell completes, asked the way a shell asks."""

import os
import subprocess
import sys

import pytest

from whence.cli import names

PROGRAM = "import sys; sys.argv[0] = 'whence'; from whence.cli import main; main()"
MAIN = (sys.executable, "-c", PROGRAM)


def asked(words, shell="bash", cwd="."):
    """Return what the shell is told for the last of some words."""
    line = " ".join(("whence", *words))
    own = (
        {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        if shell == "bash"
        else {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    )
    found = subprocess.run(
        MAIN,
        env={**os.environ, "_WHENCE_COMPLETE": f"complete_{shell}", **own},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in found.stderr, found.stderr
    return found.stdout


@pytest.mark.parametrize(
    ("words", "complete"),
    [
        (("explain", "--method", "integ"), ["integrated-gradients"]),
        (("evaluate", "x", "--metric", "dele"), ["deletion"]),
        (("audit", "--score", "data"), ["datainf"]),
        (("fit", "--prior", "gin"), ["gini"]),
        (("convert", "--route", "strip"), ["strip-biases"]),
        (("index", "query", "--score", "grad-d"), ["grad-dot"]),
        (("methods", "rise"), ["rise"]),
        (("metrics", "gin"), ["gini"]),
        (("expl",), ["explain"]),
        (("explain", "--meth"), ["--method"]),
    ],
)
def test_bash_is_told_the_names_that_begin_so(words, complete):
    assert asked(words).split() == complete


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_same(shell):
    found = asked(("explain", "--method", "guided-"), shell)
    assert [name for name in names.METHODS if name in found.replace('"', " ").split()] == [
        name for name in names.METHODS if name.startswith("guided-")
    ]


FINDINGS = """
whence = "findings"

[[finding]]
id = "shortcut-1"
summary = "A patch."

[[finding]]
id = "label-17"
summary = "A label."
"""


def test_the_findings_of_the_audit_are_completed(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "findings.toml").write_text(FINDINGS)
    words = ("fix", "demo", "--accept", "")
    assert asked(words, cwd=tmp_path).split() == ["shortcut-1", "label-17"]
    assert asked(("fix", "demo", "--accept", "label-17,sh"), cwd=tmp_path).split() == [
        "label-17,shortcut-1"
    ]
    assert asked(("fix", "nowhere", "--accept", "s"), cwd=tmp_path).strip() == ""


def test_the_names_are_those_of_the_catalogues():
    from whence.attribution import cards
    from whence.convert.names import ROUTE_NAMES
    from whence.core.baseline import BASELINES
    from whence.evaluation.catalogue import METRICS
    from whence.influence import SCORERS
    from whence.priors.named import PENALTIES
    from whence.training_features import MAPS

    assert list(names.METHODS) == [one.name for one in cards()]
    assert list(names.METRICS) == list(METRICS)
    assert list(names.SCORES) == [one.name for one in SCORERS]
    assert list(names.MAPS) == [one.name for one in MAPS]
    assert list(names.PENALTIES) == list(PENALTIES)
    assert list(names.ROUTES) == list(ROUTE_NAMES)
    assert list(names.BASELINES) == list(BASELINES)


def test_nothing_heavy_is_imported_to_complete():
    code = (
        "import sys; from whence.cli.program import app; from typer.main import get_command; "
        "get_command(app); "
        "print([n for n in ('torch', 'numpy', 'PIL', 'sklearn') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
