"""`whence explain` says what is wrong before it loads or computes anything."""

import pytest

from whence import recipes

MODEL = ("--model", "model.py:tiny")


@pytest.fixture
def busy(monkeypatch):
    """Every model that is loaded from here on."""
    loads = []

    def loaded(*words, **settings):
        loads.append(words)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "load_subject", loaded)
    return loads


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--method", "gradeint"), "Did you mean gradient"),
        (("--method", "lrp", "--set", "epsilno=1"), "Did you mean epsilon"),
        (("--set", "steps=many"), "steps takes a whole number"),
        (("--out", "taken.png"), "exists already"),
        (("--out", "full"), "which whence did not write"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(words, says, whence, place, busy):
    (place / "taken.png").write_bytes(b"mine")
    (place / "full").mkdir()
    (place / "full" / "letter.txt").write_text("mine")
    result = whence("explain", "test", *MODEL, *words)
    assert (result.exit_code, says in result.stderr) == (1, True), result.stderr
    assert busy == []


def test_a_stop_leaves_nothing(whence, place, busy):
    before = set(place.iterdir())
    assert whence("explain", "test", *MODEL).exit_code == 130
    assert (len(busy), set(place.iterdir())) == (1, before)


def test_what_was_explained_is_said_where_it_was_chosen(whence, document):
    quick = (*MODEL, "--method", "gradient", "--count", "1", "--overwrite")
    plain = whence("explain", "test", *quick).stdout
    assert "explained " in plain
    assert "1 pass per image" in plain
    words = ("--target", "square", "--versus", "plus")
    assert "explained of square, not plus" in whence("explain", "test", *quick, *words).stdout
    found = document(whence("explain", "test", *quick, *words, "--json"))
    assert (found["target"], found["versus"]) == ("square", "plus")
