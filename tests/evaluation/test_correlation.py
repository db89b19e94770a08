"""Correlations, infidelity, monotonicity and the gap against loops in float64 and closed forms."""

import itertools

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from whence.attribution import Grid, References
from whence.core import (
    Blur,
    Colour,
    Custom,
    Mean,
    ModelScalar,
    Noise,
    Normalisation,
    Shuffled,
    Uniform,
    Zero,
    baseline_named,
    logit,
)
from whence.errors import NumericsError, SettingError, ShapeError
from whence.evaluation import (
    IDSDS,
    IROF,
    ROAD,
    SRG,
    AddedNoise,
    Completeness,
    CompletenessGap,
    Deletion,
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    Infidelity,
    Insertion,
    MaskedArea,
    Monotonicity,
    MonotonicityCorrelation,
    NoisyLinear,
    PixelFlipping,
    RegionPerturbation,
    RemovedSquares,
    SensitivityN,
    Soundness,
    Squares,
    Tiles,
    random_order,
)
from whence.evaluation import (
    Mean as MeanOverImages,
)

LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return net.double().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(4)).double()


@pytest.fixture(scope="module")
def values(images):
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(5)).double()


@pytest.fixture(scope="module")
def f(model):
    return ModelScalar(model, logit(LABELS))


@pytest.fixture(scope="module")
def line():
    """A linear function, with the weights that are its gradient."""
    weights = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(6)).double()
    return ModelScalar(lambda x: (x * weights).sum((1, 2, 3))[:, None], logit(0)), weights


def value(f, row, image):
    with torch.no_grad():
        return f.at(torch.tensor([row]))(image[None]).item()


def without(images, row, gone, fill):
    return torch.where(gone, fill(images)[row], images[row])


def some_segments(images):
    """Six segments in the first image, four in the second, seven in the third."""
    labels = Squares(size=3)(images).clone()
    labels[0, -1, -1] = 6
    labels[0] = labels[0].clamp(max=5)
    labels[1] = labels[1].clamp(max=3)
    labels[2, 0, 0] = 6
    return labels


def subsets_of(count, most, share, draws):
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(most, generator=generator).tolist() for _ in range(draws)]
    size = max(1, round(share * count))
    return [[k for k in order if k < count][:size] for order in orders]


@pytest.mark.parametrize("batch_size", [5, 64])
@pytest.mark.parametrize("segments", [Squares(), some_segments], ids=["pixels", "uneven"])
def test_a_faithfulness_correlation_is_a_loop_over_subsets(segments, batch_size, f, images, values):
    labels = segments(images)
    metric = FaithfulnessCorrelation(
        share=0.3, subsets=12, segments=segments, fill=Mean(), batch_size=batch_size
    )
    found = metric(f, images, values)
    for row in range(3):
        count, most = int(labels[row].max()) + 1, int(labels.max()) + 1
        sums, falls = [], []
        for chosen in subsets_of(count, most, 0.3, 12):
            gone = torch.isin(labels[row], torch.tensor(chosen))
            sums.append(values[row].sum(0)[gone].sum().item())
            changed = without(images, row, gone, Mean())
            falls.append(value(f, row, images[row]) - value(f, row, changed))
        assert found[row].item() == pytest.approx(pearsonr(sums, falls).statistic, abs=1e-9)


def test_sensitivity_n_is_the_mean_of_the_correlations_of_each_size(f, images, values):
    metric = SensitivityN(shares=(0.1, 0.4), subsets=20)
    each = [
        FaithfulnessCorrelation(share=share, subsets=20, fill=Zero())(f, images, values)
        for share in (0.1, 0.4)
    ]
    torch.testing.assert_close(metric.curve(f, images, values).values, torch.stack(each, dim=1))
    torch.testing.assert_close(metric(f, images, values), torch.stack(each).mean(0))


def test_a_faithfulness_estimate_is_a_loop_over_segments(f, images, values):
    for segments in (Tiles(across=3), some_segments):
        found = FaithfulnessEstimate(segments=segments, batch_size=7)(f, images, values)
        labels = segments(images)
        for row in range(3):
            sums, falls = [], []
            for k in range(int(labels[row].max()) + 1):
                gone = labels[row] == k
                sums.append(values[row].sum(0)[gone].sum().item())
                changed = without(images, row, gone, Zero())
                falls.append(value(f, row, images[row]) - value(f, row, changed))
            assert found[row].item() == pytest.approx(pearsonr(sums, falls).statistic, abs=1e-9)


def test_a_monotonicity_correlation_is_a_loop_over_segments_and_draws(f, images, values):
    for segments in (Tiles(across=3), some_segments):
        metric = MonotonicityCorrelation(segments=segments, samples=3, batch_size=7)
        found = metric(f, images, values)
        labels = segments(images)
        generator = torch.Generator().manual_seed(0)
        fills = [Uniform().draw(images, generator) for _ in range(3)]
        for row in range(3):
            sums, squares = [], []
            for k in range(int(labels[row].max()) + 1):
                gone = labels[row] == k
                sums.append(abs(values[row].sum(0)[gone].sum().item()))
                changed = [torch.where(gone, fill[row], images[row]) for fill in fills]
                falls = [value(f, row, images[row]) - value(f, row, c) for c in changed]
                squares.append(sum(fall**2 for fall in falls) / 3)
            wanted = spearmanr(sums, squares).statistic
            assert found[row].item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("graded", [True, False])
def test_monotonicity_is_a_loop_that_puts_segments_back(graded, f, images, values):
    found = Monotonicity(segments=some_segments, graded=graded)(f, images, values)
    labels = some_segments(images)
    for row in range(3):
        count = int(labels[row].max()) + 1
        means = [values[row].sum(0)[labels[row] == k].mean().item() for k in range(count)]
        shown, points = torch.zeros_like(images[row]), []
        points.append(value(f, row, shown))
        for k in sorted(range(count), key=lambda k: means[k]):
            shown = torch.where(labels[row] == k, images[row], shown)
            points.append(value(f, row, shown))
        rises = [b >= a for a, b in itertools.pairwise(points)]
        wanted = sum(rises) / count if graded else float(all(rises))
        assert found[row].item() == pytest.approx(wanted)


def test_monotonicity_of_positive_contributions_is_one_and_of_negative_ones_zero():
    ones = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    f = ModelScalar(lambda x: x.sum((1, 2, 3))[:, None], logit(0))
    fallen = ModelScalar(lambda x: -x.sum((1, 2, 3))[:, None], logit(0))
    assert Monotonicity()(f, ones, ones).tolist() == [1, 1]
    assert Monotonicity()(fallen, ones, ones).tolist() == [0, 0]
    assert Monotonicity(graded=True)(fallen, ones, ones).tolist() == [0, 0]


def test_a_step_that_changes_nothing_does_not_fall():
    halves = torch.ones(1, 1, 8, 8)
    f = ModelScalar(lambda x: x[:, :, :4].sum((1, 2, 3))[:, None], logit(0))
    lower = torch.arange(64.0).view(1, 1, 8, 8)  # the lower half, which is not looked at, is last
    for values in (lower, -lower):
        assert Monotonicity()(f, halves, values).tolist() == [1]
        assert Monotonicity(graded=True)(f, halves, values).tolist() == [1]
        assert Monotonicity(graded=True)(f, -halves, values).tolist() == [0.5]


def test_property_46_contributions_of_a_linear_function_are_perfect(line, images):
    f, weights = line
    true = images * weights
    for metric in (
        FaithfulnessCorrelation(fill=Zero()),
        SensitivityN(shares=(0.1, 0.5)),
        FaithfulnessEstimate(),
        FaithfulnessEstimate(segments=Squares()),
        MonotonicityCorrelation(fill=Zero()),
    ):
        torch.testing.assert_close(metric(f, images, true), torch.ones(3).double())
    shifted = weights * (images - Mean()(images))
    found = FaithfulnessCorrelation(fill=Mean())(f, images, shifted)
    torch.testing.assert_close(found, torch.ones(3).double())
    for scaled in (True, False):
        zero = torch.zeros(3).double()
        removed, noisy = (
            Infidelity(scaled=scaled),
            Infidelity(scaled=scaled, perturbation=AddedNoise()),
        )
        torch.testing.assert_close(removed(f, images, true), zero, atol=1e-20, rtol=0)
        gradient = weights.expand_as(images)
        torch.testing.assert_close(noisy(f, images, gradient), zero, atol=1e-20, rtol=0)
    assert (Infidelity(scaled=False)(f, images, 2 * true) > 1e-3).all()
    torch.testing.assert_close(Infidelity()(f, images, 2 * true), zero, atol=1e-20, rtol=0)


def test_a_correlation_of_the_opposite_map_is_the_opposite(f, images, values):
    for metric in (FaithfulnessCorrelation(), SensitivityN(), FaithfulnessEstimate()):
        torch.testing.assert_close(metric(f, images, values), -metric(f, images, -values))


def test_infidelity_of_squares_is_a_mean_over_a_loop(f, images, values):
    perturbation = RemovedSquares(fill=Mean(), largest=0.5)
    change = perturbation.on(images, values)
    for scaled in (True, False):
        for relative in (True, False):
            metric = Infidelity(
                perturbation=perturbation,
                scaled=scaled,
                relative=relative,
                samples=15,
                batch_size=7,
            )
            found = metric(f, images, values)
            for row in range(3):
                told, falls = [], []
                for k in range(15):
                    made, foretold = change(torch.tensor([k]))(slice(row, row + 1))
                    gone = (made[0] != images[row]).all(dim=0)
                    rows, columns = gone.any(1).sum().item(), gone.any(0).sum().item()
                    assert rows == columns <= 3
                    assert gone.sum() == rows * columns
                    assert torch.equal(made[0], without(images, row, gone, Mean()))
                    told.append(values[row].sum(0)[gone].sum().item())
                    assert foretold.item() == pytest.approx(told[-1], rel=1e-12)
                    falls.append(value(f, row, images[row]) - value(f, row, made[0]))
                beta = 1.0
                if scaled:
                    beta = sum(t * d for t, d in zip(told, falls, strict=True))
                    beta /= sum(t * t for t in told)
                wanted = sum((beta * t - d) ** 2 for t, d in zip(told, falls, strict=True)) / 15
                wanted /= sum(d * d for d in falls) / 15 if relative else 1
                assert found[row].item() == pytest.approx(wanted, rel=1e-9)


def test_infidelity_of_noise_subtracts_what_it_multiplies_with(f, images, values):
    perturbation = AddedNoise(sigma=0.1)
    change = perturbation.on(images, values)
    made, foretold = change(torch.tensor([0, 4]))(slice(1, 3))
    drawn = images[1:3].repeat_interleave(2, dim=0) - made
    by_hand = (values[1:3].repeat_interleave(2, dim=0) * drawn).flatten(1).sum(dim=1)
    torch.testing.assert_close(foretold, by_hand.view(2, 2))
    span = images[1].max() - images[1].min()
    many = change(torch.arange(300))(slice(1, 2))[0]
    assert (images[1] - many).std().item() == pytest.approx(0.1 * span.item(), rel=0.02)
    summed = values.sum(1, keepdim=True)
    made, _ = perturbation.on(images, summed)(torch.tensor([0]))(slice(1, 2))
    drawn = images[1:2] - made
    torch.testing.assert_close(drawn[:, :1].expand_as(drawn), drawn)
    assert Infidelity(perturbation=perturbation, samples=9)(f, images, summed).isfinite().all()


def test_a_scaled_and_relative_infidelity_is_at_most_one_and_zeros_get_it(f, images, values):
    metric = Infidelity(relative=True, samples=40)
    assert (metric(f, images, values) <= 1).all()
    assert metric(f, images, torch.zeros_like(values)).tolist() == pytest.approx([1, 1, 1])
    flat = ModelScalar(lambda x: x.new_full((len(x), 1), 0.4), logit(0))
    assert metric(flat, images, values).isnan().all()
    assert (Infidelity(samples=40)(flat, images, values) == 0).all()


def test_the_gap_is_what_is_missing_of_the_difference(line, images):
    f, weights = line
    true = images * weights
    whole = f(images)
    assert (CompletenessGap()(f, images, true) < 1e-12).all()
    torch.testing.assert_close(
        CompletenessGap()(f, images, 0.9 * true), torch.full((3,), 0.1).double()
    )
    torch.testing.assert_close(
        CompletenessGap(relative=False)(f, images, 0.9 * true), 0.1 * whole.abs()
    )
    assert CompletenessGap(tolerance=0.05).complete(f, images, 0.96 * true).all()
    assert not CompletenessGap(tolerance=0.03).complete(f, images, 0.96 * true).any()
    offset = ModelScalar(lambda x: f(x)[:, None] + 5, logit(0))
    assert (CompletenessGap()(offset, images, true) < 1e-12).all()
    torch.testing.assert_close(
        CompletenessGap(fill=None, relative=False)(offset, images, true),
        torch.full((3,), 5.0).double(),
    )
    same = torch.zeros_like(images)
    assert CompletenessGap()(f, same, true).isnan().all()
    assert CompletenessGap()(f, same, same).tolist() == [0, 0, 0]


def test_maps_that_say_nothing_get_nan_and_so_does_a_value_that_nothing_changes(f, images, values):
    flat = ModelScalar(lambda x: x.new_full((len(x), 1), 0.4), logit(0))
    for metric in (
        FaithfulnessCorrelation(share=0.3),
        SensitivityN(shares=(0.3,)),
        FaithfulnessEstimate(segments=Tiles(across=3)),
        MonotonicityCorrelation(segments=Squares(size=2)),
    ):
        for constant in (0.0, 0.1):
            assert metric(f, images, torch.full_like(values, constant)).isnan().all() or (
                constant and isinstance(metric, FaithfulnessEstimate)  # tiles of unequal sizes
            )
        assert metric(flat, images, values).isnan().all()
        broken = values.clone()
        broken[1, 0, 2, 3] = torch.nan
        with pytest.raises(NumericsError, match=r"1 of 288 attributions.*image 1"):
            metric(f, images, broken)
        with pytest.raises(ShapeError, match=r"Attributions must fit the images, \(3, 6, 8\)"):
            metric(f, images, values.transpose(2, 3))


def test_a_random_map_gets_about_nothing(line, images):
    f, _ = line
    rows = torch.zeros(200, dtype=torch.long)
    random = torch.randn(200, 1, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    for metric in (FaithfulnessCorrelation(share=0.3), FaithfulnessEstimate(segments=Squares())):
        found = metric(f.at(rows), images[rows], random)
        assert abs(found.mean().item()) < 3 * found.std().item() / 200**0.5


def test_results_do_not_depend_on_how_images_are_cut_and_means_merge(f, images, values):
    for metric in (FaithfulnessCorrelation(), Infidelity(samples=20), CompletenessGap()):
        every = torch.arange(3)
        whole, left, right = (MeanOverImages() for _ in range(3))
        whole.update(every, metric(f, images, values))
        left.update(every[:2], metric(f.at(every[:2]), images[:2], values[:2]))
        right.update(every[2:], metric(f.at(every[2:]), images[2:], values[2:]))
        merged = left.merge(right).result()
        assert merged.mean == pytest.approx(whole.result().mean, rel=1e-9)


FILLS = {
    "zero": Zero(),
    "black": Colour(value=(0.0,), normalisation=Normalisation(mean=(0.4,), std=(0.2,))),
    "mean": Mean(),
    "blur": Blur(),
    "uniform": Uniform(),
    "noise": Noise(),
    "shuffled": Shuffled(),
    "bank": References(
        images=torch.randn(4, 2, 6, 8, generator=torch.Generator().manual_seed(1)).double()
    ),
    "road": NoisyLinear(),
}

TAKES_FILLS = {
    "deletion": Deletion(steps=4),
    "insertion": Insertion(steps=4),
    "pixel flipping": PixelFlipping(steps=4),
    "aopc": RegionPerturbation(segments=Squares(size=2), steps=30),
    "srg": SRG(steps=4),
    "road": ROAD(shares=(0.5,)),
    "irof": IROF(segments=Squares(size=3)),
    "idsds": IDSDS(grid=3),
    "kpm": MaskedArea(metric="KPM"),
    "completeness": Completeness(steps=4),
    "soundness": Soundness(steps=4),
    "correlation": FaithfulnessCorrelation(subsets=5),
    "sensitivity-n": SensitivityN(subsets=5),
    "estimate": FaithfulnessEstimate(segments=Tiles(across=3)),
    "monotonicity correlation": MonotonicityCorrelation(segments=Tiles(across=3), samples=2),
    "monotonicity": Monotonicity(),
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", TAKES_FILLS)
def test_every_perturbation_metric_takes_every_fill(name, fill, model, images, values):
    from dataclasses import replace

    chance = ModelScalar(model, Custom(lambda logits: logits.softmax(1)[:, 1]))
    metric = replace(TAKES_FILLS[name], fill=FILLS[fill])
    found = metric(chance, images, values)
    assert found.shape == (3,)
    assert found.isfinite().all()
    if fill not in ("zero", "blur"):
        other = replace(metric, fill=Zero())(chance, images, values)
        assert name in ("monotonicity", "soundness") or (found != other).any()


@pytest.mark.parametrize("fill", FILLS)
def test_infidelity_takes_every_fill(fill, f, images, values):
    metric = Infidelity(perturbation=RemovedSquares(fill=FILLS[fill]), samples=9)
    assert metric(f, images, values).isfinite().all()


def test_black_is_the_pixel_zero_in_every_metric_not_the_mean_colour(images, values):
    units = Normalisation(mean=(0.5,), std=(0.25,))
    seen = []

    def model(x):
        seen.append(units.to_pixels(x))
        return x.sum((1, 2, 3))[:, None]

    f = ModelScalar(model, logit(0))
    black = baseline_named("black", units)
    Deletion(steps=1, fill=black)(f, images, values)
    assert (torch.cat(seen)[1::2] == 0).all()
    every = RemovedSquares(fill=black, largest=1.0).on(images, values)
    made, _ = every(torch.arange(20))(slice(0, 1))
    gone = made != images[:1]
    assert gone.any()
    assert (units.to_pixels(made)[gone] == 0).all()


def test_nothing_left_to_impute_from_gives_the_mean_colour(images):
    gone = torch.ones(3, 1, 6, 8, dtype=torch.bool)
    found = NoisyLinear(noise=0.0).impute(images, gone)
    torch.testing.assert_close(found, Mean()(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FaithfulnessCorrelation(subsets=2), "at least 3 subsets, better 100; got 2"),
        (lambda: FaithfulnessCorrelation(share=1.0), "over 0 and under 1"),
        (lambda: SensitivityN(shares=()), "over 0 and under 1"),
        (lambda: FaithfulnessEstimate(batch_size=0), "batch_size must be at least 1"),
        (lambda: MonotonicityCorrelation(samples=0), "samples must be at least 1; got 0"),
        (lambda: Monotonicity(batch_size=0), "batch_size must be at least 1"),
        (lambda: Infidelity(samples=0), "samples must be at least 1"),
        (lambda: RemovedSquares(largest=0.0), "over 0 to 1; got 0"),
        (lambda: AddedNoise(sigma=0.0), "over 0; got 0"),
        (lambda: CompletenessGap(tolerance=-1.0), "0 or more; got -1"),
        (lambda: Tiles(across=0), "1 or more; got 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def test_too_few_segments_for_a_correlation_are_refused_per_image(f, images, values):
    def segments(images):
        labels = Squares(size=2)(images).clone()
        labels[1] = labels[1].clamp(max=1)
        return labels

    with pytest.raises(ShapeError, match="1 of 3 images have fewer, first image 1 with 2"):
        FaithfulnessEstimate(segments=segments)(f, images, values)
    with pytest.raises(SettingError, match="all of them, so all subsets are the same"):
        FaithfulnessCorrelation(share=0.9, segments=Grid(cells=2))(f, images, values)
    with pytest.raises(ShapeError, match="one map per image"):
        Infidelity()(f, images, values.transpose(2, 3))
    with pytest.raises(
        ShapeError, match=r"One map per image is needed, of the image's size; got \(2, 2"
    ):
        CompletenessGap()(f, images, values[:2])


def test_tiles_number_as_many_whatever_the_size():
    labels = Tiles(across=2)(torch.zeros(2, 1, 5, 4))
    assert labels[0].tolist() == [[0, 0, 1, 1]] * 3 + [[2, 2, 3, 3]] * 2
    assert Tiles(across=14)(torch.zeros(1, 1, 3, 5)).unique().tolist() == list(range(15))


def test_true_contributions_beat_the_random_order(line, images):
    f, weights = line
    control = random_order(images)
    for metric in (FaithfulnessCorrelation(), FaithfulnessEstimate(), Infidelity()):
        better = metric(f, images, weights * (images - Mean()(images))) - metric(f, images, control)
        sign = 1 if metric.card.better == "higher" else -1
        assert (sign * better > 0).all(), metric
