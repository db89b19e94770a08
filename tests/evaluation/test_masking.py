"""The six masking metrics, against a loop over images and shares that restates the protocol."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import Custom, ModelScalar, Zero, logit
from whence.errors import NumericsError, SettingError, ShapeError, TargetError
from whence.evaluation import MASKING, Hit, MaskedArea, WindowBlur, masked_areas

FRACTIONS = tuple(0.01 * 100 ** (k / 15) for k in range(16))
LABELS = torch.tensor([0, 2, 1, 2, 0])


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(360, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return net.double().eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(5, 2, 6, 10, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def values(images):
    """Maps with zeros, and one that has no negative part."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    drawn[:, :, :2] = 0
    drawn[1] = drawn[1].abs()
    return drawn


def naive(model, image, label, values, fill, metric):
    """One image, one share after the other, as the released code goes about it."""
    importance = values.mean(0).flatten()
    if metric[1] == "N":
        importance = -importance
    if metric[1] == "A":
        importance = importance.abs()
    importance = importance.clamp(min=0)
    present = int((importance != 0).sum())
    points = []
    for fraction in FRACTIONS:
        count = min(int(fraction * len(importance)), present)
        if metric[0] == "K":
            kept = importance.topk(count).indices
        else:
            lifted = torch.where(importance == 0, torch.inf, importance)
            kept = lifted.topk(count, largest=False).indices
        masked = fill.flatten(1).clone()
        masked[:, kept] = image.flatten(1)[:, kept]
        logits = model(masked.view(1, *image.shape))[0]
        hit = logits.argmax() == label
        points.append(float(hit if metric[1] == "A" else logits[label]))
    widths = [b - a for a, b in itertools.pairwise(FRACTIONS)]
    means = [(a + b) / 2 for a, b in itertools.pairwise(points)]
    return math.fsum(w * m for w, m in zip(widths, means, strict=True))


def explained(model, metric):
    return ModelScalar(model, Hit(LABELS) if metric.endswith("AM") else logit(LABELS))


@pytest.mark.parametrize("batch_size", [1, 7, 256])
@pytest.mark.parametrize("metric", MASKING)
def test_an_area_is_the_one_of_a_loop_over_images_and_shares(
    metric, batch_size, model, images, values
):
    found = MaskedArea(metric=metric, batch_size=batch_size)(
        explained(model, metric), images, values
    )
    with torch.no_grad():
        fills = WindowBlur()(images)
        wanted = [
            naive(model, images[k], int(LABELS[k]), values[k], fills[k], metric) for k in range(5)
        ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype))


def test_all_six_in_one_pass_are_the_six_one_by_one(model, images, values):
    like = MaskedArea(metric="KPM", fill=Zero(), fractions=(0.1, 0.3, 0.9))
    together = masked_areas(model, LABELS, images, values, like=like)
    assert tuple(together) == MASKING
    for metric, area in together.items():
        alone = MaskedArea(metric=metric, fill=Zero(), fractions=(0.1, 0.3, 0.9))
        assert torch.equal(area, alone(explained(model, metric), images, values)), metric


@pytest.mark.parametrize("part", ["P", "N", "A"])
def test_one_pass_shows_the_network_no_mask_twice(part, model, images, values):
    seen = []

    def counted(batch):
        seen.append(batch)
        return model(batch)

    masked_areas(counted, LABELS, images, values)
    every = torch.cat(seen)
    assert len(every) < 93 * len(images)
    sign = {"P": values, "N": -values, "A": values}[part].sum(1, keepdim=True)
    chosen = sign.abs() if part == "A" else sign.clamp(min=0)
    whole = torch.where(chosen != 0, images, WindowBlur()(images))
    count = (every == whole[0]).flatten(1).all(1).sum()
    assert count == 1  # keep and remove meet at a share of one


def test_21_random_values_score_alike_whatever_their_sign(model):
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(500, 2, 6, 10, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        labels = model(many).argmax(1)
    random = torch.rand(many.shape, generator=generator, dtype=torch.float64) - 0.5
    found = masked_areas(model, labels, many, random)
    for one, other in (("KPM", "KNM"), ("RPM", "RNM"), ("KAM", "RAM")):
        apart = found[one] - found[other]
        assert abs(apart.mean().item()) < 2.5 * apart.std().item() / math.sqrt(500), (one, other)


@pytest.fixture(scope="module")
def linear():
    """Return a linear function with images and their true contributions."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(1, 6, 10, generator=generator, dtype=torch.float64)
    images = torch.rand(20, 1, 6, 10, generator=generator, dtype=torch.float64)
    f = ModelScalar(lambda x: (x * weights).sum(dim=(1, 2, 3))[:, None], logit(0))
    return f, images, images * weights


def area(metric, f, images, values):
    return MaskedArea(metric=metric, fill=Zero())(f, images, values)


def test_true_contributions_beat_every_other_order_of_the_same_pixels(linear):
    f, images, truth = linear
    flat = truth.flatten(1)
    reversed_sizes = (1 / flat).view_as(truth)
    for metric in ("KPM", "RNM"):
        assert (area(metric, f, images, truth) > area(metric, f, images, reversed_sizes)).all()
    for metric in ("KNM", "RPM"):
        assert (area(metric, f, images, truth) < area(metric, f, images, reversed_sizes)).all()


def test_a_random_map_loses_where_the_highest_stay_and_wins_where_the_lowest_do(linear):
    f, images, truth = linear
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(truth.shape, generator=generator, dtype=torch.float64) - 0.5
    above = {m: area(m, f, images, truth) > area(m, f, images, random) for m in MASKING[:2]}
    assert above["KPM"].all()
    assert not above["KNM"].any()
    assert (area("RPM", f, images, truth) > area("RPM", f, images, random)).all()
    assert (area("RNM", f, images, truth) < area("RNM", f, images, random)).all()
    assert "none" in MaskedArea(metric="RPM").card.chance
    assert "random values" in MaskedArea(metric="KPM").card.chance


def test_the_opposite_of_a_map_swaps_positive_and_negative(model, images, values):
    one, other = (masked_areas(model, LABELS, images, v) for v in (values, -values))
    for first, second in (("KPM", "KNM"), ("RPM", "RNM"), ("KAM", "KAM"), ("RAM", "RAM")):
        assert torch.equal(one[first], other[second])


def test_21_shares_grow_by_a_constant_factor_from_a_hundredth_to_one():
    fractions = MaskedArea(metric="KAM").fractions
    assert len(fractions) == 16
    assert (fractions[0], fractions[-1]) == (0.01, 1.0)
    ratios = [b / a for a, b in itertools.pairwise(fractions)]
    assert ratios == pytest.approx([100 ** (1 / 15)] * 15, rel=1e-12)


@pytest.mark.parametrize("metric", MASKING)
def test_21_pixels_that_do_not_count_are_blurred_even_at_a_share_of_one(
    metric, model, images, values
):
    f = explained(model, metric)
    last = MaskedArea(metric=metric).curve(f, images, values).values[:, -1]
    chosen = values.sum(1, keepdim=True) * (-1 if metric[1] == "N" else 1)
    stays = chosen != 0 if metric[1] == "A" else chosen > 0
    with torch.no_grad():
        expected = f(torch.where(stays, images, WindowBlur()(images)))
    torch.testing.assert_close(last, expected)


def test_a_map_without_a_negative_part_keeps_nothing(model, images, values):
    curve = MaskedArea(metric="KNM").curve(explained(model, "KNM"), images, values)
    blurred = explained(model, "KNM")(WindowBlur()(images))[1].item()
    assert curve.values[1].tolist() == pytest.approx([blurred] * 16)
    zero = masked_areas(model, LABELS, images, torch.zeros_like(images))
    assert zero["KPM"].equal(zero["RNM"])


def test_a_constant_map_is_ordered_at_random_not_row_by_row(images):
    def upper(batch):
        return batch[:, :, :3].sum(dim=(1, 2, 3))[:, None]

    ones = torch.ones_like(images)
    metric = MaskedArea(metric="KPM", fill=Zero(), fractions=(0.5, 1.0))
    half = metric.curve(ModelScalar(upper, logit(0)), ones, ones).values[:, 0]
    assert ((half > 15) & (half < 45)).all()  # row by row would keep all 60 upper values, or none


def test_the_direction_of_a_metric_is_the_one_of_the_paper():
    better = {metric: MaskedArea(metric=metric).card.better for metric in MASKING}
    higher = {"KPM", "KAM", "RNM"}
    assert better == {m: "higher" if m in higher else "lower" for m in MASKING}
    assert MaskedArea(metric="KAM").card.high == 1.0
    assert MaskedArea(metric="KPM").card.high == math.inf


@pytest.mark.parametrize(("side", "size", "sigma"), [(224, 51, 41.0), (32, 7, 41 / 7), (8, 3, 1.5)])
def test_the_blur_is_the_papers_at_its_size_and_shrinks_with_the_image(side, size, sigma):
    window, found = WindowBlur().window(torch.zeros(1, 3, side, side + 3))
    assert (window, found) == (size, pytest.approx(sigma, abs=0.04))


def test_a_blur_is_the_direct_sum_over_its_window():
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 9, 11, generator=generator, dtype=torch.float64)
    found = WindowBlur(size=5, sigma=1.7, side=None)(image)
    at = torch.arange(-2, 3).double()
    kernel = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.7**2))
    kernel /= kernel.sum()
    padded = functional.pad(image, (2, 2, 2, 2), mode="reflect")
    wanted = sum(
        kernel[r, c] * padded[:, :, r : r + 9, c : c + 11] for r in range(5) for c in range(5)
    )
    torch.testing.assert_close(found, wanted)
    flat = torch.full((1, 1, 9, 9), 0.3)
    torch.testing.assert_close(WindowBlur()(flat), flat)


def test_a_hit_is_shared_by_classes_that_tie():
    logits = torch.tensor([[1.0, 2.0, 2.0], [3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 5.0]])
    assert Hit(torch.tensor([1, 0, 2, 1]))(logits).tolist() == pytest.approx([0.5, 1, 1 / 3, 0])
    assert Hit(0)(logits).tolist() == pytest.approx([0, 1, 1 / 3, 0])
    assert Hit(torch.tensor([1, 0, 2, 1])).at(torch.tensor([3, 1]))(logits[[3, 1]]).tolist() == [
        0,
        1,
    ]
    with pytest.raises(TargetError, match="classes run from 0 to 2"):
        Hit(3)(logits)


def test_no_graph_is_kept_and_the_model_comes_back(model, images, values, untouched):
    with untouched(model):
        areas = masked_areas(model, LABELS, images.clone().requires_grad_(), values)
    assert not any(area.requires_grad for area in areas.values())


def test_hits_are_asked_for_where_a_logit_is_given(model, images, values):
    with pytest.raises(SettingError, match=r"KAM is an area under the share of hits.*Hit\(labels"):
        MaskedArea(metric="KAM")(ModelScalar(model, logit(LABELS)), images, values)
    half = Custom(lambda z: z.softmax(1)[:, 0])
    assert MaskedArea(metric="RAM")(ModelScalar(model, half), images, values).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "KXM"}, "one of KPM, KNM"),
        ({"metric": "KPM", "batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"metric": "KPM", "fractions": (0.5,)}, "two or more, growing"),
        ({"metric": "KPM", "fractions": (0.5, 0.5)}, "two or more, growing"),
        ({"metric": "KPM", "fractions": (0.5, 1.5)}, "from 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        MaskedArea(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 4}, "odd size"),
        ({"size": 1}, "3 pixels or more"),
        ({"sigma": 0.0}, "positive sigma"),
        ({"side": 0}, "number of pixels, or None; got 0"),
    ],
)
def test_an_impossible_blur_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        WindowBlur(**settings)


def test_a_window_larger_than_the_image_is_refused(images):
    with pytest.raises(SettingError, match=r"more than 25; got \(6, 10\)"):
        WindowBlur(side=None)(images)


def test_maps_that_do_not_fit_or_are_not_finite_are_refused(model, images, values):
    f = explained(model, "KPM")
    with pytest.raises(ShapeError, match="one map per image"):
        MaskedArea(metric="KPM")(f, images, values.transpose(2, 3))
    with pytest.raises(NumericsError, match="1 of 600 attributions are NaN"):
        broken = values.clone()
        broken[0, 0, 0, 0] = torch.nan
        MaskedArea(metric="KPM")(f, images, broken)
