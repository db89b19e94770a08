"""The benchmark of methods where the truth is planted: its pictures, checks and ranking."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.methods import study
from benchmarks.methods.checks import object_checks, patch_checks
from benchmarks.methods.networks import NETWORKS, network
from benchmarks.methods.page import trusted
from benchmarks.methods.ranking import picked, standing
from benchmarks.methods.scenes import (
    DARK,
    NOISE,
    PHOTOGRAPHS,
    SHORTCUT,
    colours,
    composed,
    digits,
    laid_out,
    patched,
    scene,
    training_batch,
)
from whence.results.evaluation import EstimateRecord, ScoreRecord

NAMES = ("random-map", "edge-map", "true", "good", "bad", "even")


@pytest.mark.parametrize("kind", [NOISE, PHOTOGRAPHS])
def test_the_mask_is_exactly_where_the_digit_changed_the_background(kind):
    made = scene(kind, 20, judged=True, seed=0)
    changed = (made.images != made.backgrounds).any(dim=1, keepdim=True)
    assert torch.equal(changed, made.objects)
    assert torch.equal(made.truth, made.objects)
    assert not made.patches.any()
    assert float(made.backgrounds.max()) <= DARK + 1e-6
    assert torch.equal(made.labels, made.shown)
    assert (made.objects.flatten(1).sum(dim=1) > 20).all()


def test_the_patch_has_its_class_s_colour_beside_the_digit_and_decides_the_label():
    made = scene(SHORTCUT, 40, judged=True, seed=0)
    assert (made.patches.flatten(1).sum(dim=1) == 36).all()
    assert not (made.patches & made.objects).any()
    assert torch.equal(made.truth, made.patches)
    assert (made.labels != made.shown).all()
    for image, patch, label in zip(made.images, made.patches, made.labels, strict=True):
        inside = image[:, patch[0]]
        assert torch.equal(inside, colours()[label][:, None].expand(-1, 36))
    plain, _ = composed(made.digits, made.backgrounds, made.layout)
    assert torch.equal(torch.where(made.patches, plain, made.images), plain)
    assert len({tuple(colour.tolist()) for colour in colours()}) == 10


def test_no_digit_anywhere_reaches_its_patch():
    places = torch.cartesian_prod(torch.arange(0, 13, 4), torch.arange(0, 13, 4))
    layout = laid_out(len(places), torch.Generator().manual_seed(0))
    layout = type(layout)(places=places, tints=layout.tints)
    blank = torch.zeros(len(places), 3, 32, 32)
    with_digit, objects = composed(torch.ones(len(places), 1, 8, 8), blank, layout)
    _, patches = patched(with_digit, layout, torch.zeros(len(places), dtype=torch.long))
    assert (objects.flatten(1).sum(dim=1) == 400).all()
    assert not (objects & patches).any()


def test_nothing_that_is_judged_was_trained_on():
    learnt, _ = digits(judged=False)
    kept, _ = digits(judged=True)
    assert len(learnt) == 1200
    assert len(learnt) + len(kept) == 1797


def test_half_of_the_training_images_with_a_shortcut_carry_a_patch():
    plain, shown = training_batch(400, torch.Generator().manual_seed(3), shortcut=False)
    marked, labels = training_batch(400, torch.Generator().manual_seed(3), shortcut=True)
    carries = (plain != marked).flatten(1).any(dim=1)
    assert 0.4 < float(carries.double().mean()) < 0.6
    assert torch.equal(labels[~carries], shown[~carries])
    assert float((labels[carries] == shown[carries]).double().mean()) < 0.25


class Corners(nn.Module):
    """Tells the class by the patch's colour, and looks at nothing else."""

    def forward(self, images):
        far = (images[:, :, None] - colours().T[None, :, :, None, None]).abs()
        return -far.sum(dim=1).flatten(2).amin(dim=2)


def test_a_network_of_patches_passes_the_checks_of_patches_and_fails_those_of_objects():
    made = scene(SHORTCUT, 60, judged=True, seed=1)
    shares = {one.change: one.share for one in patch_checks(Corners(), made)}
    for change in (
        "none: the patch's class",
        "another patch: the new patch's class",
        "another digit: still the patch's class",
        "no digit: still the patch's class",
    ):
        assert shares[change] == 1
    assert shares["no patch: the digit"] < 0.4
    blind = {
        one.change: one.share
        for one in object_checks(Corners(), scene(NOISE, 60, judged=True, seed=1))
    }
    assert blind["another digit on the same background: the new digit"] < 0.4


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_the_pictures_and_are_drawn_from_their_seed(name):
    images = scene(NOISE, 2, judged=True, seed=0).images
    model, again, other = network(name), network(name), network(name, seed=1)
    assert model(images).shape == (2, 10)
    assert torch.equal(model(images), again(images))
    assert not torch.equal(model(images), other(images))


def planted(means, better="higher", count=40, spread=0.1):
    """Return a record of one metric whose values lie around these means."""
    drawn = np.random.default_rng(0).normal(0, spread, (len(means), count))
    scores = []
    for (name, mean), noise in zip(means.items(), drawn, strict=True):
        values = mean + noise - noise.mean()
        estimate = EstimateRecord(mean=mean, low=mean, high=mean, count=count)
        scores.append(
            ScoreRecord(
                network="net",
                metric="m",
                method=name,
                values=values,
                estimate=estimate,
                difference=None,
                verdict="no claim",
                reason="",
            )
        )
    kinds = {"random-map": "control", "edge-map": "control", "true": "maps", "blurred": "maps"}
    return SimpleNamespace(
        scores=scores,
        metrics=[SimpleNamespace(name="m", better=better)],
        methods=[SimpleNamespace(name=n, kind=kinds.get(n, "method")) for n in means],
        score=lambda _, __, method: next(one for one in scores if one.method == method),
    )


@pytest.mark.parametrize(("better", "sign"), [("higher", 1), ("lower", -1)])
def test_a_standing_tells_winners_losers_and_what_is_above_the_truth(better, sign):
    means = dict(zip(NAMES, (0.0, 0.5, 1.0, 2.0, -1.0, 0.001), strict=True))
    found = standing(
        planted({k: sign * v for k, v in means.items()}, better), "net", "m", ("true",)
    )
    assert found.ranks == {"true": 2}
    assert found.judged == 3
    assert found.above == ("good",)
    assert found.lucky == ()
    assert found.winners == ("good",)  # "even" is above the random map by less than its interval
    assert found.losers == ("bad",)
    assert found.control == "edge-map"
    assert set(found.outdone) == {"bad", "even"}
    assert found.fails  # one method in three


def test_a_metric_fails_where_a_control_is_above_the_truth():
    means = dict(zip(NAMES, (0.0, 1.5, 1.0, 0.5, 0.2, 0.1), strict=True))
    found = standing(planted(means), "net", "m", ("true",))
    assert found.ranks == {"true": 1}
    assert found.lucky == ("edge-map",)
    assert found.fails
    assert not standing(planted(means), "net", "m", ("true",), ("edge-map",)).fails
    means["edge-map"] = 0.9
    assert not standing(planted(means), "net", "m", ("true",)).fails


def test_everything_is_held_beside_the_true_map_that_the_metric_likes_best():
    means = dict(zip(NAMES, (0.0, -0.5, 1.0, 2.0, -1.0, 0.001), strict=True))
    record = planted({**means, "blurred": 3.0})
    found = standing(record, "net", "m", ("true", "blurred"))
    assert found.truth == "blurred"
    assert found.ranks == {"blurred": 1, "true": 2}
    assert found.above == ()
    assert standing(planted(means, "neither"), "net", "m", ("true",)) is None


def test_methods_are_picked_by_their_mean_place_and_ties_share_theirs():
    first = planted({"a": 3.0, "b": 2.0, "c": 1.0, "random-map": 9.0})
    second = planted({"a": 1.0, "b": 1.0, "c": 0.0, "random-map": 9.0})
    found = dict(picked([(first, "net"), (second, "net")], ("m",)))
    assert found == {"a": 0.125, "b": 0.375, "c": 1.0}


def test_what_is_judged_is_right_and_the_true_map_is_its_mask():
    model = SimpleNamespace(module=Corners())
    made = study.judged_scene(SHORTCUT, 8, model)
    assert len(made.images) == 8
    assert torch.equal(Corners()(made.images).argmax(dim=1), made.labels)
    maps = study.true_maps(made, SHORTCUT)
    assert torch.equal(maps[study.TRUTH] == 1, made.patches)
    assert torch.equal(maps[study.OBJECT] == 1, made.objects)
    centre = torch.zeros(1, 1, 32, 32)
    centre[..., 16, 16] = 1
    assert float(study.blurred(centre).sum()) == pytest.approx(1, abs=1e-5)


def test_nothing_is_trusted_without_a_run_that_supports_it():
    run = SimpleNamespace(record=SimpleNamespace(metrics=[]), network="net")
    assert trusted([run]) == ()


def test_pixels_are_ordered_by_their_distance_to_the_mask():
    mask = torch.zeros(2, 1, 9, 9)
    mask[0, 0, 4, 4] = 1
    mask[1, 0, :, 0] = 1
    found = study.nearest(mask)
    assert torch.equal(found == 1, mask == 1)
    assert float(found[0, 0, 4, 7]) == pytest.approx(1 / 4)
    assert float(found[0, 0, 1, 0]) == pytest.approx(1 / 6)
    assert torch.allclose(found[1, 0, 3], 1 / torch.arange(1.0, 10.0))
