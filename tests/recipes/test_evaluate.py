import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import whence
from whence.attribution import Gradient, attribute
from whence.core import Logit, ModelScalar, Probability, TensorData
from whence.errors import DataError, MismatchError, NumericsError, OutputError, SettingError
from whence.evaluation import Deletion, Mean, PointingGame
from whence.evaluation.bootstrap import Bootstrap
from whence.results.evaluation import load_evaluation

SIDE, COUNT = 8, 14
METHODS = ("gradient", "integrated-gradients:steps=4")
METRICS = ("deletion:steps=4", "gini", "spearman")


class Stopped(BaseException):
    """What Ctrl-C or a signal looks like from inside."""


def network(seed=0, channels=4):
    net = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, 3),
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return net


@pytest.fixture
def net():
    return network()


@pytest.fixture
def data(generator):
    images = torch.randn(COUNT, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(COUNT) % 3
    return TensorData(images=images, labels=labels, names=tuple(f"i{k}" for k in range(COUNT)))


@pytest.fixture
def masks():
    found = torch.zeros(COUNT, 1, SIDE, SIDE)
    found[:, :, 2:5, 2:5] = 1
    return found


def run(net, data, **options):
    given = {"methods": METHODS, "metrics": METRICS, "batch_size": 4, "count": 100} | options
    return whence.evaluate(net, data, **given)


def test_values_are_the_metrics_own_whatever_the_batches(net, data):
    classes = net(data.images).argmax(dim=1)
    maps = attribute(Gradient(), ModelScalar(net, Logit(classes)), data.images).values
    f = ModelScalar(net, Probability(classes))
    expected = Deletion(steps=4)(f, data.images, maps)
    for size in (3, 14):
        found = run(net, data, batch_size=size).score("Sequential", "deletion:steps=4", "gradient")
        np.testing.assert_allclose(found.values, expected.numpy(), rtol=1e-5)
    mean = Mean()
    mean.update(torch.arange(COUNT), torch.from_numpy(found.values))
    assert found.estimate.mean == pytest.approx(mean.result().mean)
    assert found.estimate.low == mean.result().low


def test_the_value_that_metrics_look_at_is_the_one_asked_for(net, data):
    classes = net(data.images).argmax(dim=1)
    maps = attribute(Gradient(), ModelScalar(net, Logit(classes)), data.images).values
    expected = Deletion(steps=4)(ModelScalar(net, Logit(classes)), data.images, maps)
    found = run(net, data, value="logit").score("Sequential", "deletion:steps=4", "gradient")
    np.testing.assert_allclose(found.values, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_controls_stand_in_every_table_and_methods_are_compared_with_them(net, data):
    record = run(net, data, controls=("centre-map",))
    kinds = {one.name: one.kind for one in record.methods}
    assert {name for name, kind in kinds.items() if kind == "control"} == {
        "random-map",
        "constant-map",
        "edge-map",
        "centre-map",
    }
    own = record.score("Sequential", "deletion:steps=4", "gradient")
    random = record.score("Sequential", "deletion:steps=4", "random-map")
    assert random.verdict == "control"
    expected = Bootstrap().compare(
        torch.from_numpy(own.values), torch.from_numpy(random.values), "lower"
    )
    assert (own.verdict, own.reason) == (expected.verdict, expected.reason)
    assert own.difference.mean == pytest.approx(expected.difference.mean)


def test_a_random_map_of_another_maker_is_not_called_better_than_chance(net, data, generator):
    noise = torch.randn(COUNT, SIDE, SIDE, generator=generator)
    record = run(net, data, maps={"theirs": noise}, methods=(), metrics=("deletion:steps=4",))
    found = record.score("Sequential", "deletion:steps=4", "theirs")
    assert found.verdict == "no claim"
    assert "covers 0" in found.reason


def test_maps_that_are_given_are_judged_as_a_method_that_makes_them(net, data):
    classes = net(data.images).argmax(dim=1)
    maps = attribute(Gradient(), ModelScalar(net, Logit(classes)), data.images).values
    record = run(net, data, maps={"theirs": maps})
    for metric in METRICS[:2]:
        ours, theirs = (
            record.score("Sequential", metric, name).values for name in ("gradient", "theirs")
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    pair = next(
        one for one in record.agreements if {one.first[1], one.second[1]} == {"gradient", "theirs"}
    )
    np.testing.assert_allclose(pair.values, 1.0)


def test_faults_of_maps_and_masks_are_counted_with_their_reasons(net, data, masks, generator):
    maps = torch.randn(COUNT, SIDE, SIDE, generator=generator)
    maps[1], maps[2], maps[3, 0, 0] = 0, 5, torch.inf
    masks[7] = 0
    record = run(net, data, maps={"theirs": maps}, masks=masks, metrics=("relevance-mass", "gini"))
    mass = record.score("Sequential", "relevance-mass", "theirs")
    assert mass.undefined == {
        "the map is not finite": 1,
        "the map is zero everywhere": 1,
        "the mask is empty": 1,
    }
    assert mass.estimate.count == COUNT - 3
    assert np.isnan(mass.values).nonzero()[0].tolist() == [1, 3, 7]
    assert any("the map is constant (1 image)" in note for note in record.notes)


def test_what_does_not_apply_is_said_and_the_rest_goes_on(net, data):
    record = run(
        net,
        data,
        methods=("attention-rollout", "gradient"),
        metrics=("gini", "pointing-game", "random-logit"),
        maps={"small": torch.ones(COUNT, 4, 4), "theirs": torch.randn(COUNT, SIDE, SIDE)},
    )
    rollout = record.score("Sequential", "gini", "attention-rollout")
    assert (rollout.verdict, rollout.estimate) == ("not applicable", None)
    assert "no attention" in rollout.reason
    assert "needs masks" in record.score("Sequential", "pointing-game", "gradient").reason
    assert "(4, 4) pixels" in record.score("Sequential", "gini", "small").reason
    assert "made again" in record.score("Sequential", "random-logit", "theirs").reason
    assert record.score("Sequential", "gini", "gradient").estimate is not None


def test_a_method_whose_maps_break_on_one_image_keeps_the_others(net, data):
    class Breaking:
        def __call__(self, f, images):
            values = Gradient()(f, images)
            values[(images == data.images[5]).flatten(1).all(dim=1)] = torch.nan
            return values

    record = run(net, data, methods={"mine": Breaking()}, metrics=("gini",))
    found = record.score("Sequential", "gini", "mine")
    assert np.isnan(found.values).nonzero()[0].tolist() == [5]
    assert found.undefined == {"the map is not finite": 1}


def test_a_method_that_breaks_on_changes_of_one_image_keeps_the_others(net, data):
    class Breaking:
        def __call__(self, f, images):
            values = Gradient()(f, images)
            near = (images - data.images[5]).abs().flatten(1).amax(dim=1) < 0.2
            same = (images == data.images[5]).flatten(1).all(dim=1)
            values[near & ~same] = torch.nan
            return values

    metrics = ("max-sensitivity:samples=2,radius=0.01", "gini")
    record = run(net, data, methods={"mine": Breaking()}, metrics=metrics)
    found = record.score("Sequential", metrics[0], "mine")
    assert np.isnan(found.values).nonzero()[0].tolist() == [5]
    ((reason, count),) = found.undefined.items()
    assert "NaN or infinite" in reason
    assert (count, found.estimate.count) == (1, COUNT - 1)
    assert record.score("Sequential", "gini", "mine").estimate.count == COUNT


def test_several_networks_are_judged_on_the_same_images_and_their_maps_compared(data):
    models = {"one": network(0), "two": network(1, channels=6)}
    record = run(models, data)
    assert [one.name for one in record.networks] == ["one", "two"]
    labels = data.labels
    for name, net in models.items():
        right = (net(data.images).argmax(dim=1) == labels).double().mean()
        own = next(one for one in record.networks if one.name == name)
        assert own.accuracy == pytest.approx(float(right))
    across = [one for one in record.agreements if one.first[0] != one.second[0]]
    assert {one.first[1] for one in across} == {one.name for one in record.methods}
    assert all(one.first[1] == one.second[1] for one in across)


def interrupted(after):
    def progress(stage, done, total):
        if done > after:
            raise Stopped

    return progress


@pytest.mark.parametrize("after", [0, 3, 11, 30])
def test_an_evaluation_that_was_killed_goes_on_to_the_same_bytes(net, data, tmp_path, after):
    run(net, data, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        run(net, data, out=tmp_path / "cut", progress=interrupted(after))
    kept = len(list((tmp_path / "cut" / "cells").iterdir()))
    (tmp_path / "cut" / "cells" / "00000-00-000.json").write_text("{")  # a torn write, at worst
    run(net, data, out=tmp_path / "cut", resume=True)
    assert kept < len(list((tmp_path / "cut" / "cells").iterdir()))
    for name in ("values.csv", "table.csv", "table.md", "arrays.npz", "settings.json"):
        whole, cut = ((tmp_path / place / name).read_bytes() for place in ("whole", "cut"))
        assert whole == cut, name


def test_finished_cells_are_not_done_again(net, data, tmp_path):
    calls = []

    class Counting:
        def __call__(self, f, images):
            calls.append(len(images))
            return Gradient()(f, images)

        def __repr__(self):
            return "Counting()"

    options = {"methods": {"mine": Counting()}, "metrics": ("gini",), "out": tmp_path / "out"}
    run(net, data, **options)
    before = len(calls)
    run(net, data, resume=True, **options)
    assert len(calls) == before


def test_a_folder_of_another_evaluation_is_refused_with_what_differs(net, data, tmp_path):
    out = tmp_path / "out"
    run(net, data, out=out)
    with pytest.raises(OutputError, match="holds an evaluation already"):
        run(net, data, out=out)
    with pytest.raises(MismatchError, match=r"target was \"predicted\" and is \"label\""):
        run(net, data, out=out, resume=True, target="label")
    with pytest.raises(MismatchError, match="networks was"):
        run(network(5), data, out=out, resume=True)
    other = TensorData(images=data.images + 1, labels=data.labels, names=data.names)
    with pytest.raises(MismatchError, match="data was"):
        run(net, other, out=out, resume=True)
    run(net, data, out=out, overwrite=True, target="label")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        run(net, data, out=out, overwrite=True)


def test_the_record_comes_back_from_its_folder_and_the_tables_hold_it(net, data, tmp_path):
    record = run(net, data, out=tmp_path / "out")
    again = load_evaluation(tmp_path / "out")
    assert again.images == data.names
    for one, other in zip(record.scores, again.scores, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert (one.estimate, one.difference, one.verdict) == (
            other.estimate,
            other.difference,
            other.verdict,
        )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "values.csv").read_text())))
    found = [
        float(row["value"])
        for row in rows
        if (row["metric"], row["method"], row["other"]) == ("gini", "gradient", "")
    ]
    assert found == record.score("Sequential", "gini", "gradient").values.tolist()
    scores = csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text()))
    assert len(list(scores)) == len(record.scores)


def test_no_table_and_no_document_has_a_bare_nan(net, data, tmp_path):
    maps = torch.full((COUNT, SIDE, SIDE), torch.nan)
    run(net, data, maps={"theirs": maps}, out=tmp_path / "out")
    for name in ("table.md", "table.csv", "values.csv", "report.html"):
        assert "nan" not in (tmp_path / "out" / name).read_text().lower().replace("nan0", ""), name
    json.loads((tmp_path / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)


def test_curves_have_bands_whose_area_is_the_mean(net, data):
    found = run(net, data).score("Sequential", "deletion:steps=4", "gradient")
    area = float(np.trapezoid(found.curve.mean, found.curve.fractions))
    assert area == pytest.approx(found.estimate.mean, rel=1e-6)
    assert (found.curve.low <= found.curve.mean).all()
    assert (found.curve.mean <= found.curve.high).all()


def test_ranks_follow_the_better_direction_and_share_ties(net, data):
    record = run(net, data)
    means = {
        one.method: one.estimate.mean for one in record.scores if one.metric == "deletion:steps=4"
    }
    ranks = record.ranks("Sequential", "deletion:steps=4")
    assert min(means, key=means.get) == min(ranks, key=ranks.get)
    assert sum(ranks.values()) == pytest.approx(math.comb(len(ranks) + 1, 2))
    assert record.ranks("Sequential", "gini") == {}


def test_few_images_allow_no_claim(net, data):
    record = run(net, data, count=3)
    found = record.score("Sequential", "deletion:steps=4", "gradient")
    assert found.verdict == "no claim"
    assert "a claim needs 6" in found.reason


def test_settings_for_all_reach_each_that_has_them(net, data):
    record = run(
        net,
        data,
        methods=("integrated-gradients", "gradient"),
        metrics=("deletion", "insertion:steps=3", "gini"),
        method_settings={"steps": "5"},
        metric_settings={"steps": "4"},
    )
    texts = {one.name: one.text for one in (*record.methods, *record.metrics)}
    assert "steps=5" in texts["integrated-gradients"]
    assert "steps=4" in texts["deletion"]
    assert "steps=3" in texts["insertion:steps=3"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": ("deletoin",)}, SettingError, "Did you mean deletion"),
        ({"metrics": ("deletion:step=3",)}, SettingError, "Did you mean 'steps'"),
        ({"metrics": ("deletion:fill=blck",)}, SettingError, "Did you mean 'black'"),
        ({"metrics": ("deletion:steps=many",)}, SettingError, "whole number"),
        ({"methods": ("gradeint",)}, SettingError, "Did you mean gradient"),
        ({"methods": ("gradient", "gradient:batch_size=2"), "controls": ("x",)}, SettingError, "x"),
        ({"methods": ()}, SettingError, "nothing to judge"),
        ({"metrics": ()}, SettingError, "nothing to measure"),
        ({"method_settings": {"stepz": "3"}}, SettingError, "No method has the setting 'stepz'"),
        ({"metric_settings": {"stepz": "3"}}, SettingError, "No metric has the setting 'stepz'"),
        ({"value": "odds"}, SettingError, "value is one of"),
        ({"count": 0}, SettingError, "at least 1"),
        ({"maps": {"theirs": torch.ones(3, SIDE, SIDE)}}, DataError, "one for each of the 14"),
        ({"maps": {"gradient": torch.ones(COUNT, SIDE, SIDE)}}, SettingError, "called 'gradient'"),
        ({"masks": torch.ones(3, 1, SIDE, SIDE)}, DataError, "one for each of the 14 images"),
        ({"masks": torch.full((COUNT, 1, SIDE, SIDE), 0.5)}, DataError, "Threshold soft masks"),
        ({"metrics": {"mine": object()}}, SettingError, "no metric of the catalogue"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said_before_any_work(net, data, options, error, message):
    with pytest.raises(error, match=message):
        run(net, data, progress=pytest.fail, **options)


def test_labels_are_needed_where_they_are_explained(net, data):
    bare = TensorData(images=data.images)
    with pytest.raises(DataError, match="needs a label for every image"):
        run(net, bare, target="label")


def test_metrics_may_be_values_of_yours(net, data, masks):
    record = run(net, data, metrics={"near": PointingGame(tolerance=2)}, masks=masks)
    assert "tolerance=2" in record.metrics[0].text


def test_the_model_comes_back_as_it_was(net, data, untouched):
    with untouched(net):
        run(net, data, metrics=(*METRICS, "mprt"))


def test_a_network_that_gives_nothing_but_nan_ends_the_evaluation_with_the_place(data):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            return self.inner(images) * float("nan")

    with pytest.raises(NumericsError, match="It began in 'mul"):
        run(Broken().eval(), data)


def test_a_network_that_gives_nan_for_one_image_keeps_the_others(net, data):
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            bad = (images == data.images[5]).flatten(1).all(dim=1)
            return torch.where(bad[:, None], torch.nan, self.inner(images))

    record = run(Fragile().eval(), data, methods=("gradient",), metrics=("deletion:steps=4",))
    for name in ("gradient", "random-map"):
        found = record.score("Fragile", "deletion:steps=4", name)
        assert np.isnan(found.values).nonzero()[0].tolist() == [5], name
        assert sum(found.undefined.values()) == 1


def test_an_evaluation_that_could_not_begin_leaves_no_folder_in_the_way(data, tmp_path):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            return self.inner(images) / 0 * 0

    with pytest.raises(NumericsError):
        run(Broken().eval(), data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(network(), data, out=tmp_path / "out")
