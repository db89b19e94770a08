"""The manual's page of conversions has every model, and the command that writes it works."""

from pathlib import Path

import pytest

from benchmarks import conversion
from benchmarks.models import SUBJECTS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "x-dnns.md"
CHEAP = "transformers/ViTForImageClassification"


def rows(title):
    """Return the cells by model of the table whose second column has this title."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines()]
    start = next(k for k, cells in enumerate(lines) if cells[1:2] == [title])
    table = lines[start + 2 :]
    width = len(lines[start])
    count = next((k for k, cells in enumerate(table) if len(cells) != width), len(table))
    return {cells[0]: cells[1:] for cells in table[:count]}


def test_the_page_has_every_model_and_each_becomes_an_x_dnn():
    audited, exact = rows("first offender"), rows("coordinate")
    assert list(audited) == list(exact) == [subject.name for subject in SUBJECTS]
    assert all(cells[3].startswith("yes, ") for cells in audited.values())
    assert all(cells[1] and cells[2] for cells in audited.values())


@pytest.mark.slow
def test_the_command_says_of_a_model_what_its_row_says():
    (subject,) = [one for one in SUBJECTS if one.name == CHEAP]
    found = conversion.outcome(subject)
    assert found.holds
    first, needed, routes, told = rows("first offender")[CHEAP]
    assert (found.first, conversion.listed(found.needed), conversion.listed(found.routes)) == (
        first,
        needed,
        routes,
    )
    assert told.startswith("yes, ")
    assert found.coordinate == rows("coordinate")[CHEAP][0]
