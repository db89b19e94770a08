"""One error tree, and the drawing of it."""

import builtins
import re

import pytest

from whence import errors
from whence.errors import MissingExtra, WhenceError

NAMES = [name for name in errors.__all__ if name != "WhenceError"]


def drawn():
    """Return what the docstring's tree says: error -> builtin."""
    return dict(re.findall(r"[├└]── (\w+) \((\w+)\)", errors.__doc__))


@pytest.mark.parametrize("name", NAMES)
def test_every_error_is_a_whence_error_and_the_builtin_that_the_tree_says(name):
    error = getattr(errors, name)
    assert error.__mro__[1] is WhenceError
    assert error.__mro__[2:3] != (Exception,)
    assert issubclass(error, getattr(builtins, drawn()[name]))
    assert error.__bases__ == (WhenceError, getattr(builtins, drawn()[name]))


def test_the_tree_draws_every_error_once():
    assert sorted(drawn()) == sorted(NAMES)


def test_every_error_defined_here_is_public():
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_error_carries_one_message(name):
    error = getattr(errors, name)
    made = error("captum", "parity", "The oracle") if error is MissingExtra else error("what came")
    assert str(made)
    with pytest.raises(WhenceError):
        raise made


def test_a_missing_extra_gives_the_line_to_type():
    error = MissingExtra("timm", "timm", "Reading timm/vit_tiny_patch16_224")
    assert str(error) == (
        "Reading timm/vit_tiny_patch16_224 needs timm, which is not installed. "
        "Install it with:  pip install 'whence[timm]'"
    )
    assert error.extra == "timm"
