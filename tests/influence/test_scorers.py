from pathlib import Path

import pytest
import torch

from whence.errors import SettingError
from whence.influence import (
    SCORERS,
    Scorer,
    inverse_norm,
    one,
    plain_settings,
    residual,
    scorer_named,
)


def test_names_lead_to_scorers_and_back():
    assert [scorer_named(s.name) for s in SCORERS] == list(SCORERS)
    assert all(isinstance(s, Scorer) for s in SCORERS)
    with pytest.raises(SettingError, match="Choose one of: grad-cos, grad-dot"):
        scorer_named("random")


def test_cosines_divide_by_norms_and_leave_zero_at_zero():
    squared = torch.tensor([4.0, 0.0, 0.25], requires_grad=True)
    residuals = torch.tensor([0.1, 0.2, 0.3])
    weights = inverse_norm(squared, residuals)
    assert weights.tolist() == [0.5, 0.0, 2.0]
    assert inverse_norm(None, residuals).tolist() == [0.0, 0.0, 0.0]
    (slope,) = torch.autograd.grad(weights.sum(), squared)
    assert slope.tolist() == [-1 / 16, 0.0, -4.0]


def test_inner_products_take_the_residuals():
    squared, residuals = torch.tensor([4.0, 0.0]), torch.tensor([0.1, 0.2])
    assert torch.equal(residual(squared, residuals), residuals)
    assert torch.equal(residual(None, residuals), residuals)
    assert torch.equal(one(squared, residuals), torch.ones(2))


def test_settings_are_read_from_texts_by_the_type_of_their_field():
    found = scorer_named("trak", {"damping": "0.5", "space.kind": "sketch", "space.seed": "3"})
    assert (found.damping, found.space.kind, found.space.seed) == (0.5, "sketch", 3)
    assert scorer_named("ekfac", {"damping": "none"}).damping is None
    assert scorer_named("influence", {"preconditioned": "yes"}).preconditioned is True
    assert scorer_named("relatif", {"influence.damping": "0.5"}).influence.damping == 0.5
    assert scorer_named("representation", {"measure": "l2"}).measure == "l2"
    assert scorer_named("representation", {"node": "relu"}).node == "relu"
    assert scorer_named("ekfac") in SCORERS


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ekfac", {"dampning": "1"}, r"ekfac has no setting 'dampning'. Did you mean 'damping'\?"),
        ("ekfac", {"damping": "much"}, "ekfac: damping takes float or 'layer' or none; got 'much'"),
        ("lissa", {"depth": "1.5"}, "lissa: depth takes int; got '1.5'"),
        ("representation", {"measure": "angle"}, "takes 'cos', 'dot', 'l2'; got 'angle'"),
        ("trak", {"space.size": "4"}, "trak: space has no setting 'size'"),
        ("grad-cos", {"damping": "1"}, "grad-cos has no setting 'damping'. Its settings: none"),
        ("ekfac", {"draws": "1"}, "ekfac has no setting 'draws'"),
        ("ekfac", {"name": "other"}, "ekfac has no setting 'name'"),
        ("trackstar", {"mix": "2"}, "mix is a share from 0 to 1"),
    ],
)
def test_settings_that_do_not_exist_or_cannot_be_read_are_told(name, settings, message):
    with pytest.raises(SettingError, match=message):
        scorer_named(name, settings)


def test_plain_settings_are_what_a_record_can_hold():
    assert plain_settings(scorer_named("relatif")) == {
        "influence.damping": None,
        "influence.draws.count": 1,
        "influence.images": None,
        "influence.seed": 0,
        "influence.output": "loss",
        "relative": "loss",
    }
    assert plain_settings(3) == {}


def test_every_score_is_in_the_manual():
    page = Path(__file__).parents[2] / "docs" / "reference" / "scores.md"
    text = page.read_text(encoding="utf-8")
    assert [s.name for s in SCORERS if f"| `{s.name}` | `{type(s).__name__}` |" not in text] == []
