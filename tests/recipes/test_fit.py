"""Training from end to end: what is compared, what is chosen, what is said, what is kept."""

import csv
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from whence.adapters.training import TrainingSettings
from whence.attribution import GradCAM, InputXGradient, Occlusion
from whence.convert import load_x_dnn, save_x_dnn, x_dnn
from whence.core import TensorData
from whence.errors import (
    DataError,
    MismatchError,
    NumericsError,
    OutputError,
    SettingError,
    ShapeError,
    UnsupportedOperation,
)
from whence.network import Network
from whence.priors import GiniSparsity, Magnitude, MaskEnergy, OutsideMask, Prior
from whence.recipes.fit import fit
from whence.recipes.fit_data import held_out
from whence.recipes.fit_record import fit_text
from whence.recipes.head import with_new_head

SIDE = 6


def tensors(count, seed, shares=(0.5, 0.5)):
    """A bright column for one class, a bright row for the other."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.tensor(
        [k for k, share in enumerate(shares) for _ in range(round(share * count))]
    )
    images = 0.3 * torch.randn(len(labels), 1, SIDE, SIDE, generator=drawn)
    images[labels == 0, :, :, 2] += 1
    images[labels == 1, :, 3] += 1
    return TensorData(images=images, labels=labels, classes=("column", "row"), title=f"bars {seed}")


def network():
    drawn = torch.Generator().manual_seed(4)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(64, 2)
    )
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=drawn))
    return net.eval()


@pytest.fixture
def run(tmp_path):
    def fit_(model=None, folder="run", train=None, validation=None, epochs=2, rate=1e-2, **options):
        settings = {k: options.pop(k) for k in ("vary", "seed", "patience") if k in options}
        return fit(
            network() if model is None else model,
            tensors(60, 0) if train is None else train,
            tensors(30, 1) if validation is None else validation,
            out=tmp_path / folder,
            settings=TrainingSettings(epochs=epochs, batch_size=20, rate=rate, **settings),
            **options,
        )

    return fit_


def gini(weight=1.0):
    return Prior(method=InputXGradient(), penalty=GiniSparsity(), weight=weight)


def test_without_a_prior_there_is_one_training_and_the_model_is_untouched(run, tmp_path, untouched):
    model = network()
    with untouched(model):
        record = run(model, epochs=4)
    assert [row.name for row in record.rows] == ["no prior"] == [record.chosen]
    assert record.after.accuracy > max(record.before.accuracy, 0.9)
    made = network()
    made.load_state_dict(load_file(tmp_path / "run" / "weights.safetensors"))
    data = tensors(30, 1)
    right = (made(data.images).argmax(dim=1) == data.labels).double().mean().item()
    assert right == record.after.accuracy == record.after.contrast[0]


def test_with_a_prior_the_controls_are_always_in_the_table(run):
    record = run(prior=gini(), weights=(1.0, 0.1, 1.0))
    assert [row.name for row in record.rows] == [
        "no prior",
        "no prior, bias-free",
        "weight 0.1",
        "weight 1",
    ]
    assert [row.bias_free for row in record.rows] == [False, True, False, False]
    assert [math.isnan(row.penalty) for row in record.rows] == [True, True, False, False]
    with_prior = [row for row in record.rows if row.weight]
    best = max(with_prior, key=lambda row: (row.validation_accuracy, -row.weight))
    assert record.chosen == best.name


def test_of_an_x_dnn_the_control_is_the_training_without_a_prior(run):
    record = run(convert=True, prior=gini(0.3))
    assert [row.name for row in record.rows] == ["no prior, bias-free", "weight 0.3"]
    assert record.before.homogeneous is False
    assert record.after.homogeneous is True
    assert record.after.scale_error < 1e-5
    assert record.after.at_zero == 0
    assert len(set(record.after.contrast)) == 1


def test_a_prior_lowers_its_penalty(run):
    left = torch.zeros(1, 1, SIDE, SIDE)
    left[..., :3] = 1
    prior = Prior(method=InputXGradient(), penalty=OutsideMask(masks=left))
    record = run(convert=True, epochs=6, prior=prior, weights=(1e-6, 3.0))
    weak, strong = record.rows[1:]
    assert strong.penalty < 0.5 * weak.penalty


def test_a_prior_on_grad_cam_trains_the_network_through_its_graph(run):
    corner = torch.zeros(1, 1, SIDE, SIDE)
    corner[..., :3, :3] = 1
    prior = Prior(method=GradCAM(), penalty=MaskEnergy(masks=corner), weight=5.0)
    record = run(epochs=6, prior=prior)
    weak = run(folder="weak", epochs=6, prior=prior, weights=(1e-6,))
    assert record.rows[-1].penalty < 0.8 * weak.rows[-1].penalty


@pytest.mark.parametrize("step", [4, 8, 14])
def test_a_comparison_that_was_stopped_goes_on_as_if_it_had_not_been(step, run, tmp_path):
    options = {"prior": gini(0.5), "vary": True, "convert": True, "epochs": 3}
    whole = run(folder="whole", **options)
    count = 0

    def stop(stage, done, total):
        nonlocal count
        count += stage.startswith("training: ")
        if count == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop, **options)
    assert not (tmp_path / "run" / "fit.json").exists()
    record = run(resume=True, **options)
    assert str(record.rows) == str(whole.rows)
    assert record.after == whole.after
    one, other = (load_file(tmp_path / n / "weights.safetensors") for n in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_logs_and_records_can_be_read_by_programs(run, tmp_path):
    record = run(prior=gini(), epochs=3)
    folder = tmp_path / "run"
    with (folder / "runs" / "weight-1" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = record.rows[-1]
    assert float(rows[best.best_epoch - 1]["validation_accuracy"]) == best.validation_accuracy
    found = json.loads((folder / "fit.json").read_text())
    assert found["rows"][0]["penalty"] is None
    assert found["after"]["accuracy"] == record.after.accuracy
    report = (folder / "report.md").read_text()
    assert "| no prior, bias-free | none | 3 |" in report
    assert fit_text(record).count("chosen") == 1


def test_a_weight_so_high_that_the_network_collapses_stops_with_the_reason(run):
    prior = Prior(method=InputXGradient(), penalty=Magnitude(), weight=1e6)
    with pytest.raises(NumericsError, match=r"weight 1e\+06: .*collapsed to zero in epoch \d"):
        run(prior=prior, convert=True, epochs=5)


def test_among_several_weights_the_one_that_collapses_has_its_reason_in_the_notes(run):
    prior = Prior(method=InputXGradient(), penalty=Magnitude())
    record = run(prior=prior, convert=True, epochs=5, weights=(0.01, 1e6))
    assert record.chosen == "weight 0.01"
    assert record.rows[-1].note.startswith("The network collapsed to zero")
    assert any("weight 1e+06: The network collapsed" in note for note in record.notes)
    assert "no result, see the notes" in fit_text(record)


def test_imbalanced_classes_without_an_intercept_are_told_where_to_put_it(run, tmp_path):
    few = tensors(60, 0, (0.8, 0.2))
    record = run(train=few, convert=True)
    (note,) = [one for one in record.notes if "intercept" in one]
    assert "column: 48 images, row: 12" in note
    assert "f(0) = 0" in note
    assert "--intercept" in note
    assert record.intercept == pytest.approx((math.log(49 / 13) / 2, -math.log(49 / 13) / 2))
    assert json.loads((tmp_path / "run" / "fit.json").read_text())["intercept"]
    assert run(folder="biased", train=few).notes == ()
    assert run(folder="even", convert=True).notes == ()


def test_an_intercept_is_added_in_the_loss_and_to_predict_and_not_to_the_network(run):
    few = tensors(60, 0, (0.9, 0.1))
    record = run(train=few, validation=few, convert=True, intercept=True, rate=1e-12)
    assert record.trained_with_intercept
    assert record.after.homogeneous is True
    made = network()
    start = functional.cross_entropy(made(few.images) * 0, few.labels)
    assert record.rows[0].validation_loss < start.item()
    (note,) = [one for one in record.notes if "intercept" in one]
    assert "was added to the logits in training" in note


def test_validation_images_are_held_out_of_each_class_if_none_are_given(tmp_path):
    data = tensors(50, 0, (0.8, 0.2))
    rest, held = held_out(data, 0.2, 3)
    assert sorted(rest.places + held.places) == list(range(50))
    assert [held.label(k) for k in range(len(held))].count(1) == 2
    batch = next(held.batches(4))
    assert batch.indices.tolist() == list(held.places[:4])
    assert torch.equal(batch.images, data.images[batch.indices])
    assert held_out(data, 0.2, 3)[1].places == held.places != held_out(data, 0.2, 4)[1].places
    settings = TrainingSettings(epochs=1, batch_size=20)
    record = fit(network(), data, out=tmp_path / "run", settings=settings)
    assert record.data == ("40 of bars 0", "10 of bars 0", "")


@pytest.mark.parametrize("biased", [True, False])
def test_a_new_head_has_a_bias_only_if_the_old_one_had(biased, generator):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 5, bias=biased)).eval()
    images = torch.randn(2, 1, SIDE, SIDE, generator=generator)
    made = with_new_head(net, images, 3, generator)
    assert made(images).shape == (2, 3)
    assert (made[2].bias is not None) is biased
    assert torch.equal(made[0].weight, net[0].weight)
    assert net[2].out_features == 5


def test_the_head_that_makes_the_logits_is_the_one_replaced(generator):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.classify = nn.Conv2d(1, 3, 1, bias=False)
            self.unused = nn.Linear(3, 3)

        def forward(self, images):
            return self.classify(images).mean(dim=(2, 3))

    images = torch.randn(2, 1, SIDE, SIDE, generator=generator)
    made = with_new_head(Model().eval(), images, 7, generator)
    assert made(images).shape == (2, 7)
    assert made.classify.bias is None
    model = Model().eval()
    same = with_new_head(model, images, 3, generator)
    assert torch.equal(same.unused.weight, model.unused.weight)
    assert not torch.equal(same.classify.weight, model.classify.weight)
    with pytest.raises(UnsupportedOperation, match=r"makes its 36 logits.*for 2 classes"):
        with_new_head(nn.Flatten().eval(), images, 2, generator)


@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_that_is_called_as_a_function_gets_a_new_weight(biased, generator):
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Parameter(torch.randn(5, 36, generator=generator))
            self.weight = nn.Parameter(torch.randn(5, 5, generator=generator))
            self.bias = nn.Parameter(torch.ones(5)) if biased else None

        def forward(self, images):
            hidden = functional.relu(functional.linear(images.flatten(1), self.hidden))
            return functional.linear(hidden, self.weight, self.bias)

    images, model = torch.randn(2, 1, SIDE, SIDE, generator=generator), Called().eval()
    made = with_new_head(model, images, 3, generator)
    assert made(images).shape == (2, 3)
    assert torch.equal(made.hidden, model.hidden)
    assert (made.bias is not None) is biased
    assert not biased or not made.bias.any()


def test_a_new_head_on_a_certified_file_brings_no_bias_back(generator, tmp_path):
    images = torch.randn(8, 1, SIDE, SIDE, generator=generator)
    bare = x_dnn(network(), images).model
    save_x_dnn(bare, images, tmp_path / "x.safetensors")
    loaded = load_x_dnn(tmp_path / "x.safetensors").module
    made = with_new_head(loaded, images, 4, generator)
    assert made(images).shape == (8, 4)
    assert Network.read(made, images).homogeneity(images).holds
    assert not any("bias" in name for name in made.state_dict())


def test_a_new_head_is_for_the_classes_of_the_data(run):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).eval()
    three = tensors(60, 0)
    record = run(net, train=three, new_head=True, convert=True)
    assert record.before is None
    assert record.after.homogeneous is True
    assert record.counts == (30, 30)


REFUSED = {
    "no label": (DataError, "has no label"),
    "label without output": (DataError, r"of class 1, and the model has 1 outputs.*--new-head"),
    "weights alone": (SettingError, r"\(0\.5\), and no prior"),
    "weight below zero": (SettingError, "0 or more"),
    "not differentiable": (SettingError, "^Occlusion is not differentiable"),
    "mask of another size": (ShapeError, r"of \(6, 6\) need as many masks.*got 1 of \(4, 4\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_refused_with_the_reason(kind, run):
    occlusion = Occlusion(window=3, stride=3)
    other = Prior(method=InputXGradient(), penalty=OutsideMask(masks=torch.ones(1, 1, 4, 4)))
    data = tensors(20, 0)
    if kind == "no label":
        data.labels[3] = -1
    options = {
        "no label": {"train": data},
        "label without output": {"model": nn.Sequential(nn.Flatten(), nn.Linear(36, 1)).eval()},
        "weights alone": {"weights": (0.5,)},
        "weight below zero": {"prior": gini(), "weights": (-1.0,)},
        "not differentiable": {"prior": Prior(method=occlusion, penalty=GiniSparsity())},
        "mask of another size": {"prior": other, "vary": True},
    }[kind]
    error, match = REFUSED[kind]
    with pytest.raises(error, match=match):
        run(epochs=1, **options)


def test_an_operation_without_a_second_derivative_is_named(run):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Hardsigmoid(), nn.Linear(4, 2)).eval()
    with pytest.raises(UnsupportedOperation, match=r"second derivative of hardsigmoid_backward"):
        run(net, prior=gini())


def test_a_folder_with_another_training_or_anything_else_is_not_touched(run, tmp_path):
    run(epochs=1)
    with pytest.raises(OutputError, match=r"holds a training already.*--resume"):
        run(epochs=1)
    with pytest.raises(MismatchError, match=r"epochs was 1 and is 2; .*seed was 0 and is 3"):
        run(epochs=2, seed=3, resume=True)
    with pytest.raises(MismatchError, match=r"otherwise: train was \".*\.\.\. and is \""):
        run(epochs=1, train=tensors(60, 7), resume=True)
    again = run(epochs=1, resume=True)
    assert len(again.rows) == 1
    assert run(epochs=2, overwrite=True).rows[0].epochs == 2
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"'thesis\.tex', which no training wrote"):
        run(epochs=1, overwrite=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


def test_images_that_could_not_be_used_are_told(run):
    class Damaged:
        title, classes = "damaged", ("column", "row")
        skipped = (("7.png", "is truncated"),)

        def __init__(self):
            self.inner = tensors(60, 0)

        def __len__(self):
            return 60

        def name(self, index):
            return f"{index}.png"

        def label(self, index):
            return self.inner.label(index)

        def batches(self, size, indices=None):
            chosen = [k for k in (range(60) if indices is None else indices) if k != 7]
            yield from self.inner.batches(size, chosen)

        def fingerprint(self):
            return "damaged"

    record = run(train=Damaged(), epochs=1)
    assert record.notes == ("1 of damaged could not be used: 7.png (is truncated)",)


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    settings = TrainingSettings(device="cuda:99")
    with pytest.raises(SettingError, match="'cuda:99' cannot be used"):
        fit(network(), tensors(20, 0), out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()
