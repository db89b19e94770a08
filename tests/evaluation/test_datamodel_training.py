import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from whence.core import Statistic
from whence.errors import DataError, SettingError, ShapeError
from whence.evaluation import Brittleness, ScoreRandomisation, TailPatch, reinitialised


@pytest.fixture
def model(generator):
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


@pytest.fixture
def images(generator):
    return torch.randn(7, 1, 3, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 0, 1, 2, 0])


@pytest.fixture
def queries(generator):
    return torch.randn(4, 1, 3, 3, generator=generator, dtype=torch.float64)


CLASSES = torch.tensor([2, 0, 1, 1])


def loss_gradient(model, image, label):
    loss = functional.cross_entropy(model(image[None]), torch.tensor([int(label)]))
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("k", [1, 3])
def test_a_tail_patch_is_the_change_by_one_optimiser_step(
    model, images, labels, queries, generator, k, untouched
):
    import copy

    scores = torch.randn(7, 4, generator=generator)
    with untouched(model):
        found = TailPatch(k=k, rate=0.05)(model, images, labels, queries, CLASSES, scores)
    for q in range(4):
        before = model(queries[q : q + 1]).log_softmax(dim=1)[0, CLASSES[q]]
        rises = []
        for i in scores[:, q].argsort(descending=True)[:k]:
            trained = copy.deepcopy(model)
            optimiser = torch.optim.SGD(trained.parameters(), lr=0.05)
            functional.cross_entropy(trained(images[i : i + 1]), labels[i : i + 1]).backward()
            optimiser.step()
            after = trained(queries[q : q + 1]).log_softmax(dim=1)[0, CLASSES[q]]
            rises.append((after - before).item())
        assert found[q].item() == pytest.approx(sum(rises) / k, abs=1e-12)


def test_a_small_tail_patch_is_the_gradients_inner_product(model, images, labels, queries):
    dots = torch.zeros(7, 4)
    for q in range(4):
        own = loss_gradient(model, queries[q], CLASSES[q])
        for i in range(7):
            other = loss_gradient(model, images[i], labels[i])
            dots[i, q] = sum((a * b).sum() for a, b in zip(own, other, strict=True))
    patch = TailPatch(rate=1e-6)
    found = patch(model, images, labels, queries, CLASSES, dots)
    torch.testing.assert_close(found.float() / 1e-6, dots.amax(dim=0), rtol=1e-4, atol=1e-4)
    lowest = patch(model, images, labels, queries, CLASSES, -dots)
    assert (lowest < found).all()


def test_tail_patches_refuse_what_does_not_fit(model, images, labels, queries):
    with pytest.raises(ShapeError, match="7 training images and 4 queries"):
        TailPatch()(model, images, labels[1:], queries, CLASSES, torch.zeros(7, 4))
    with pytest.raises(ShapeError, match="one for each"):
        TailPatch()(model, images[1:], labels, queries, CLASSES, torch.zeros(7, 4))
    with pytest.raises(SettingError, match="above 0"):
        TailPatch(rate=0)
    with pytest.raises(SettingError, match="1 or more"):
        TailPatch(k=0)


def logits_of(margins):
    """Two classes, with these log-odds for the first."""
    margins = torch.tensor(margins)
    return torch.stack([margins, torch.zeros_like(margins)], dim=-1)


def test_brittleness_counts_flips_and_changes_of_the_predicted_margin():
    before = logits_of([2.0, -1.0])
    after = logits_of([[-1.0, -3.0], [1.0, -2.0]])
    control = logits_of([[2.0, -1.0]])
    statistic = Brittleness()
    statistic.update(torch.arange(2), before, after, control)
    found = statistic.result()
    # query 0: one of two flips, margins 2 -> -1 and 1; query 1, of the other class: 1 -> 3 and 2
    assert found.flips.mean == pytest.approx(0.25)
    assert found.change.mean == pytest.approx((-2.0 + 1.5) / 2)
    assert (found.control_flips.mean, found.control_change.mean) == (0, 0)
    assert found.excess.mean == pytest.approx((2.0 - 1.5) / 2)
    assert isinstance(statistic, Statistic)


@given(st.data())
def test_the_whole_is_the_merger_of_its_parts_however_it_is_cut(data):
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(6, 3, generator=generator)
    after = torch.randn(2, 6, 3, generator=generator)
    control = torch.randn(3, 6, 3, generator=generator)
    order = torch.tensor(data.draw(st.permutations(range(6))))
    cut = data.draw(st.integers(1, 5))
    whole, left, right = Brittleness(), Brittleness(), Brittleness()
    whole.update(torch.arange(6), before, after, control)
    for part, rows in ((left, order[:cut]), (right, order[cut:])):
        part.update(rows, before[rows], after[:, rows], control[:, rows])
    merged = left.merge(right)
    for name in ("flips", "change", "control_flips", "control_change", "excess"):
        found, expected = getattr(merged, name).values, getattr(whole, name).values
        assert found == pytest.approx(expected)
    assert len(left.flips.values) == cut


def test_brittleness_needs_a_retrained_model():
    before = logits_of([2.0])
    with pytest.raises(DataError, match="got 0 without the highest images and 1"):
        Brittleness().update(torch.arange(1), before, before[None][:0], before[None])


def test_score_randomisation_is_the_rank_correlation_of_both_scores(generator):
    scores = torch.randn(50, 3, generator=generator)
    assert ScoreRandomisation()(scores, scores.exp()).tolist() == pytest.approx([1] * 3)
    assert ScoreRandomisation()(scores, -scores).tolist() == pytest.approx([-1] * 3)
    other = torch.randn(2000, 3, generator=generator)
    found = ScoreRandomisation()(torch.randn(2000, 3, generator=generator), other)
    assert found.abs().max().item() < 0.08
    with pytest.raises(ShapeError, match="under both models"):
        ScoreRandomisation()(scores, other)


def test_a_reinitialised_model_is_another_one_with_weights_of_the_same_size(model, untouched):
    with untouched(model):
        copied = reinitialised(model, seed=3)
    pairs = list(zip(model.parameters(), copied.parameters(), strict=True))
    for own, other in pairs:
        assert not torch.equal(own, other)
    sizes = [(a.square().mean().sqrt() / b.square().mean().sqrt()).item() for a, b in pairs]
    assert all(0.3 < size < 3 for size in sizes)
    torch.testing.assert_close(
        reinitialised(model, seed=3).state_dict(), copied.state_dict(), rtol=0, atol=0
    )
