"""`whence explain` with methods that search, and with contrasts of two classes."""

import numpy as np
import pytest

from whence.attribution import cards
from whence.results import load_explanation

MODEL = ("--model", "model.py:tiny")
QUICK = ("--set", "steps=20", "--set", "searches=3", "--set", "rate=0.3", "--set", "sparsity=1e-4")
RULES = ("gradient", "path", "relevance")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("pertinent-negatives", QUICK),
        ("pertinent-positives", QUICK),
        ("extremal-perturbation", ("--set", "steps=10", "--set", "area=0.1,0.3")),
    ],
)
def test_a_search_says_of_each_image_whether_it_succeeded(
    method, settings, whence, place, document
):
    words = ("explain", "test", *MODEL, "--method", method, *settings)
    found = [one["found"] for one in document(whence(*words, "--json"))["images"]]
    assert set(found) <= {True, False}
    record = load_explanation(place / "explain-test")
    assert [one.found for one in record.maps] == found
    report = (place / "explain-test" / "report.html").read_text()
    assert report.count("<dt>Search</dt><dd>succeeded</dd>") == sum(found)
    assert report.count("<dt>Search</dt><dd>failed</dd>") == len(found) - sum(found)
    shown = whence(*words, "--out", "again").stdout
    assert shown.count("the search succeeded") == sum(found)
    assert shown.count("the search failed") == len(found) - sum(found)


def test_a_method_that_does_not_search_says_nothing_of_it(whence, place, document):
    found = document(whence("explain", "test", *MODEL, "--json"))
    assert {one["found"] for one in found["images"]} == {None}
    assert "Search" not in (place / "explain-test" / "report.html").read_text()


@pytest.mark.parametrize(
    "method", [card.name for card in cards() if card.family in RULES], ids=lambda name: name
)
def test_a_contrast_of_two_classes_is_explained_by_every_gradient_and_rule_method(
    method, whence, place, document
):
    words = ("explain", "test", *MODEL, "--method", method, "--target", "square")

    def explained(*versus, out):
        images = document(whence(*words, *versus, "--out", out, "--json"))["images"]
        return np.array([one["explained"] for one in images])

    contrast = explained("--versus", "plus", out="contrast")
    own = explained(out="own")
    assert np.abs(contrast - own).min() > 1e-4
    maps = [load_explanation(place / out).maps for out in ("contrast", "own")]
    assert all(np.isfinite(one.values).all() for one in maps[0])
    assert any(not np.allclose(a.values, b.values) for a, b in zip(*maps, strict=True))
