"""The manual's Python runs, and it names everything that can be used."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [
    path
    for path in [*DOCS.rglob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    if path.is_file()
]
NEEDS = {"docs/how-to/use-with-quantus-and-captum.md": ("captum", "quantus", "zennit")}
"""What a page runs beside whence, all of it in ``whence[parity]``."""

BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path):
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    blocks = [match for match in BLOCK.finditer(text) if not match[1]]
    if not blocks:
        pytest.skip("the page has no Python to run")
    missing = [name for name in NEEDS.get(name_of(page), ()) if not find_spec(name)]
    if missing:
        pytest.skip(f"the page shows {missing[0]}: it needs whence[parity]")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks:
        line = text[: block.start(2)].count("\n")
        code = compile("\n" * line + block[2], str(page), "exec")
        exec(code, names)  # noqa: S102 - our own pages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_every_method_of_the_catalogue_is_in_the_manual():
    from whence.attribution import cards

    manual = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    assert {card.name for card in cards() if f"`{card.name}`" not in manual} == set()


def test_every_command_is_in_the_manual():
    from typer.main import get_command

    from whence.cli import app

    shown = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    commands = get_command(app).commands
    assert {name for name in commands if f"{{command-help}} {name}\n" not in shown} == set()


def test_every_room_is_in_the_python_reference():
    shown = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (REPOSITORY / "src" / "whence").glob("*/__init__.py")}
    assert {room for room in rooms if f":: whence.{room}\n" not in shown} == set()


COMING = sorted((DOCS / "coming-from").glob("*.md"))


@pytest.mark.parametrize("page", COMING, ids=name_of)
def test_names_that_a_newcomer_is_given_exist(page):
    from typing import get_args

    from whence.attribution import cards
    from whence.attribution.relevance.composites import CompositeName
    from whence.evaluation.catalogue import METRICS, TRAINED

    known = {card.name for card in cards()} | {*METRICS, *TRAINED}
    known |= set(get_args(CompositeName))
    text = page.read_text(encoding="utf-8")
    given = re.findall(r"`\"?([a-z]+(?:-[a-z0-9+]+)+)\"?`", text)
    given += re.findall(r"`\"([a-z]+)\"`", text)
    assert set(given) <= known, f"{name_of(page)} names {sorted(set(given) - known)}"
