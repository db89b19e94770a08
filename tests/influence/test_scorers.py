import pytest
import torch

from whence.errors import SettingError
from whence.influence import SCORERS, Scorer, inverse_norm, one, residual, scorer_named


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
