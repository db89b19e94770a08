"""Numbers and findings in words."""

import math

import pytest

from whence.report import words
from whence.results import RegionRecord

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (12.5, "12.5"),
        (-0.012345, f"{MINUS}0.0123"),
        (1.5e-7, f"1.5{TIMES}10⁻⁷"),
        (-2e12, f"{MINUS}2{TIMES}10¹²"),
        (12345.6, "12 346"),
        (-1234.0, f"{MINUS}1 234"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
    ],
)
def test_a_number_is_short_and_has_a_real_minus(value, expected):
    assert words.number(value).replace("\u202f", " ") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, "+0.500"),
        (-0.0964, f"{MINUS}0.0964"),
        (3.0, "+3.00"),
        (123.0, "+123"),
        (0.0, "0"),
        (2e-9, f"+2{TIMES}10⁻⁹"),
        (-2e-9, f"{MINUS}2{TIMES}10⁻⁹"),
        (math.nan, "not finite"),
    ],
)
def test_a_score_shows_its_sign_and_all_its_digits(value, expected):
    assert words.signed(value) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.912, "91.2 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_a_share_is_per_cent(share, expected):
    assert words.percent(share).replace("\u202f", " ") == expected


def test_names_keep_their_end():
    assert words.shortened("short.png", 20) == "short.png"
    for longest in (11, 13, 22, 40):
        text = words.shortened("a/very/long/folder/of/pictures/img_00012.png", longest)
        assert len(text) == longest
        assert text.endswith("00012.png"[-9:])


def test_a_time_stamp_that_is_none_stays_as_it_is():
    assert words.moment("yesterday") == "yesterday"
    assert words.moment("2025-11-23T15:30:00+00:00") == "23 November 2025, 15:30 UTC"


@pytest.mark.parametrize(
    ("fingerprint", "expected"),
    [("sha256:" + "ab" * 32, "sha256:abababababab"), ("ab" * 32, "ab" * 6), ("", "")],
)
def test_fingerprints_are_shortened_but_keep_their_kind(fingerprint, expected):
    assert words.short(fingerprint) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "yes"),
        (None, "none"),
        (0.5, "0.5"),
        ([1, "a"], '[1, "a"]'),
        ({"a": {"b": False}}, "a: b: no"),
        ({}, "none"),
        ("text", "text"),
    ],
)
def test_settings_are_text(value, expected):
    assert words.setting(value) == expected


@pytest.mark.parametrize(
    ("similarity", "meaning"),
    [(0.95, "points to a mark"), (0.5, "may be a mark, or a pose"), (0.0, "where the object is")],
)
def test_a_region_is_told_in_words(similarity, meaning):
    region = RegionRecord(
        box=(0, 2, 7, 9),
        label=1,
        mass=0.618,
        area=0.05,
        images=(4, 8),
        maps=40,
        similarity=similarity,
    )
    finding, basis, likeness = words.region_sentences(region, "cat")
    assert "In 2 training images of class “cat”" in finding
    assert "62\u202f% of the positive influence on 5\u202f% of the area" in finding
    assert basis == "Columns 0\N{EN DASH}6, rows 2\N{EN DASH}8; 40 maps looked at."
    assert meaning in likeness
