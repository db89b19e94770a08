"""The internal batch: chosen by memory, measured without spending a pass."""

import pytest
import torch
from torch import nn

from whence.attribution import Gradient, IntegratedGradients
from whence.attribution.batching import Pace, first_rows, memory_budget, planned_rows
from whence.core import ModelScalar, logit

MEBIBYTE = 2**20


class Sizes:
    """A scalar function that notes how many rows it gets at a time."""

    def __init__(self, f, seen):
        self.f, self.seen, self.model = f, seen, f.model

    def __call__(self, images):
        self.seen.append(len(images))
        return self.f(images)

    def at(self, rows):
        return Sizes(self.f.at(rows), self.seen)


def test_a_pass_is_measured_by_what_it_keeps_without_the_weights():
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2560, 2)
    )
    f, images = ModelScalar(model.eval(), logit(0)), torch.rand(6, 3, 8, 8)
    pace = Pace(f=f, images=images, budget=MEBIBYTE)
    with pace.watching(2):
        f(images[:2].clone().requires_grad_())
    # Kept per image, in four bytes each: the input of the convolution, and the output of the
    # ReLU, which is the linear layer's input as well.
    assert pace.size == MEBIBYTE // (4 * (3 * 64 + 40 * 64))


def test_it_is_measured_once_and_not_where_the_user_chose():
    f, images = ModelScalar(nn.Flatten().eval(), logit(0)), torch.rand(6, 3, 8, 8)
    pace = Pace(f=f, images=images, batch_size=3)
    with pace.watching(3):
        f(images)
    assert (pace.size, pace.settled) == (3, True)
    pace = Pace(f=f, images=images, budget=MEBIBYTE)
    with pace.watching(6):
        (images.clone().requires_grad_() ** 2).sum()
    settled = pace.size
    with pace.watching(6):
        values = images.clone().requires_grad_()
        for _ in range(20):
            values = values.sin()
    assert pace.size == settled


def test_spans_cover_every_row_once_and_follow_the_size():
    pace = Pace(
        f=ModelScalar(nn.Flatten().eval(), logit(0)), images=torch.rand(1, 1, 2, 2), batch_size=4
    )
    spans = pace.spans(12)
    first = next(spans)
    pace.size = 5
    assert [first, *spans] == [(0, 4), (4, 9), (9, 12)]
    assert list(pace.spans(3, width=2)) == [(0, 2), (2, 3)]
    assert list(pace.spans(3, width=9)) == [(0, 1), (1, 2), (2, 3)]


def test_the_plan_never_falls_below_one_row_and_allows_for_the_images_themselves():
    images = torch.rand(2, 3, 8, 8)
    assert planned_rows(images, 100, 10**9, 1) == 1
    assert planned_rows(images, 80 * 768, 0, 1) == 10
    assert first_rows(images, 1) == 1
    assert first_rows(images, 3 * 256 * 768) == 3


def test_the_budget_of_a_processor_is_fixed():
    assert memory_budget(torch.device("cpu")) == 192 * MEBIBYTE


@pytest.mark.parametrize("method", [Gradient(), IntegratedGradients(steps=6)])
def test_after_the_first_batch_the_measured_size_is_used(
    method, rectifier, images, classes, monkeypatch
):
    monkeypatch.setattr("whence.attribution.batching.ON_PROCESSOR", 3 * 256 * 1536)
    seen = []
    f = ModelScalar(rectifier(), logit(classes.repeat(8)))
    values = method(Sizes(f, seen), images.repeat(8, 1, 1, 1))
    assert seen[0] == 3, "the first batch is a guess from the size of the images"
    assert max(seen) > 3, "the others are as large as the budget allows"
    passes = 6 if isinstance(method, IntegratedGradients) else 1
    assert sum(seen) == 40 * passes, "no pass is spent on measuring"
    monkeypatch.undo()
    expected = method(ModelScalar(rectifier(), logit(classes)), images)
    torch.testing.assert_close(values, expected.repeat(8, 1, 1, 1), rtol=1e-12, atol=1e-14)


def test_what_fits_goes_at_once(rectifier, images):
    seen = []
    IntegratedGradients(steps=6)(Sizes(ModelScalar(rectifier(), logit(0)), seen), images)
    assert seen == [30]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_budget_is_half_of_what_is_free(rectifier, images):
    device = torch.device("cuda")
    budget, (free, total) = memory_budget(device), torch.cuda.mem_get_info(device)
    assert free // 4 < budget < total
    f = ModelScalar(rectifier().to(device), logit(1))
    method = IntegratedGradients(steps=5)
    expected = method(ModelScalar(rectifier(), logit(1)), images)
    torch.testing.assert_close(method(f, images.to(device)).cpu(), expected)
