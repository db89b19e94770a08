"""Metrics that train networks again, inside an evaluation."""

import copy
import csv
import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import whence
from whence.attribution import InputXGradient
from whence.core import Logit, ModelScalar, TensorData
from whence.errors import DataError, MismatchError, SettingError
from whence.evaluation import DataRandomisation, RandomMap, Retraining
from whence.recipes.roar import roar

SIDE, TRAIN, TEST = 4, 120, 60
ROAR = "roar:shares=0.2 0.5,seeds=2"


class Stopped(BaseException):
    """What Ctrl-C looks like from inside."""


class Pixels(nn.Module):
    """A linear classifier of pixels; its weights are what training gives it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(SIDE * SIDE, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 2 * SIDE * SIDE).view(2, -1))
            self.layer.bias.zero_()

    def forward(self, images):
        return self.layer(images.flatten(1))


@dataclass(frozen=True)
class Planted:
    """The map that names the one informative pixel."""

    def __call__(self, f, images):
        values = torch.zeros_like(images)
        values[:, :, 1, 2] = 1 + 0 * f(images)[:, None]
        return values + 0.01 * RandomMap(seed=5)(f, images)


def least_squares(module, data, seed):
    """Train exactly, with a little noise that is the seed's."""
    made = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    noise = 1e-6 * torch.randn(data.images.shape, generator=generator)
    x = (data.images + noise).flatten(1)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    y = nn.functional.one_hot(data.labels, 2).double()
    weights = torch.linalg.lstsq(x, y, driver="gelsd").solution
    with torch.no_grad():
        made.layer.weight.copy_(weights[:-1].T)
        made.layer.bias.copy_(weights[-1])
    return made


def planted(count, seed):
    """Images of noise whose class is the brightness of the pixel (1, 2)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.rand(count, 1, SIDE, SIDE, generator=generator)
    images[:, 0, 1, 2] = 3.0 * labels - 1
    return TensorData(images=images, labels=labels)


@pytest.fixture
def train():
    return planted(TRAIN, 0)


@pytest.fixture
def test():
    return planted(TEST, 1)


@pytest.fixture
def model(train):
    return least_squares(Pixels().eval(), train, 0)


def run(model, test, train, **options):
    given = {
        "methods": {"planted": Planted(), "gradient": "gradient"},
        "metrics": (ROAR,),
        "train": train,
        "retrain": least_squares,
        "batch_size": 32,
    }
    return whence.evaluate(model, test, **(given | options))


def test_roar_in_an_evaluation_is_roar_itself(model, test, train):
    record = run(model, test, train)
    settings = Retraining(shares=(0.2, 0.5), seeds=2)
    f = ModelScalar(model, Logit(0))
    own, random = (
        [method(f, part.images) for part in (train, test)] for method in (Planted(), RandomMap())
    )
    for name, maps in (("planted", own), ("random-map", random)):
        cells = roar(
            lambda data, seed: least_squares(model, data, seed),
            (train, maps[0]),
            (test, maps[1]),
            settings=settings,
        )
        found = record.score("Pixels", ROAR, name)
        expected = np.mean([cell.accuracies for cell in cells])
        assert found.estimate.mean == pytest.approx(expected)
        np.testing.assert_allclose(
            found.curve.mean[1:], [np.mean(cell.accuracies) for cell in cells]
        )
    whole = record.score("Pixels", ROAR, "planted").curve
    assert whole.fractions.tolist() == [0, 0.2, 0.5]
    assert whole.mean[0] > 0.95  # with all pixels


def test_the_true_map_is_claimed_to_be_better_than_random_and_than_a_poor_method(
    model, test, train
):
    record = run(model, test, train, metrics=("roar:shares=0.1,seeds=3",))
    metric = "roar:shares=0.1,seeds=3"
    assert record.score("Pixels", metric, "planted").verdict == "better"
    assert record.score("Pixels", metric, "planted").estimate.mean < 0.7
    assert record.score("Pixels", metric, "random-map").estimate.mean > 0.8
    kept = run(model, test, train, metrics=("roar:shares=0.8,seeds=3,order=keep",))
    assert kept.score("Pixels", "roar:shares=0.8,seeds=3,order=keep", "planted").verdict == "better"
    assert any(f"of the {TEST} judged images, and as it is" in note for note in record.notes)
    assert not any("little to lose" in note for note in record.notes)


def test_networks_that_learn_nothing_are_told_to_be_little_to_judge_by(model, test, train):
    def lazy(module, data, seed):
        made = copy.deepcopy(module)
        with torch.no_grad():
            made.layer.weight.zero_()
        return made

    record = run(model, test, train, metrics=("roar:shares=0.5,seeds=1",), retrain=lazy)
    assert any("little to lose" in note for note in record.notes)


def test_one_training_allows_no_claim_unless_chance_has_no_part_in_it(model, test, train):
    metric = "roar:shares=0.1,seeds=1"
    once = run(model, test, train, metrics=(metric,))
    found = once.score("Pixels", metric, "planted")
    assert found.verdict == "no claim"
    assert "each was trained once" in found.reason
    assert {one.verdict for one in once.comparisons} == {"no claim"}

    class Features(nn.Module):
        """The last layer needs features before it."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(SIDE * SIDE, 2)

        def forward(self, images):
            return self.layer(images.flatten(1) * 1.0)

    exact = run(
        Features().eval(), test, train, metrics=(metric,), retrain="last-layer:penalty=0.01"
    )
    assert exact.score("Features", metric, "planted").verdict == "better"


def test_a_study_that_was_stopped_goes_on_to_the_same_bytes(model, test, train, tmp_path):
    calls = []

    def counted(module, data, seed):
        calls.append(seed)
        return least_squares(module, data, seed)

    def stopping(at):
        def progress(stage, done, total):
            if stage == "retraining" and done >= at:
                raise Stopped

        return progress

    options = {"metrics": (ROAR, "data-randomisation"), "retrain": counted}
    run(model, test, train, out=tmp_path / "whole", **options)
    every = len(calls)
    assert every == 1 + 2 + 5 * 4  # permuted labels, all pixels, candidates x shares x seeds
    calls.clear()
    for at in (1, 4, 9):
        with pytest.raises(Stopped):
            run(
                model, test, train, out=tmp_path / "cut", resume=at > 1, progress=stopping(at),
                **options,
            )  # fmt: skip
    run(model, test, train, out=tmp_path / "cut", resume=True, **options)
    assert len(calls) == every  # not one training was done twice
    for name in ("values.csv", "table.csv", "comparisons.csv", "table.md", "arrays.npz"):
        whole, cut = ((tmp_path / place / name).read_bytes() for place in ("whole", "cut"))
        assert whole == cut, name
    with pytest.raises(MismatchError, match="train was"):
        run(model, test, planted(TRAIN, 9), out=tmp_path / "cut", resume=True, **options)
    with pytest.raises(MismatchError, match="train_count was null and is 50"):
        run(model, test, train, out=tmp_path / "cut", resume=True, train_count=50, **options)


def test_the_tables_hold_it_and_no_bare_nan(model, test, train, tmp_path):
    maps = {"theirs": torch.rand(TEST, SIDE, SIDE)}
    record = run(model, test, train, maps=maps, out=tmp_path / "out")
    found = record.score("Pixels", ROAR, "theirs")
    assert found.verdict == "not applicable"
    assert "not of the training images" in found.reason
    rows = csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text()))
    by_method = {row["method"]: row for row in rows}
    assert float(by_method["planted"]["difference_high"]) < 0
    for name in ("table.md", "report.html"):
        assert "nan" not in (tmp_path / "out" / name).read_text().lower().replace("nan0", "")
    json.loads((tmp_path / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)


def test_what_cannot_be_trained_is_refused_before_all_work(model, test, train):
    bare = TensorData(images=test.images)
    with pytest.raises(SettingError, match=r"roar trains Pixels again.*--train SOURCE"):
        run(model, test, None)
    with pytest.raises(SettingError, match="--permuted FILE"):
        run(model, test, None, metrics=("data-randomisation",))
    with pytest.raises(DataError, match="roar counts how many images are recognised"):
        run(model, bare, train)
    with pytest.raises(DataError, match="a label for every image"):
        run(model, test, TensorData(images=train.images))
    with pytest.raises(SettingError, match="no metric trains"):
        run(model, test, train, metrics=("gini",))
    with pytest.raises(SettingError, match="train_count is 2 or more"):
        run(model, test, train, train_count=1)
    with pytest.raises(SettingError, match="Did you mean scratch"):
        run(model, test, train, retrain="scrach")


def test_data_randomisation_is_that_of_the_network_that_was_given(model, test):
    other = Pixels().eval()
    record = whence.evaluate(
        model, test, methods=("input-x-gradient",), metrics=("data-randomisation",), permuted=other
    )
    classes = model(test.images).argmax(dim=1)
    expected = DataRandomisation(permuted=other)(
        model, test.images, Logit(classes), InputXGradient()
    )
    found = record.score("Pixels", "data-randomisation", "input-x-gradient")
    np.testing.assert_allclose(found.values, expected.score.numpy(), atol=1e-6)
    assert record.score("Pixels", "data-randomisation", "edge-map").estimate.mean == pytest.approx(
        1
    )
    (metric,) = record.metrics
    assert "Linear" not in metric.text  # a network is no setting


def test_a_network_of_permuted_labels_is_trained_kept_and_its_memory_told(
    model, test, train, tmp_path
):
    options = {"metrics": ("data-randomisation",), "methods": ("gradient",)}
    record = run(model, test, train, out=tmp_path / "out", **options)
    assert (tmp_path / "out" / "cells" / "permuted-00.safetensors").is_file()
    note = next(note for note in record.notes if "by heart" in note)
    assert f"{TRAIN} permuted labels" in note
    assert "train longer" in note  # 17 numbers cannot hold 120 labels

    def refuses(module, data, seed):
        raise AssertionError

    refuses.__qualname__ = least_squares.__qualname__
    again = run(model, test, train, out=tmp_path / "out", resume=True, retrain=refuses, **options)
    assert again.notes == record.notes
