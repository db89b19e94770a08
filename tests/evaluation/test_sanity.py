import copy
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from scipy.stats import entropy, spearmanr
from torch import nn

from whence.core import ImageData, ModelScalar, TensorData, logit
from whence.errors import DataError, SettingError
from whence.evaluation import (
    Cascade,
    ConstantMap,
    DataRandomisation,
    EdgeMap,
    EfficientRandomisation,
    ParameterRandomisation,
    RandomMap,
    RedrawnMap,
    SmoothRandomisation,
    Spearman,
    permuted_labels,
)
from whence.evaluation.smooth_randomisation import Smoothed
from whence.network import Network

ORDERS = ["top-down", "bottom-up", "independent"]


class ViT(nn.Module):
    """A transformer with a class token, positions and PyTorch's own attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 10, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), tokens], dim=1)
        tokens = self.norm(tokens + self.positions)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head((tokens + mixed)[:, 0])


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(3).get_state())
        made = ViT().eval()
        with torch.no_grad():
            for parameter in made.parameters():  # so that none is zero everywhere
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return made


@pytest.fixture
def images(generator):
    return torch.randn(3, 1, 12, 12, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Gradient:
    def __call__(self, f, images):
        images = images.detach().clone().requires_grad_()
        return torch.autograd.grad(f(images).sum(), images)[0]


@dataclass(frozen=True, kw_only=True)
class Held:
    """Keeps the parameters of each call and shows the images."""

    seen: list

    def __call__(self, f, images):
        self.seen.append({n: p.detach().clone() for n, p in f.model.parameters.items()})
        return images


def changes(model, images, order):
    seen = []
    made = ParameterRandomisation(order=order)(model, images, logit(1), Held(seen=seen))
    first = seen[0]
    assert set(first) == {name for name, _ in model.named_parameters()}
    return made, [{n for n in first if not torch.equal(first[n], s[n])} for s in seen[1:]]


@pytest.mark.parametrize("order", ORDERS)
def test_every_number_of_a_vision_transformer_is_redrawn(model, images, order):
    made, changed = changes(model, images, order)
    expected = {name for name, _ in model.named_parameters()}
    assert {"attention.in_proj_weight", "token", "positions"} < expected
    assert set().union(*changed) == expected
    if order == "independent":
        assert sum(map(len, changed)) == len(expected)  # one layer at a time
    else:
        assert changed[-1] == expected
        assert all(a < b for a, b in pairwise(changed))
    first, last = ("head", "embed") if order != "bottom-up" else ("embed", "head")
    assert (made.layers[0], made.layers[-1]) == (first, last)


@pytest.mark.parametrize("order", ORDERS)
def test_property_50_a_map_of_the_image_alone_stays_at_every_stage_and_the_gradient_does_not(
    model, images, order
):
    check = ParameterRandomisation(order=order)
    for control in (EdgeMap(), RandomMap()):
        made = check(model, images, logit(1), control)
        torch.testing.assert_close(made.correlations, torch.ones_like(made.correlations))
        torch.testing.assert_close(made.score, torch.ones(3))
    assert check(model, images, logit(1), Gradient()).score.max().item() < 0.9


def test_property_50_pure_noise_forgets_at_every_stage(model, images):
    made = ParameterRandomisation()(model, images, logit(1), RedrawnMap())
    assert made.correlations.abs().max().item() < 0.3
    assert made.correlations.mean().abs().item() < 0.05


def test_a_constant_map_is_undefined_and_counted(model, images):
    made = ParameterRandomisation()(model, images, logit(1), ConstantMap())
    assert made.score.isnan().all()
    assert made.undefined.tolist() == [len(made.layers)] * 3


def test_the_score_is_the_mean_of_the_stages_that_are_defined():
    made = Cascade(layers=("a", "b"), correlations=torch.tensor([[1.0, torch.nan], [0.5, 0.25]]))
    assert made.score.tolist() == [0.75, 0.25]
    assert made.undefined.tolist() == [0, 1]


def test_smoothing_with_one_sample_or_no_noise_is_the_plain_check(model, images):
    plain = ParameterRandomisation(order="bottom-up")(model, images, logit(1), Gradient())
    for settings in ({"samples": 1}, {"samples": 3, "noise": 0.0}):
        made = SmoothRandomisation(**settings)(model, images, logit(1), Gradient())
        assert made.layers == plain.layers
        torch.testing.assert_close(made.correlations, plain.correlations)


def test_smoothing_averages_over_noise_of_a_share_of_each_images_range(model, images):
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Shown:
        def __call__(self, f, images):
            seen.append(images)
            return images

    images = images * torch.tensor([1.0, 5.0, 0.2]).view(3, 1, 1, 1)
    made = SmoothRandomisation(samples=40, noise=0.1)(model, images, logit(1), Shown())
    torch.testing.assert_close(made.score, torch.ones(3))
    assert torch.equal(seen[0], images)
    noise = torch.stack(seen[1:40]) - images
    reach = images.flatten(1).amax(dim=1) - images.flatten(1).amin(dim=1)
    found = noise.std(dim=(0, 2, 3, 4)) / reach
    torch.testing.assert_close(found, torch.full((3,), 0.1), rtol=0.05, atol=0)
    assert torch.equal(seen[40], images)
    torch.testing.assert_close(seen[1], seen[41])  # the same noise at each stage


def test_a_smoothed_map_is_the_mean_of_the_clean_and_the_noisy_ones(model, images):
    f = ModelScalar(Network.read(model, images), logit(1))
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Recorded:
        def __call__(self, f, images):
            seen.append(images)
            return Gradient()(f, images)

    found = Smoothed(method=Recorded(), samples=4, noise=0.2, seed=0)(f, images)
    assert len(seen) == 4
    torch.testing.assert_close(found, torch.stack([Gradient()(f, x) for x in seen]).mean(dim=0))


def test_layers_of_one_shape_get_different_weights(images):
    twins = nn.Sequential(
        nn.Flatten(), *(nn.Linear(144, 144, bias=False) for _ in range(3)), nn.Linear(144, 2)
    ).eval()
    seen = []
    ParameterRandomisation()(twins, images, logit(0), Held(seen=seen))
    drawn = [seen[-1][f"{k}.weight"] for k in (1, 2, 3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        ratio = drawn[one] / drawn[one].norm() - drawn[other] / drawn[other].norm()
        assert ratio.norm().item() == pytest.approx(2**0.5, abs=0.05)  # no more alike than noise


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The gradient, with the parameters of each call kept."""

    seen: list

    def __call__(self, f, images):
        Held(seen=self.seen)(f, images)
        return Gradient()(f, images)


def maps_with(model, parameters, images):
    """The gradients of class 1 in a network with these parameters, by PyTorch's own functions."""
    images = images.clone().requires_grad_()
    logits = torch.func.functional_call(model, parameters, images)
    return torch.autograd.grad(logits[:, 1].sum(), images)[0].flatten(1).double()


@pytest.mark.parametrize("order", ORDERS)
def test_a_stage_is_scipys_correlation_of_the_maps_of_a_network_with_its_weights(
    model, images, order
):
    seen = []
    made = ParameterRandomisation(order=order)(model, images, logit(1), Watched(seen=seen))
    original = maps_with(model, dict(model.named_parameters()), images)
    assert len(seen) == 1 + len(made.layers)
    for stage, parameters in enumerate(seen[1:]):
        maps = maps_with(model, parameters, images)
        for row in range(3):
            expected = spearmanr(original[row].numpy(), maps[row].numpy()).statistic
            assert made.correlations[stage, row].item() == pytest.approx(expected, abs=1e-2)


def test_the_entropies_are_scipys_of_numpys_histograms(model, images):
    made = EfficientRandomisation(bins=20)(model, images, logit(1), Gradient())
    values = Gradient()(ModelScalar(Network.read(model, images), logit(1)), images).double()
    for row in range(3):
        counts = torch.histc(values[row], bins=20)
        assert made.original[row].item() == pytest.approx(entropy(counts.numpy()), abs=1e-5)
    torch.testing.assert_close(made.score, made.randomised / made.original - 1)
    assert not torch.equal(made.original, made.randomised)


def test_the_entropy_of_a_map_that_ignores_the_weights_does_not_rise(model, images):
    assert EfficientRandomisation()(model, images, logit(1), EdgeMap()).score.tolist() == [0, 0, 0]
    made = EfficientRandomisation()(model, images, logit(1), ConstantMap())
    assert made.score.isnan().all()


@pytest.mark.parametrize(
    "check", [SmoothRandomisation(samples=2), EfficientRandomisation(), ParameterRandomisation()]
)
def test_the_users_model_is_untouched(model, images, untouched, check):
    with untouched(model):
        check(model, images, logit(1), Gradient())


def test_maps_are_compared_with_those_of_the_second_network(model, images):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.weight.copy_(model.head.weight.roll(1, dims=0))
        other.embed.weight.mul_(-0.3)
    made = DataRandomisation(permuted=other)(model, images, logit(1), Gradient())
    maps = [Gradient()(ModelScalar(m, logit(1)), images).flatten(1) for m in (model, other)]
    for row in range(3):
        expected = spearmanr(maps[0][row].numpy(), maps[1][row].numpy()).statistic
        assert made.score[row].item() == pytest.approx(expected, abs=1e-3)
    same = DataRandomisation(permuted=model, agreement=Spearman())
    torch.testing.assert_close(same(model, images, logit(1), Gradient()).score, torch.ones(3))


def test_permuted_labels_keep_the_classes_and_lose_the_images(generator):
    labels = torch.arange(400) % 4
    labels[7] = -1
    data = TensorData(images=torch.randn(400, 1, 2, 2, generator=generator), labels=labels)
    found = permuted_labels(data)
    assert isinstance(found, ImageData)
    assert found.label(7) is None
    assert torch.equal(found.labels.sort().values, labels.sort().values)
    assert (found.labels == labels).double().mean().item() == pytest.approx(0.25, abs=0.08)
    (batch,) = found.batches(5, [9, 7, 3])
    assert batch.labels.tolist() == found.labels[[9, 7, 3]].tolist()
    assert torch.equal(batch.images, data.images[[9, 7, 3]])
    assert found.fingerprint() == permuted_labels(data).fingerprint()
    assert found.fingerprint() != permuted_labels(data, seed=1).fingerprint()
    assert (found.title, len(found), found.classes) == (
        "images in memory, labels permuted",
        400,
        data.classes,
    )


def test_one_class_cannot_be_permuted():
    data = TensorData(images=torch.zeros(3, 1, 2, 2), labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(DataError, match="two classes or more"):
        permuted_labels(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ParameterRandomisation(order="sideways"),
        lambda: SmoothRandomisation(samples=0),
        lambda: SmoothRandomisation(noise=float("nan")),
        lambda: EfficientRandomisation(bins=1),
    ],
    ids=["order", "samples", "noise", "bins"],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(SettingError, match="got"):
        make()
