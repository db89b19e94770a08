"""The LDS experiment: its training, its own formulas, and a small run of everything."""

import sys

import pytest
import torch
from torch.nn import functional

from reproductions.lds import __main__ as program
from reproductions.lds import mislabel, report
from reproductions.lds.tasks import TASKS, Digits, Task, digits, small, subsets_of
from reproductions.lds.training import logits_of, margins_of, model_of, trained
from reproductions.lds.truth import Truth
from whence.core import Margin
from whence.evaluation import Datamodeling


@pytest.fixture
def data(generator):
    def make(task):
        return Digits(
            images=torch.randn(task.train, 1, task.side, task.side, generator=generator),
            labels=torch.randint(10, (task.train,), generator=generator),
            query_images=torch.randn(task.queries, 1, task.side, task.side, generator=generator),
            query_labels=torch.randint(10, (task.queries,), generator=generator),
        )

    return make


each_task = pytest.mark.parametrize("task", [small(t) for t in TASKS], ids=lambda t: t.name)


def test_margins_are_those_of_the_target(generator):
    logits = torch.randn(4, 6, 10, generator=generator)
    labels = torch.randint(10, (6,), generator=generator)
    found = margins_of(logits, labels)
    for row in range(4):
        torch.testing.assert_close(found[row], Margin(labels)(logits[row]))


@each_task
def test_subsets_are_halves_and_the_same_every_time(task):
    keep = subsets_of(task)
    assert keep.sum(dim=1).tolist() == [task.train // 2] * task.subsets
    assert torch.equal(keep, subsets_of(task))
    assert len({tuple(row.tolist()) for row in keep}) == task.subsets


@each_task
def test_models_trained_together_are_those_trained_alone(task: Task, data):
    made, keep = data(task), subsets_of(task)[:3]
    together = trained(task, made, keep, [7, 8, 9])[-1]
    alone = trained(task, made, keep[1:2], [8])[-1]
    if task.batch:
        for name, value in alone.items():
            torch.testing.assert_close(together[name][1], value[0], rtol=1e-4, atol=1e-5)
    model = model_of(task, together, 1)
    torch.testing.assert_close(
        logits_of(task, together, made.query_images)[1], model(made.query_images)
    )


def test_stochastic_training_is_that_of_an_ordinary_optimiser(data):
    task = small(next(t for t in TASKS if t.name == "mlp"))
    made, keep = data(task), subsets_of(task)[:1]
    found = model_of(task, trained(task, made, keep, [5])[-1], 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = task.make()
    optimiser = torch.optim.SGD(
        model.parameters(), lr=task.rate, momentum=task.momentum, weight_decay=task.decay
    )
    source = torch.Generator().manual_seed(10_005)
    own = keep[0].nonzero().flatten()
    steps, step = task.epochs * (len(own) // task.batch), 0
    for _ in range(task.epochs):
        order = own[torch.randperm(len(own), generator=source)]
        for start in range(0, len(own) - task.batch + 1, task.batch):
            some = order[start : start + task.batch]
            for group in optimiser.param_groups:
                group["lr"] = task.rate * (1 - step / steps)
            optimiser.zero_grad()
            functional.cross_entropy(model(made.images[some]), made.labels[some]).backward()
            optimiser.step()
            step += 1
    for one, two in zip(model.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_the_logistic_model_is_trained_to_its_minimum(data):
    from dataclasses import replace

    task = replace(small(TASKS[0]), epochs=400, decay=0.3)
    made, keep = data(task), subsets_of(task)[:2]
    weights = trained(task, made, keep, [0, 0])[-1]
    model = model_of(task, weights, 0)
    loss = functional.cross_entropy(model(made.images[keep[0]]), made.labels[keep[0]])
    loss = loss + task.decay / 2 * sum(p.square().sum() for p in model.parameters())
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    assert max(slope.abs().max().item() for slope in slopes) < 1e-4


@each_task
def test_a_tenth_of_the_labels_is_changed_to_another_one(task, data):
    made = data(task)
    changed, wrong = mislabel.flipped(task, made)
    assert int(wrong.sum()) == round(task.train / 10)
    assert torch.equal(changed.labels != made.labels, wrong)


def test_verdicts_follow_the_interval(generator):
    keep = torch.rand(30, 8, generator=generator) < 0.5
    scores = torch.randn(8, 20, generator=generator)
    outputs = (keep.float() @ scores)[:, None]

    truth = Truth(keep=keep, margins=outputs, members=[], seconds=0)
    good = report.judged(truth, scores)
    bad = report.judged(truth, torch.randn(8, 20, generator=generator))
    assert report.verdict(good.above(bad)) == "better"
    assert report.verdict(bad.above(good)) == "worse"
    assert report.verdict(good.above(good)) == "equal"
    expected = Datamodeling()
    expected.update(torch.arange(20), scores, keep, outputs)
    assert good.score.mean == pytest.approx(expected.result().score.mean)


def test_fits_that_differ_widen_the_interval_and_one_fit_is_the_bootstrap_over_queries():
    values = torch.linspace(0, 1, 50).double()[None]
    alone = report.resampled(values)
    same = report.resampled(values.repeat(5, 1))
    assert alone.mean == same.mean == pytest.approx(0.5)
    apart = report.resampled(values + torch.linspace(-0.5, 0.5, 5).double()[:, None])
    assert apart.mean == pytest.approx(0.5)
    assert apart.high - apart.low > 1.5 * (same.high - same.low)
    shift = report.resampled(values + 0.1, values.repeat(3, 1))
    assert (shift.mean, shift.low, shift.high) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.slow
@pytest.mark.reproduction
def test_a_small_run_of_everything_goes_on_where_it_stopped(
    shared_data, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("dattri")
    pytest.importorskip("kronfluence")
    pytest.importorskip("trak")
    monkeypatch.setattr(program, "CURVES", ("grad-dot",))
    page = tmp_path / "page.md"
    command = ["lds", "--small", "--task", "cnn", "--out", str(tmp_path), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", command)
    assert program.main() == 0
    said = capsys.readouterr().out
    for row in ("| grad-dot |", "| ekfac |", "| dattri Grad-Dot |", "| kronfluence EK-FAC |"):
        assert row in page.read_text("utf-8")
    assert program.main() == 0
    again = capsys.readouterr().out
    assert "retrained-0" in said
    assert "retrained-0" not in again


def test_real_digits_have_about_zero_mean_and_unit_variance(shared_data):
    for task in TASKS:
        made = digits(task)
        assert made.images.shape == (task.train, 1, task.side, task.side)
        assert abs(made.images.mean().item()) < 0.1
        assert 0.7 < made.images.std().item() < 1.1
