"""Perturbation metrics against loops that restate them, and their closed cases by number."""

import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import nn

from whence.attribution import SLIC, Grid
from whence.core import Custom, Mean, ModelScalar, Uniform, Zero, logit
from whence.errors import SettingError, ShapeError
from whence.evaluation import (
    IROF,
    ROAD,
    SRG,
    Deletion,
    Hit,
    Insertion,
    MaskedArea,
    NoisyLinear,
    PixelFlipping,
    RegionPerturbation,
    Squares,
    random_order,
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
def chance(model):
    """The probability of class 1."""
    return ModelScalar(model, Custom(lambda logits: logits.softmax(1)[:, 1]))


def segment_means(image_values, labels):
    """The mean attribution of each segment of one image."""
    flat, own = image_values.sum(0).flatten(), labels.flatten()
    return [flat[own == k].mean().item() for k in range(int(own.max()) + 1)]


def naive_curve(f, images, row, values, labels, fill, ends):
    """Remove segments of one image, highest mean first; evaluate after each number of them."""
    means = segment_means(values[row], labels[row])
    order = sorted(range(len(means)), key=lambda k: -means[k])
    one = f.at(torch.tensor([row]))
    points = []
    for end in ends:
        gone = sum((labels[row] == k for k in order[:end]), torch.zeros_like(labels[row])) > 0
        changed = torch.where(gone, fill(images)[row], images[row])
        with torch.no_grad():
            points.append(one(changed[None]).item())
    return points


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("order", ["most", "least"])
def test_pixel_flipping_is_a_loop_over_pixels(order, batch_size, f, images, values):
    found = PixelFlipping(order=order, steps=48, batch_size=batch_size).curve(f, images, values)
    signed = values if order == "most" else -values
    for row in range(3):
        wanted = naive_curve(f, images, row, signed, Squares()(images), Zero(), range(49))
        torch.testing.assert_close(found.values[row], torch.tensor(wanted).double())
    torch.testing.assert_close(found.fractions, torch.arange(49).double() / 48)


def test_most_relevant_first_onto_zero_is_deletion(f, images, values):
    torch.testing.assert_close(
        PixelFlipping(steps=7)(f, images, values), Deletion(steps=7)(f, images, values)
    )


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize(("size", "steps"), [(3, 4), (4, 100)])
def test_aopc_is_the_mean_fall_over_a_loop_of_regions(size, steps, order, f, images, values):
    metric = RegionPerturbation(order=order, segments=Squares(size=size), steps=steps)
    found = metric(f, images, values)
    signed = values if order == "most" else -values
    labels = Squares(size=size)(images)
    last = min(steps, int(labels.max()) + 1)
    for row in range(3):
        points = naive_curve(f, images, row, signed, labels, Uniform(), range(last + 1))
        wanted = sum(points[0] - point for point in points) / (last + 1)
        assert found[row].item() == pytest.approx(wanted, rel=1e-9)


def uneven(images):
    """Nine regions in the first image, five in the second, seven in the third."""
    labels = Grid(cells=3)(images).clone()
    labels[1] = labels[1].clamp(max=4)
    labels[2] = labels[2].clamp(max=6)
    return labels


@pytest.mark.parametrize("steps", [6, 100])
def test_aopc_of_images_with_fewer_regions_ends_with_their_last(steps, f, images, values):
    found = RegionPerturbation(segments=uneven, steps=steps, fill=Zero())(f, images, values)
    for row, count in enumerate((9, 5, 7)):
        last = min(steps, count)
        points = naive_curve(f, images, row, values, uneven(images), Zero(), range(last + 1))
        wanted = sum(points[0] - point for point in points) / (last + 1)
        assert found[row].item() == pytest.approx(wanted, rel=1e-9)


def test_road_leaves_one_pixel_of_every_image(f, images, values):
    imputer = NoisyLinear(noise=0.0, tolerance=1e-12)
    found = ROAD(order="most", shares=(0.999,), fill=imputer)(f, images, values)
    for row in range(3):
        gone = torch.ones(48, dtype=torch.bool)
        gone[values[row].sum(0).flatten().argmin()] = False
        changed = naive_imputation(images[row], gone.view(6, 8))
        with torch.no_grad():
            wanted = f.at(torch.tensor([row]))(changed[None]).item()
        assert found[row].item() == pytest.approx(wanted, rel=1e-8)


def test_squares_are_cut_from_the_upper_left():
    labels = Squares(size=3)(torch.zeros(2, 1, 4, 7))
    assert labels[0].tolist() == [[0, 0, 0, 1, 1, 1, 2]] * 3 + [[3, 3, 3, 4, 4, 4, 5]]
    assert labels.shape == (2, 4, 7)


def test_irof_is_the_area_over_a_loop_of_superpixels_whose_number_differs(chance, images, values):
    def segments(images):
        labels = Grid(cells=3)(images).clone()
        labels[1] = labels[1].clamp(max=4)
        return labels

    found = IROF(segments=segments)(chance, images, values)
    for row in range(3):
        count = 5 if row == 1 else 9
        points = naive_curve(
            chance, images, row, values, segments(images), Mean(), range(count + 1)
        )
        ratios = torch.tensor(points) / points[0]
        assert found[row].item() == pytest.approx(
            1 - torch.trapezoid(ratios).item() / count, rel=1e-5
        )


def test_irof_of_a_flat_curve_is_zero_however_many_superpixels_there_are(images, values):
    pytest.importorskip("skimage")
    flat = ModelScalar(lambda x: x.new_full((len(x), 3), 0.4), logit(0))
    for segments in (SLIC(segments=6), Grid(cells=2), Squares()):
        assert IROF(segments=segments)(flat, images, values).tolist() == pytest.approx([0] * 3)
    none = ModelScalar(lambda x: x.new_zeros((len(x), 3)), logit(0))
    assert IROF(segments=Squares(size=2))(none, images, values).isnan().all()


def test_irof_of_no_probability_is_refused(f, images, values):
    with pytest.raises(SettingError, match="must be a probability"):
        IROF(segments=Squares(size=2))(f, images, values)


def test_property_45_deletion_is_insertion_of_the_opposite_read_backwards(f, images, values):
    deleted = Deletion(steps=12, fill=Zero())(f, images, values)
    inserted = Insertion(steps=12, fill=Zero())(f, images, -values)
    torch.testing.assert_close(deleted, inserted)
    flipped = PixelFlipping(order="least", steps=12)(f, images, values)
    torch.testing.assert_close(flipped, Insertion(steps=12, fill=Zero())(f, images, values))


def naive_imputation(image, gone):
    """One sparse system for one image, solved by scipy."""
    height, width = gone.shape
    holes = gone.nonzero().tolist()
    number = {tuple(at): k for k, at in enumerate(holes)}
    matrix = lil_matrix((len(holes), len(holes)))
    right = torch.zeros(len(holes), image.shape[0], dtype=torch.float64)
    for k, (row, column) in enumerate(holes):
        for down in (-1, 0, 1):
            for along in (-1, 0, 1):
                at = (row + down, column + along)
                if at == (row, column) or not (0 <= at[0] < height and 0 <= at[1] < width):
                    continue
                weight = 1 / 6 if down == 0 or along == 0 else 1 / 12
                matrix[k, k] += weight
                if at in number:
                    matrix[k, number[at]] -= weight
                else:
                    right[k] += weight * image[:, *at]
    solved = torch.from_numpy(spsolve(matrix.tocsr(), right.numpy())).view(len(holes), -1)
    made = image.clone()
    for k, at in enumerate(holes):
        made[:, *at] = solved[k]
    return made


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_an_imputation_solves_the_sparse_system_of_each_image(share):
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(4, 2, 9, 12, generator=generator, dtype=torch.float64)
    gone = torch.rand(4, 1, 9, 12, generator=generator) < share
    gone[:, :, 4, 5] = False
    found = NoisyLinear(noise=0.0, tolerance=1e-12).impute(images, gone)
    for row in range(4):
        torch.testing.assert_close(found[row], naive_imputation(images[row], gone[row, 0]))


def test_property_47_constants_and_ramps_inside_are_reproduced_without_noise():
    gone = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    gone[0, 0, 3:12, 4:13] = True
    gone[1, 0, ::2, ::3] = True
    gone[1, 0, :, 0] = gone[1, 0, 0] = False
    gone[1, 0, :, -1] = gone[1, 0, -1] = False
    constant = torch.full((2, 3, 16, 16), 0.7, dtype=torch.float64)
    imputer = NoisyLinear(noise=0.0, tolerance=1e-10)
    torch.testing.assert_close(imputer.impute(constant, gone), constant)
    rows = torch.arange(16, dtype=torch.float64)
    ramp = (rows[:, None] - 2 * rows).expand(2, 3, -1, -1)
    torch.testing.assert_close(imputer.impute(ramp, gone), ramp)
    everywhere = torch.ones_like(gone)
    everywhere[:, :, 5, 5] = False
    torch.testing.assert_close(imputer.impute(constant, everywhere), constant)


def test_the_noise_is_a_fraction_of_the_images_range_and_only_where_pixels_are_gone():
    image = torch.zeros(1, 1, 64, 64)
    image[..., 0] = 5.0
    image[..., 63] = -5.0
    gone = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    gone[..., 1:-1] = True
    clean = NoisyLinear(noise=0.0).impute(image, gone)
    noisy = NoisyLinear(noise=0.01).impute(image, gone)
    assert torch.equal(noisy[..., [0, 63]], image[..., [0, 63]])
    assert (noisy - clean)[gone].std().item() == pytest.approx(0.1, rel=0.05)
    pair = NoisyLinear().impute(torch.cat([2 * image, image]), torch.cat([gone, gone]))
    torch.testing.assert_close(pair[1:], noisy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["most", "least", "both"])
def test_road_is_a_loop_over_shares_with_imputed_images(order, f, images, values):
    shares, imputer = (0.25, 0.5, 0.75), NoisyLinear(noise=0.0, tolerance=1e-12)
    found = ROAD(order=order, shares=shares, fill=imputer)(f, images, values)
    for row in range(3):
        ranked = values[row].sum(0).flatten()
        means = {}
        for kind, descending in (("most", True), ("least", False)):
            points = []
            for share in shares:
                chosen = ranked.argsort(descending=descending)[: round(share * 48)]
                gone = torch.zeros(48, dtype=torch.bool).scatter_(0, chosen, value=True)
                changed = naive_imputation(images[row], gone.view(6, 8))
                with torch.no_grad():
                    points.append(f.at(torch.tensor([row]))(changed[None]).item())
            means[kind] = sum(points) / 3
        means["both"] = (means["least"] - means["most"]) / 2
        assert found[row].item() == pytest.approx(means[order], rel=1e-8)


def test_road_of_hits_is_an_accuracy(model, images, values):
    f = ModelScalar(model, Hit(LABELS))
    found = ROAD(order="most")(f, images, values)
    assert all(0 <= 9 * v <= 9 and 9 * v == pytest.approx(round(9 * v)) for v in found.tolist())


@pytest.mark.parametrize("segments", [Squares(), Squares(size=3)])
def test_property_48_srg_of_the_opposite_is_the_opposite(segments, f, images, values):
    coarse = values.round()  # many ties
    for some in (values, coarse, torch.zeros_like(values)):
        metric = SRG(segments=segments, steps=9)
        assert torch.equal(metric(f, images, some), -metric(f, images, -some))
    road = ROAD()
    assert torch.equal(road(f, images, coarse), -road(f, images, -coarse))


def test_property_48_srg_of_random_maps_is_about_zero(f, model, images, values):
    rows = torch.zeros(400, dtype=torch.long)
    generator = torch.Generator().manual_seed(1)
    random = torch.rand(400, 1, 6, 8, generator=generator).double()
    gains = SRG(steps=8)(f.at(rows), images[rows], random)
    error = gains.std().item() / 20
    assert abs(gains.mean().item()) < 2.5 * error
    with torch.no_grad():
        torch.testing.assert_close(
            SRG(steps=8)(f, images, values),
            PixelFlipping(order="least", steps=8)(f, images, values)
            - PixelFlipping(order="most", steps=8)(f, images, values),
        )


def test_every_metric_prefers_true_contributions_to_a_random_order():
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(1, 6, 8, generator=generator, dtype=torch.float64)
    images = torch.rand(10, 1, 6, 8, generator=generator, dtype=torch.float64)
    f = ModelScalar(lambda x: (x * weights).sum(dim=(1, 2, 3))[:, None], logit(0))
    p = ModelScalar(
        lambda x: (x * weights).sum(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0].sigmoid(), logit(0)
    )
    control = random_order(images)
    for metric in (
        PixelFlipping(),
        PixelFlipping(order="least"),
        RegionPerturbation(segments=Squares(size=2), fill=Zero()),
        RegionPerturbation(order="least", segments=Squares(size=2), fill=Zero()),
        SRG(),
        SRG(segments=Squares(size=2)),
        IROF(segments=Squares(size=2), fill=Zero()),
    ):
        g = p if isinstance(metric, IROF) else f
        better = metric(g, images, images * weights) - metric(g, images, control)
        sign = 1 if metric.card.better == "higher" else -1
        assert (sign * better > 0).all(), metric


def test_an_imputer_is_a_fill_of_the_masking_metrics_too(f, images, values):
    plain = MaskedArea(metric="KPM", fractions=(0.3, 0.9))
    other = MaskedArea(metric="KPM", fractions=(0.3, 0.9), fill=NoisyLinear(noise=0.0))
    found = other.curve(f, images, values).values[0, 0].item()
    ranked = values[0].sum(0).flatten()
    kept = ranked.clamp(min=0).topk(int(0.3 * 48)).indices
    gone = torch.ones(48, dtype=torch.bool).scatter_(0, kept, value=False)
    with torch.no_grad():
        wanted = f.at(torch.tensor([0]))(naive_imputation(images[0], gone.view(6, 8))[None])
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    assert (other(f, images, values) != plain(f, images, values)).all()


def test_where_nothing_is_left_an_imputation_ends_at_the_mean_colour(f, images, values):
    curve = PixelFlipping(fill=NoisyLinear(noise=0.0), steps=4).curve(f, images, values)
    with torch.no_grad():
        torch.testing.assert_close(curve.values[:, -1], f(Mean()(images)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelFlipping(order="both"), "one of most, least; got 'both'"),
        (lambda: RegionPerturbation(order="x"), "one of most, least"),
        (lambda: ROAD(order="x"), "one of most, least"),
        (lambda: ROAD(shares=(0.5, 1.0)), "over 0 and under 1"),
        (lambda: ROAD(shares=()), "over 0 and under 1"),
        (lambda: SRG(steps=0), "steps must be at least 1; got 0"),
        (lambda: IROF(segments=Squares(), batch_size=0), "batch_size must be at least 1; got 0"),
        (lambda: Squares(size=0), "1 or more; got 0"),
        (lambda: NoisyLinear(noise=-1.0), "noise of 0 or more"),
        (lambda: NoisyLinear(tolerance=0.0), "a tolerance above 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def test_maps_and_segments_that_do_not_fit_are_refused(f, images, values):
    with pytest.raises(ShapeError, match=r"Attributions must fit the images, \(3, 6, 8\)"):
        SRG()(f, images, values.transpose(2, 3))
    with pytest.raises(ShapeError, match=r"Segments must fit the images, \(3, 6, 8\); got \(1, 6"):
        SRG(segments=lambda x: Squares()(x[:1]))(f, images, values)
