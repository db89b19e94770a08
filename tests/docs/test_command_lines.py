"""Every command line that the manual shows has a command and options that exist."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = [*(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "README.md"]
LINE = re.compile(r"^(?:    |\$ )whence (.+)$")


def lines_in(text):
    """Yield the command lines of a page: after ``$`` in a block, or indented by four."""
    joined = re.sub(r" *\\\n\s*", " ", text)
    for line in joined.splitlines():
        if found := LINE.match(line):
            yield found[1].partition(" # ")[0].strip()


@cache
def program():
    from typer.main import get_command

    from whence.cli import app

    return get_command(app)


def options_of(words):
    """Return the command that the words begin with, and the options that it has."""
    command, path = program(), []
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"there is no command {' '.join([*path, name])}"
        command = command.commands[name]
        path.append(name)
    known = {"--help", "-h"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    return path, known


def words_of(line):
    """Return the words up to a pipe or a dash that stands for the rest."""
    words = shlex.split(line, comments=True)
    ends = [at for at, word in enumerate(words) if word in {"|", ">", "&&"}]
    return words[: ends[0]] if ends else words


@pytest.mark.parametrize(
    "page", PAGES, ids=[path.relative_to(REPOSITORY).as_posix() for path in PAGES]
)
def test_a_page_shows_commands_that_exist(page):
    for line in lines_in(page.read_text(encoding="utf-8")):
        words = words_of(line)
        if words[0].startswith("-"):
            continue
        path, known = options_of(words)
        given = {word.partition("=")[0] for word in words if word.startswith("-")}
        given = {word for word in given if not re.fullmatch(r"-?\d.*|-", word)}
        assert given <= known, f"whence {' '.join(path)} has no {sorted(given - known)}: {line}"


def test_lines_are_found_joined_and_cut_at_comments():
    text = "$ whence audit --model m \\\n    --train t   # what\n\n    whence view x\n"
    assert list(lines_in(text)) == ["audit --model m --train t", "view x"]
    assert "--model" in options_of(["audit"])[1]
    assert "--modle" not in options_of(["audit"])[1]
    with pytest.raises(AssertionError, match="no command"):
        options_of(["audti"])
