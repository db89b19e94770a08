"""Results show themselves in a notebook: valid, escaped, bounded, and readable on dark."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from whence.display import Html, Panel, card, facts, note, strip, table, verbatim

VOID = {"img", "br", "hr"}
EVIL = "<script>alert('1')</script>\" onerror=\"x"


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in its turn, every attribute is given once."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        assert len({name for name, _ in attrs}) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def panel(title="3", side=8, height=None):
    generator = np.random.default_rng(0)
    shape = (height or side, side)
    return Panel(
        picture=generator.integers(0, 256, (*shape, 3)).astype(np.uint8),
        values=generator.normal(size=shape).astype(np.float32),
        title=title,
        note="98 %",
    )


def everything(words):
    """A card with one of each piece, all told the same words."""
    return card(
        words,
        facts({words: words}),
        table((words, "n"), [(words, 1.23456), (words, None)], title=words),
        strip([panel(words)], title=words),
        note(words),
        verbatim(words),
    )


@pytest.mark.parametrize("words", [EVIL, "a & b < c", "\udcff.png", "nul \x00 bell \x07"])
def test_text_from_outside_is_never_markup(words):
    page = Page(everything(words))
    assert set(page.tags) <= {
        "div", "p", "strong", "span", "table", "caption", "thead", "tbody", "tr", "th", "td",
        "figure", "figcaption", "img", "pre",
    }  # fmt: skip
    assert {name for name, _ in page.attributes} <= {"style", "scope", "src", "alt"}
    everything(words).encode("utf-8")
    assert not re.search(r"[\x00-\x08\x7f-\x9f]", "".join(page.text))
    if words == EVIL:
        assert page.words.count("<script>alert('1')</script>") == 11


def test_numbers_have_three_digits_and_stand_right():
    shown = table(("a",), [(1.23456,), (np.float32(0.5),), ("x",), (7,)])
    assert Page(shown).words == "a1.230.5x7"
    assert shown.count("text-align:right") == 3


def test_rows_columns_pictures_and_words_are_bounded_and_the_rest_is_counted():
    rows = [tuple(range(30)) for _ in range(500)]
    page = Page(table([f"c{k}" for k in range(30)], rows))
    assert page.tags.count("tr") == 21
    assert page.tags.count("th") == 12
    assert "and 480 more rows" in page.words
    assert "and 18 more columns" in page.words
    page = Page(strip([panel() for _ in range(13)]))
    assert page.tags.count("img") == 24
    assert "and 1 more image" in page.words
    assert len(note("x" * 10**6)) < 3000
    assert len(table(("a",), [("y" * 10**6,)])) < 1000


def test_large_and_long_photographs_become_thumbnails():
    shown = strip([panel(side=3000), panel(side=4, height=3000)])
    assert len(shown) < 60_000
    assert shown.count("data:image/jpeg") == 4


def test_small_pictures_are_shown_exactly_with_their_pixels():
    shown = strip([panel()])
    assert shown.count("data:image/png") == 2
    assert shown.count("image-rendering:pixelated") == 2


def test_no_colour_is_set_so_that_dark_notebooks_can_be_read():
    styles = " ".join(re.findall(r'style="([^"]*)"', everything("word")))
    assert set(re.findall(r"(?:^|;|\s)(?:color|background):([^;]*)", styles)) <= {
        "inherit",
        "transparent",
    }
    assert "#" not in styles


def test_nothing_to_tell_tells_nothing():
    assert facts({}) == "" == facts({"gap": None, "prior": ""})
    assert isinstance(facts({}), Html)


def test_a_scale_ends_at_the_maps_own_limit():
    one = Panel(picture=panel().picture, values=np.full((8, 8), -0.25, np.float32), title="t")
    assert "\N{PLUS-MINUS SIGN}0.25" in Page(strip([one])).words


def test_pieces_of_a_page_need_no_torch():
    code = (
        "import sys, numpy; from whence.display import Panel, strip, card\n"
        "zero = numpy.zeros((8, 8, 3), 'uint8')\n"
        "card('x', strip([Panel(picture=zero, values=zero[..., 0] * 1.0, title='t')]))\n"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
