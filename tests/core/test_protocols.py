"""What a user's own method or statistic must look like, and no more."""

import torch

from whence.core import Method, MethodCard, ModelScalar, Progress, Statistic, logit, silent


def plain_gradient(f, images):
    """A method can be a function."""
    leaf = images.detach().requires_grad_()
    return torch.autograd.grad(f(leaf).sum(), leaf)[0]


class Mean:
    """A statistic in full."""

    def __init__(self, total=0.0, count=0):
        self.total, self.count = total, count

    def update(self, *batch):
        self.total += sum(batch)
        self.count += len(batch)

    def merge(self, other):
        return Mean(self.total + other.total, self.count + other.count)

    def result(self):
        return self.total / self.count


def test_a_plain_function_is_a_method():
    f = ModelScalar(lambda images: images.flatten(1) ** 2, logit(2))
    images = torch.arange(8.0).reshape(2, 1, 2, 2)
    values = plain_gradient(f, images)
    assert isinstance(plain_gradient, Method)
    assert values.flatten(1).tolist() == [[0, 0, 4, 0], [0, 0, 12, 0]]


def test_a_statistic_has_update_merge_and_result():
    left, right, whole = Mean(), Mean(), Mean()
    left.update(1.0, 2.0)
    right.update(6.0)
    whole.update(1.0, 2.0, 6.0)
    assert isinstance(whole, Statistic)
    assert left.merge(right).result() == whole.result() == 3.0
    assert not isinstance(object(), Statistic)


def test_silence_is_progress():
    assert isinstance(silent, Progress)
    assert silent("reading", 1, 2) is None


def test_a_methods_card_can_be_compared_and_hashed():
    facts = {"family": "gradient", "passes": "1", "needs": "any callable", "complete": "no"}
    one = MethodCard(name="gradient", reference="Simonyan et al. (2014)", **facts)
    assert one == MethodCard(name="gradient", reference="Simonyan et al. (2014)", **facts)
    assert len({one, one}) == 1
