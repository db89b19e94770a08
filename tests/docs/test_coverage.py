"""The manual's table of methods and models is the one that the command writes today."""

import re
from pathlib import Path

import pytest

from benchmarks.coverage import CHEAP, FEW, Book, cheap, chosen, shown
from benchmarks.coverage_table import Cell, markdown, summary, text
from benchmarks.models import SUBJECTS
from whence.attribution import CATALOGUE, method_named
from whence.attribution.catalogue import settings_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "coverage.md"
NAMES = [entry.card.name for entry in CATALOGUE]


def rows():
    """Return the table's cells by method."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if " | " in line]
    found = [[part.strip() for part in line.strip("| ").split("|")] for line in lines]
    head = next(i for i, row in enumerate(found) if row[0] == "method")
    width = len(found[head])
    return found[head][1:], {row[0]: row[1:] for row in found[head + 1 :] if len(row) == width}


def test_the_page_has_every_method_on_every_model_and_no_error():
    columns, found = rows()
    assert columns == [subject.short for subject in SUBJECTS]
    missing = set(NAMES) - set(found)
    assert not missing, (
        f"{sorted(missing)}: python -m benchmarks.coverage --markdown docs/reference/coverage.md"
    )
    marks = {mark for row in found.values() for mark in row}
    assert not [mark for mark in marks if mark.startswith("E")]
    reasons = set(re.findall(r"^- \*\*(\w+)\*\*: \S", PAGE.read_text("utf-8"), re.MULTILINE))
    assert marks - {"+"} == reasons


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_runs_with_exists_and_repeats_a_few_times_only(name):
    method = method_named(name, cheap(name))
    given = CHEAP.get(name, {})
    for setting, most in FEW.items():
        if setting in settings_of(name):
            assert getattr(method, setting) <= given.get(setting, most)


def made(method, model, verdict="ok", reason="", blank=0):
    return Cell(
        method=method, model=model, verdict=verdict, reason=reason, blank=blank, seconds=1.0
    )


CELLS = [
    made("gradient", SUBJECTS[0].name),
    made("gradient", SUBJECTS[1].name, "ERROR", "ValueError: a | b"),
    made(
        "grad-cam", SUBJECTS[0].name, "n/a", "GradCAM needs a map, and 'x' in layer.1 has none. So."
    ),
    made("grad-cam", SUBJECTS[1].name, blank=1),
]
TWO = (["gradient", "grad-cam"], list(SUBJECTS[:2]))


def test_cells_are_counted_marked_and_explained():
    assert summary(CELLS) == {"ok": 2, "n/a": 1, "ERROR": 1}
    shown_text = text(CELLS, *TWO).splitlines()
    assert shown_text[1].split() == ["gradient", "+", "E1"]
    assert shown_text[2].split() == ["grad-cam", "2", "+"]
    assert "    2  The method needs a map, and 'x' has none." in shown_text
    page = markdown(CELLS, *TWO, {"gradient": {}, "grad-cam": {"steps": 3}})
    assert "| grad-cam | 2 | + |" in page
    assert "- **E1**: ValueError: a" in page
    assert f"search did not succeed in so few steps: grad-cam ({SUBJECTS[1].name})." in page
    assert "- grad-cam: steps 3" in page


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    book = Book(path=tmp_path / "cells.jsonl", version="now")
    for cell in CELLS[:2]:
        book.add(cell)
    with book.path.open("a") as file:
        file.write('{"version": "now", "cel')
    known = book.known()
    assert known == {(cell.method, cell.model): cell for cell in CELLS[:2]}


def test_cells_of_other_code_or_other_settings_are_made_anew(tmp_path, monkeypatch):
    book = Book(path=tmp_path / "cells.jsonl", version="now")
    book.add(CELLS[0])
    assert Book(path=book.path, version="later").known() == {}
    monkeypatch.setattr("benchmarks.coverage.cheap", lambda name: {"batch_size": 1})
    assert shown("gradient") == "Gradient(create_graph=False, batch_size=1)"
    assert book.known() == {}


def test_a_part_of_a_name_chooses_and_an_unknown_one_says_what_there_is():
    assert chosen(["grad-cam", "lrp"], ["cam"], "method") == ["grad-cam"]
    with pytest.raises(SystemExit, match=r"No method matches xx. There are: grad-cam, lrp"):
        chosen(["grad-cam", "lrp"], ["xx"], "method")
