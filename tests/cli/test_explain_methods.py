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


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("expected-gradients", ("--set", "samples=6")),
        ("gradient-shap", ("--set", "samples=6")),
        ("soundness-saliency", ("--set", "steps=4", "--set", "draws=2")),
    ],
)
def test_fills_are_drawn_from_images_that_are_given(method, settings, whence, place, document):
    words = ("explain", "test", *MODEL, "--method", method, *settings, "--json")
    document(whence(*words, "--out", "plain"))
    document(whence(*words, "--references", "train", "--out", "bank"))
    document(whence(*words, "--references", "train", "--out", "again"))
    plain, bank, again = (
        np.stack([one.values for one in load_explanation(place / out).maps])
        for out in ("plain", "bank", "again")
    )
    assert not np.allclose(bank, plain)
    assert np.array_equal(bank, again)


def test_references_are_refused_by_methods_that_draw_none(whence):
    result = whence("explain", "test", *MODEL, "--method", "lrp", "--references", "train")
    assert result.exit_code == 1
    assert "--references are for methods that draw from a bank" in result.output.replace("\n", " ")


def test_a_method_that_does_not_search_says_nothing_of_it(whence, place, document):
    found = document(whence("explain", "test", *MODEL, "--json"))
    assert {one["found"] for one in found["images"]} == {None}
    assert "Search" not in (place / "explain-test" / "report.html").read_text()


@pytest.mark.parametrize(
    "method",
    [c.name for c in cards() if c.family in RULES and c.name != "x-gradient"],
    ids=lambda name: name,
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
