from itertools import product

import pytest
import torch

from whence.core import Loss, Margin
from whence.curvature import (
    Draws,
    EveryClass,
    Margins,
    RandomSigns,
    SampledLabels,
    TrueLabels,
)
from whence.curvature.draws import drawn
from whence.errors import SettingError

EVERY = [SampledLabels(), SampledLabels(3), RandomSigns(2), EveryClass(), TrueLabels(), Margins()]
LOGITS = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.1, -0.4]], dtype=torch.float64)
LABELS = torch.tensor([2, 0])


def slopes(target, logits=LOGITS):
    """The gradient of a target with respect to the logits."""
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(target(logits).sum(), logits)[0]


def moments(draws, numbers, logits=LOGITS):
    """The sum over draws of the second moment of each row's slopes, ``(b, k, k)``."""
    rows = [slopes(t, logits) for t in draws.targets(LABELS, numbers, logits.shape[1])]
    return sum(torch.einsum("bi,bj->bij", row, row) for row in rows)


def softmax_hessian(logits=LOGITS):
    chances = logits.softmax(dim=1)
    return torch.diag_embed(chances) - torch.einsum("bi,bj->bij", chances, chances)


def none(draws, count=2):
    return torch.zeros(count, draws.numbers(3), dtype=torch.float64)


@pytest.mark.parametrize("draws", EVERY, ids=lambda d: d.name)
def test_every_choice_keeps_the_protocol(draws):
    assert isinstance(draws, Draws)
    targets = list(draws.targets(LABELS, none(draws), 3))
    assert len(targets) == draws.passes(3)
    for target in targets:
        whole, one = slopes(target), slopes(target.at(torch.tensor([1])), LOGITS[1:])
        torch.testing.assert_close(whole[1:], one)


def test_every_class_weighed_by_its_probability_gives_the_softmax_s_hessian():
    found = moments(EveryClass(), none(EveryClass()))
    torch.testing.assert_close(found, softmax_hessian(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", [1, 2])
def test_random_signs_give_it_on_average_over_all_signs(count):
    total = 0
    for signs in product((0.0, 0.7), repeat=3 * count):
        numbers = torch.tensor(signs, dtype=torch.float64).expand(2, -1)
        total = total + moments(RandomSigns(count), numbers) / 2 ** (3 * count)
    torch.testing.assert_close(total, softmax_hessian(), rtol=1e-12, atol=1e-14)


def test_sampled_labels_give_it_on_average(generator):
    numbers = (torch.arange(600, dtype=torch.float64) + 0.5) / 600  # every quantile once
    draws = SampledLabels(600)
    found = moments(draws, numbers.expand(2, -1))
    torch.testing.assert_close(found, softmax_hessian(), rtol=0, atol=2e-3)


def test_a_label_is_drawn_where_its_number_falls_among_the_probabilities():
    chances = torch.tensor([[0.2, 0.5, 0.0, 0.3]], dtype=torch.float64)
    numbers = torch.tensor([0.0, 0.1999, 0.2001, 0.6999, 0.7001, 0.9999999])
    found = [int(drawn(chances.log(), numbers[i : i + 1])[0]) for i in range(6)]
    assert found == [0, 0, 1, 1, 3, 3]


def test_an_impossible_class_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for number in (0.0, 0.5, 1 - 1e-16):
        assert int(drawn(logits, torch.tensor([number], dtype=torch.float64))[0]) == 1


def test_true_labels_have_the_slope_of_the_cross_entropy():
    (target,) = TrueLabels().targets(LABELS, none(TrueLabels()), 3)
    torch.testing.assert_close(slopes(target), slopes(Loss(LABELS)), rtol=1e-12, atol=1e-14)


def test_margins_are_the_labels_margins():
    (target,) = Margins().targets(LABELS, none(Margins()), 3)
    torch.testing.assert_close(slopes(target), slopes(Margin(LABELS)))


@pytest.mark.parametrize("draws", [EveryClass(), RandomSigns(), TrueLabels()], ids=lambda d: d.name)
def test_a_confident_model_in_single_precision_keeps_the_direction(draws):
    logits = torch.tensor([[40.0, 1.0, 0.0], [0.0, 30.0, 0.0]], dtype=torch.float64)
    numbers = torch.full((2, draws.numbers(3)), 0.2, dtype=torch.float64)
    for single, double in zip(
        draws.targets(torch.tensor([0, 1]), numbers, 3),
        draws.targets(torch.tensor([0, 1]), numbers, 3),
        strict=True,
    ):
        found, exact = slopes(single, logits.float()).double(), slopes(double, logits)
        assert bool((exact.norm(dim=1) > 0).all())
        cosine = torch.nn.functional.cosine_similarity(found, exact, eps=0)
        torch.testing.assert_close(cosine, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [SampledLabels, RandomSigns])
def test_less_than_one_draw_is_refused(kind):
    with pytest.raises(SettingError, match="at least one draw"):
        kind(0)
