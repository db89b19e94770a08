"""Numbers and findings in words."""

import math

import pytest

from whence.report import words
from whence.report.findings import region_sentences
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
    finding, basis, likeness = region_sentences(region, "cat")
    assert "In 2 training images of class “cat”" in finding
    assert "62\u202f% of the positive influence on 5\u202f% of the area" in finding
    assert basis == "Columns 0\N{EN DASH}6, rows 2\N{EN DASH}8; 40 maps looked at."
    assert meaning in likeness


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("examples/nets.py:small", "nets.py:small"),
        ("/some/where/nets.py:Nets.small", "nets.py:Nets.small"),
        ("C:\\nets\\nets.py:small", "nets.py:small"),
        ("nets.py", "nets.py"),
        ("timm/resnet18", "timm/resnet18"),
        ("package.nets:small", "package.nets:small"),
        ("a network / with a .pyramid", "a network / with a .pyramid"),
        ("", ""),
    ],
)
def test_a_model_from_a_file_loses_its_folders(model, expected):
    assert words.brief_name(model) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "IntegratedGradients(steps=32, rule='midpoint', baseline=Zero(), tolerance=None)",
            "IntegratedGradients(steps=32, baseline=Zero, …)",
        ),
        ("InputXGradient(create_graph=False, batch_size=None)", "InputXGradient"),
        ("GradCAM(node='layer4', relu=True)", "GradCAM(node='layer4')"),
        ("GradCAM(node=None, relu=True)", "GradCAM"),
        (
            "SmoothGrad(samples=25, sigma=0.15, method=IntegratedGradients(steps=8, rule='left'))",
            "SmoothGrad(samples=25, method=IntegratedGradients(steps=8, …), …)",
        ),
        ("Blur(3)", "Blur(…)"),
        ("Gradient", "Gradient"),
        ("a method (of mine", "a method (of mine"),
        ("SmoothGrad(noise=<function f at 0x7f>)", "SmoothGrad(noise=<function f at 0x7f>)"),
        ("", ""),
        ("f(" * 500, "f(" * 500),
        ("a\0b", "a\0b"),
    ],
)
def test_a_method_keeps_its_first_setting_and_its_parts(text, expected):
    assert words.brief_method(text) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1.0, 1.0), ""), ((7.0, 7.0), "7 x 7"), ((2.9545, 3.0), "3 x 3"), ((12.5, 13.0), "12 x 13")],
)
def test_cells_are_told_in_pixels(size, expected):
    told = words.cells(*size).replace(TIMES, "x")
    assert told == (f"cells of {expected} pixels" if expected else "")
