"""A study of harmony end to end: closed forms, other sizes and units, stopping and going on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from whence import transfer
from whence.adapters import declared_preprocessing
from whence.core import Normalisation, TensorData
from whence.errors import DataError, MismatchError, OutputError, SettingError, ShapeError
from whence.recipes.transfer_methods import studied_methods
from whence.recipes.transfer_networks import TransferNetwork, seen_share
from whence.recipes.transfer_request import network_lines
from whence.results.transfer import load_transfer

SIDE = 8


class Upper(nn.Module):
    """Is the upper half brighter than black? The lower half is not looked at."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(9.0))

    def forward(self, x):
        mean = self.scale * (x[:, :, : x.shape[2] // 2].mean(dim=(1, 2, 3)) - 0.25)
        return torch.stack([-mean, mean], dim=1)


def upper():
    return Upper().eval()


def small(seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
    return network.eval()


def pictures(count=10, classes=3):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(count, 1, SIDE, SIDE, generator=generator)
    return TensorData(images=images, labels=torch.arange(count) % classes, title="noise")


def study(**settings):
    given = {
        "methods": ("gradient", "grad-cam"),
        "fills": ("zero",),
        "coverages": (0.25,),
        "models": {"a": small(), "b": small(1)},
        "data": pictures(),
    }
    return transfer(**(given | settings))


class Constant:
    """A method that returns the same map for every image."""

    def __init__(self, value):
        self.value = value

    def __call__(self, f, images):
        return self.value.expand(len(images), -1, -1, -1).clone()


def test_the_region_that_counts_keeps_every_prediction_and_its_complement_gives_chance():
    images = torch.rand(24, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    labels = upper()(images).argmax(dim=1)
    images[::2, :, :4] *= 0.2
    labels = upper()(images).argmax(dim=1)
    assert set(labels.tolist()) == {0, 1}
    region = torch.zeros(1, 1, SIDE, SIDE)
    region[:, :, :4] = 1
    record = transfer(
        {"a": upper(), "b": upper()},
        TensorData(images=images, labels=labels),
        methods={"region": Constant(region)},
        fills=("zero",),
        coverages=(0.5,),
        masks=region.expand(24, -1, -1, -1),
    )
    for mask in ("soft", "50 %"):
        at = {"generator": "a", "method": "region", "mask": mask}
        kept = record.row("b", "features", fill="zero", **at)
        hidden = record.row("b", "complement", fill="zero", **at)
        assert (kept.accuracy.value, kept.agreement.value, kept.kept.value) == (1, 1, 1)
        assert kept.probability == record.row("b", "original").probability
        assert hidden.accuracy.value == (labels == 0).double().mean()
        assert hidden.kept.value == hidden.accuracy.value
    truth = record.row("b", "object", fill="zero")
    assert truth.accuracy.value == 1


def test_a_mask_that_is_the_same_for_all_images_gains_nothing_over_shuffling():
    mask = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    record = study(methods={"one": Constant(mask)})
    gains = [row.advantage for row in record.rows if row.advantage is not None]
    assert gains
    assert all((one.value, one.low, one.high) == (0, 0, 0) for one in gains)


def test_identical_networks_give_a_symmetric_cube():
    record = study(models={"a": small(), "b": small()}, methods=("gradient", "ss-modified:steps=3"))
    features = [row for row in record.rows if row.generator]
    assert len(features) == 2 * 4 * 2 * 5  # methods, pairs, masks, what is shown
    for row in features:
        turned = record.row(
            {"a": "b", "b": "a"}[row.evaluator],
            row.shown,
            generator={"a": "b", "b": "a"}[row.generator],
            method=row.method,
            mask=row.mask,
            fill=row.fill,
        )
        same = replace(turned, generator=row.generator, evaluator=row.evaluator)
        np.testing.assert_equal(vars(same), vars(row))


class Halved(nn.Module):
    """A network for images of twice the size and other units."""

    def __init__(self, inner, units):
        super().__init__()
        self.inner, self.units = inner, units

    def forward(self, x):
        return self.inner(nn.functional.avg_pool2d(self.units.to_pixels(x), 2))


def test_a_network_of_another_size_and_units_sees_the_same_features():
    data, units = pictures(), Normalisation(mean=(0.4,), std=(0.3,))
    large = data.images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    plain = TransferNetwork(name="a", model=small(), data=data, normalisation=Normalisation())
    other = TransferNetwork(
        name="b",
        model=Halved(small(), units).eval(),
        data=TensorData(images=units.to_model(large), labels=data.labels, title="noise"),
        normalisation=units,
    )
    # Constant in the middle, so that bilinear enlarging of the map changes nothing there.
    mask = torch.full((1, 1, SIDE, SIDE), 0.6)
    methods = {"grey": Constant(mask)}
    record = transfer([plain, other], methods=methods, fills=("zero", "mean"), coverages=())
    for name in ("zero", "mean"):
        at = {"generator": "a", "method": "grey", "mask": "soft", "fill": name}
        own, theirs = (record.row(each, "features", **at) for each in "ab")
        assert theirs.accuracy == own.accuracy
        assert theirs.probability.value == pytest.approx(own.probability.value, abs=1e-5)
    assert record.row("a", "original").accuracy == record.row("b", "original").accuracy
    assert [one.size for one in record.networks] == [(8, 8), (16, 16)]


class Stop:
    """A progress that stops a study after some reports."""

    def __init__(self, after):
        self.left = after

    def __call__(self, stage, done, total):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [2, 5, 7, 9])
def test_a_study_that_was_stopped_goes_on_and_finds_the_same(tmp_path, after):
    expected = study()
    with pytest.raises(KeyboardInterrupt):
        study(out=tmp_path / "study", progress=Stop(after))
    assert not (tmp_path / "study" / "transfer.json").exists()
    work = tmp_path / "study" / "work"
    before = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(before) > 1
    found = study(out=tmp_path / "study")
    np.testing.assert_equal([vars(row) for row in found.rows], [vars(row) for row in expected.rows])
    after_ = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert before.items() <= after_.items()


def test_a_finished_study_is_read_again_without_a_pass(tmp_path):
    seen = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small()

        def forward(self, x):
            seen.append(len(x))
            return self.inner(x)

    def once():
        models = {"a": Counted().eval(), "b": small(1)}
        kinds = {"a": "mine", "b": "mine"}  # given, so that no graph is read
        return study(models=models, families=kinds, methods=("gradient",), out=tmp_path / "study")

    first = once()
    assert seen
    seen.clear()
    again = once()
    assert seen == []
    np.testing.assert_equal([vars(row) for row in again.rows], [vars(row) for row in first.rows])


def test_another_study_in_the_folder_is_refused_by_naming_what_differs(tmp_path):
    study(out=tmp_path / "study")
    with pytest.raises(MismatchError, match=r"differs in network b: network b was .* is "):
        study(models={"a": small(), "b": small(2)}, out=tmp_path / "study")
    with pytest.raises(
        MismatchError, match=r"differs in coverages: coverages was 0.25, and is 0.5"
    ):
        study(coverages=(0.5,), out=tmp_path / "study")
    found = study(coverages=(0.5,), out=tmp_path / "study", overwrite=True)
    assert found.masks == ("soft", "50 %")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'thesis.txt', which no study of harmony wrote"):
        study(out=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_a_study_is_written_whole_and_reads_back_as_it_was(tmp_path):
    record = study(out=tmp_path / "study")
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert names == {
        "transfer.json",
        "transfer.csv",
        "transfer.md",
        "report.html",
        "heat.svg",
        "heat.png",
        "work",
    }
    back = load_transfer(tmp_path / "study")
    np.testing.assert_equal([vars(row) for row in back.rows], [vars(row) for row in record.rows])
    assert back.networks == record.networks
    assert back.methods == record.methods
    assert back.notes == record.notes


def test_maps_that_show_nothing_are_counted_and_told():
    zeros, broken = torch.zeros(1, 1, SIDE, SIDE), torch.full((1, 1, SIDE, SIDE), torch.nan)
    record = study(methods={"zeros": Constant(zeros), "broken": Constant(broken)})
    assert [method.blank for method in record.methods] == [{"a": 10, "b": 10}] * 2
    assert sum("shows nothing on 10 of 10 images" in note for note in record.notes) == 4
    blank = record.row("b", "features", generator="a", method="zeros", mask="soft", fill="zero")
    assert blank.count == 10


def test_images_may_be_fewer_and_spread():
    record = study(count=4)
    assert record.data.count == 4
    assert {row.count for row in record.rows} == {4}


def test_the_label_as_target_is_told_in_the_notes():
    record = study(target="label")
    assert any("a map can tell it" in note for note in record.notes)
    assert not any("a map can tell it" in note for note in study().notes)


def test_a_bank_fills_with_its_own_images():
    white = TensorData(images=torch.ones(3, 1, SIDE, SIDE), title="white")
    hidden = {"nothing": Constant(torch.zeros(1, 1, SIDE, SIDE))}
    settings = {"methods": hidden, "coverages": (), "models": {"a": small(), "b": small(1)}}
    banked = study(fills=("bank",), bank=white, **settings)
    plain = study(fills=("white",), **settings)
    at = {"generator": "a", "method": "nothing", "mask": "soft"}
    assert (
        banked.row("b", "features", fill="bank", **at).probability
        == plain.row("b", "features", fill="white", **at).probability
    )


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"models": {"a": small()}}, SettingError, "Two networks or more are compared.*got 'a'"),
        ({"data": None}, DataError, "Give the test images"),
        ({"data": "digits"}, DataError, "the preprocessing of a is not known"),
        ({"fills": ("grey",)}, SettingError, "Unknown fill 'grey'. Choose one of: zero, black"),
        ({"fills": ("zero", "zero")}, SettingError, "Each fill is given once"),
        ({"methods": ()}, SettingError, "Give one method or more, each once; got none"),
        ({"methods": ("grad-cma",)}, SettingError, "Did you mean grad-cam"),
        ({"methods": ("grad-cam:stepz=3",)}, SettingError, "'stepz'"),
        ({"coverages": (25,)}, SettingError, "For 25 % write 0.25"),
        ({"target": "second"}, SettingError, "target is one of predicted, label; got 'second'"),
        ({"count": 1}, SettingError, "two images or more"),
        ({"families": {"c": "CNN"}}, SettingError, "a family is given for 'c', which is none"),
        ({"masks": torch.ones(3, 1, 8, 8)}, ShapeError, r"Object masks are \(10, 1, h, w\)"),
    ],
    ids=[
        "one-network",
        "no-data",
        "source-for-a-module",
        "fill",
        "fill-twice",
        "no-method",
        "method",
        "method-setting",
        "coverage",
        "target",
        "one-image",
        "family",
        "masks",
    ],
)
def test_what_cannot_be_studied_is_refused_in_words(settings, error, text):
    with pytest.raises(error, match=f"(?i){text}"):
        study(**settings)


def test_images_without_labels_are_refused_by_name():
    unlabelled = TensorData(images=pictures().images, names=tuple(f"{k}.png" for k in range(10)))
    with pytest.raises(DataError, match=r"Image 0.png has no label"):
        study(data=unlabelled)


def test_networks_that_see_other_parts_of_a_picture_are_laid_over_each_other_or_refused():
    crop = declared_preprocessing({"size": 8, "resize": 10}, "a test")
    squashed = declared_preprocessing({"size": 8, "resize": (8, 8), "crop": False}, "a test")
    assert seen_share(crop) == (0.8, "shorter side")
    assert seen_share(squashed) == (1.0, "whole")
    data = pictures()
    cropping, whole = (
        TransferNetwork(
            name=name,
            model=small(),
            data=data,
            normalisation=Normalisation(),
            share=seen_share(how)[0],
            frame=seen_share(how)[1],
        )
        for name, how in (("a", crop), ("b", squashed))
    )
    with pytest.raises(SettingError, match="a sees the shorter side of a picture and b the whole"):
        study(models=[cropping, whole], data=None)
    nearer = replace(cropping, name="c", share=0.4)
    assert cropping.zoom_to(nearer) == pytest.approx(0.5)


def test_a_transformer_and_a_convolutional_network_are_told_apart():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.head = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 3)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            seen = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.head(seen.mean(dim=1))

    record = study(models={"a": small(), "b": Attending().eval()}, methods=("gradient",))
    assert [one.family for one in record.networks] == ["convolutional", "transformer"]
    named = study(
        models={"a": small(), "b": small(1)}, families={"b": "mine"}, methods=("gradient",)
    )
    assert [one.family for one in named.networks] == ["convolutional", "mine"]


def test_methods_have_names_settings_and_a_bank():
    short = studied_methods(("ss-modified:steps=3,draws=1", "grad-cam"))
    assert [method.name for method in short] == ["ss-modified", "grad-cam"]
    twice = studied_methods(("ss-modified:steps=3", "ss-modified:steps=4"))
    assert [method.name for method in twice] == ["ss-modified:steps=3", "ss-modified:steps=4"]
    bank = torch.rand(4, 1, SIDE, SIDE)
    made = short[0].make(Normalisation(), bank)
    assert (made.objective, made.steps, made.draws) == ("weighted", 3, 1)
    assert torch.equal(made.fill.images, bank)
    (blurred,) = studied_methods(("ss-original:fill=blur",))
    made = blurred.make(Normalisation(), bank)
    assert (made.objective, type(made.fill).__name__) == ("double-softmax", "Blur")
    with pytest.raises(SettingError, match="Unknown baseline 'fog'"):
        studied_methods(("ss-original:fill=fog",))


def test_networks_are_read_from_lines():
    lines = network_lines(
        ("cnn=model.py:tiny", "torchvision/resnet18"),
        ("cnn=w.pt",),
        ("names.txt",),
        ("size=32", "cnn:mean=0.5"),
        ("cnn=CNN",),
    )
    assert [line.name for line in lines] == ["cnn", "torchvision/resnet18"]
    assert (lines[0].model, lines[0].weights, lines[0].family) == ("model.py:tiny", "w.pt", "CNN")
    assert lines[0].input == ("size=32", "mean=0.5")
    assert lines[1].input == ("size=32",)
    assert lines[1].classes == "names.txt"
    with pytest.raises(SettingError, match=r"--weights is written NAME=VALUE.*cnn; got 'w.pt'"):
        network_lines(("cnn=model.py:tiny",), ("w.pt",), (), (), ())


def test_a_study_that_cannot_be_made_leaves_no_folder_in_the_way(tmp_path):
    out = tmp_path / "harmony"
    alone = TensorData(images=pictures().images[:1], labels=torch.tensor([0]))
    with pytest.raises(DataError, match="1 can be used"):
        study(data=alone, out=out)
    assert not out.exists()
    study(out=out)
    with pytest.raises(ShapeError, match="Object masks are"):
        study(out=out, overwrite=True, masks=torch.ones(3, 1, SIDE, SIDE))
    assert (out / "work").is_dir()  # a folder that was there stays


def test_a_fill_with_a_slip_is_met_with_the_nearest():
    with pytest.raises(SettingError, match="Did you mean black"):
        study(fills=("blak",))
