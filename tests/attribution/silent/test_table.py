"""The page of silently wrong cases: every row has its tests, and every test is there."""

import re
from pathlib import Path

import pytest

ROOM = Path(__file__).parent
PAGE = ROOM.parents[2] / "docs" / "explanation" / "silent-wrong.md"


def page():
    if not PAGE.is_file():
        pytest.skip("the manual is not beside the tests")
    return PAGE.read_text(encoding="utf-8")


def named(text):
    """Return the tests that a text names, each with the file that was named last before it."""
    file, found = "", []
    for name in re.findall(r"`(test_\w+(?:\.py)?)`", text):
        if name.endswith(".py"):
            file = name
        else:
            found.append((file, name))
    return found


def test_every_test_that_the_page_names_exists_where_it_says():
    tests = named(page())
    assert len(tests) > 60
    for file, name in tests:
        text = (ROOM / file).read_text(encoding="utf-8")
        assert f"\ndef {name}(" in text, f"{file} has no {name}"


def test_every_row_has_its_tests_and_every_list_its_row():
    text = page()
    rows = [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    lists = re.split(r"^(\d+)\. ", text, flags=re.MULTILINE)
    numbers = [int(n) for n in lists[1::2]]
    assert rows == numbers == list(range(1, len(rows) + 1))
    for number, part in zip(numbers, lists[2::2], strict=True):
        assert named(part.split("\n\n")[0]), f"row {number} names no test"


def test_every_peer_of_a_row_has_a_test_of_its_own():
    """A cell that says anything about a library is backed by a test in that library's file."""
    text = page()
    files = {3: "test_captum.py", 4: "test_zennit.py", 5: "test_grad_cam.py"}
    lists = dict(re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\n\n)", text, re.MULTILINE | re.DOTALL))
    for row in re.findall(r"^\| \d+ \|.*$", text, re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for place, file in files.items():
            if cells[place] != "—":
                asked = {name for name, _ in named(lists[cells[0]])}
                assert file in asked, f"row {cells[0]}: {cells[place]}"


def test_every_test_of_a_peer_is_on_the_page():
    on_the_page = {name for _, name in named(page())}
    for file in ("test_captum.py", "test_zennit.py", "test_grad_cam.py", "test_quantus.py"):
        tests = re.findall(r"^def (test_\w+)", (ROOM / file).read_text("utf-8"), re.MULTILINE)
        assert set(tests) <= on_the_page
