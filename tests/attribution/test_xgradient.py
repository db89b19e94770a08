"""X-Gradient: what it equals, what it refuses, and what its proof costs."""

import pytest
import torch
from torch import nn

from whence.attribution import IntegratedGradients, XGradient, attribute, method_named, xgradient
from whence.convert import x_dnn
from whence.core import Contrast, Custom, Logit, LogProbability, Loss, Margin, ModelScalar
from whence.errors import SettingError, ShapeError, TargetError, UnsupportedOperation
from whence.network import Network

LABELS = torch.tensor([0, 2, 1])


def net(*, bias=False, seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(3, 6, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 6, 3, bias=bias), nn.LeakyReLU(),
            nn.Flatten(), nn.Linear(24, 4, bias=bias),
        ]  # fmt: skip
        return nn.Sequential(*layers).to(dtype).eval()


@pytest.fixture
def images(generator):
    return torch.randn(3, 3, 10, 10, generator=generator, dtype=torch.float64)


@pytest.fixture
def network(images):
    return Network.read(net(), images)


@pytest.fixture(autouse=True)
def forgotten():
    """Start every test without anything proven."""
    xgradient.PROOFS.clear()
    xgradient.HELD.clear()


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("rule", ["gauss-legendre", "midpoint", "right"])
def test_it_equals_integrated_gradients_from_zero_for_every_number_of_steps(
    network, images, steps, rule
):
    f = ModelScalar(network, Logit(LABELS))
    path = IntegratedGradients(steps=steps, rule=rule, tolerance=None)(f, images)
    torch.testing.assert_close(XGradient()(f, images), path, rtol=1e-12, atol=1e-13)


def test_its_values_add_up_to_the_explained_number_at_one_pass(network, images):
    f = ModelScalar(network, Contrast(LABELS, 3))
    result = attribute(XGradient(), f, images)
    torch.testing.assert_close(result.values.sum((1, 2, 3)), f(images), rtol=1e-12, atol=1e-13)
    assert result.cost == 1
    assert result.gap.max() < 1e-10


def test_a_plain_network_is_refused_with_the_offenders_name(images):
    plain = Network.read(net(bias=True), images)
    with pytest.raises(UnsupportedOperation, match=r"The first offender is 0 \(conv2d\)"):
        XGradient()(ModelScalar(plain, Logit(0)), images)


def test_a_proof_that_the_numbers_contradict_is_not_enough(images, monkeypatch):
    from whence.network import degrees

    monkeypatch.setattr(degrees, "KEEPS", degrees.KEEPS | {"hardtanh"})
    capped = Network.read(nn.Sequential(net(), nn.Hardtanh()).eval(), images)
    with pytest.raises(UnsupportedOperation, match="the numeric tests fail"):
        XGradient()(ModelScalar(capped, Logit(0)), images)


@pytest.mark.parametrize(
    "target",
    [Loss(0), LogProbability(1), Margin(2), Custom(lambda z: z[:, 0] ** 2)],
    ids=lambda target: type(target).__name__,
)
def test_a_target_that_does_not_scale_with_the_logits_is_refused(network, images, target):
    with pytest.raises(TargetError, match="does not scale with the logits"):
        XGradient()(ModelScalar(network, target), images)


def test_a_target_of_ones_own_that_scales_is_explained(network, images):
    f = ModelScalar(network, Custom(lambda z: z.amax(1) - 0.5 * z[:, 0]))
    values = XGradient()(f, images).sum((1, 2, 3))
    torch.testing.assert_close(values, f(images), rtol=1e-12, atol=1e-13)


def test_a_model_that_was_not_read_is_refused(images):
    with pytest.raises(SettingError, match=r"Network\.read"):
        XGradient()(ModelScalar(net(), Logit(0)), images)


def test_images_and_classes_that_do_not_fit_are_refused(network, images):
    with pytest.raises(ShapeError):
        XGradient()(ModelScalar(network, Logit(0)), images[:, :, 1:])
    with pytest.raises(TargetError):
        XGradient()(ModelScalar(network, Logit(9)), images)
    with pytest.raises(TargetError):
        XGradient().for_classes(network, images, [0, 9])


def test_several_classes_share_a_forward_pass(network, images):
    found = XGradient().for_classes(network, images, [3, 0])
    assert found.shape == (3, 2, 3, 10, 10)
    for place, k in enumerate([3, 0]):
        alone = XGradient()(ModelScalar(network, Logit(k)), images)
        torch.testing.assert_close(found[:, place], alone, rtol=1e-12, atol=0)
    assert not found.requires_grad


def test_a_homogeneous_network_of_another_degree_is_divided_by_it(images):
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, images):
            return self.inner(images) ** 3

    f = ModelScalar(Network.read(Squared().eval(), images), Logit(LABELS))
    path = IntegratedGradients(steps=8, rule="gauss-legendre", tolerance=None)(f, images)
    torch.testing.assert_close(XGradient()(f, images), path, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(XGradient()(f, images).sum((1, 2, 3)), f(images))


def test_a_network_of_degree_zero_is_refused(images):
    class Normal(nn.Module):
        def forward(self, images):
            return nn.functional.normalize(images.flatten(1), dim=1)

    f = ModelScalar(Network.read(Normal().eval(), images), Logit(0))
    with pytest.raises(UnsupportedOperation, match="homogeneous of degree 0"):
        XGradient()(f, images)


@pytest.fixture
def proofs(monkeypatch):
    """Count how often a network is proven."""
    made = []
    original = Network.homogeneity

    def counted(self, images=None):
        made.append(1)
        return original(self, images)

    monkeypatch.setattr(Network, "homogeneity", counted)
    return made


def test_a_network_is_proven_once_and_known_again_by_its_fingerprint(images, proofs):
    model = net()
    first, second = Network.read(model, images), Network.read(model, images)
    for network in (first, first, second):
        XGradient()(ModelScalar(network, Logit(0)), images)
    assert len(proofs) == 1
    XGradient()(ModelScalar(Network.read(net(seed=1), images), Logit(0)), images)
    assert len(proofs) == 2


def test_training_needs_no_new_proof_unless_a_bias_comes_to_life(images, proofs):
    model = net()
    model[6].register_parameter("bias", nn.Parameter(torch.zeros(4, dtype=torch.float64)))
    network = Network.read(model, images)
    f = ModelScalar(network, Logit(0))
    XGradient()(f, images)
    with torch.no_grad():
        model[0].weight.mul_(2)
    XGradient()(f, images)
    assert len(proofs) == 1
    with torch.no_grad():
        model[6].bias.fill_(0.1)
    with pytest.raises(UnsupportedOperation, match=r"6 \(linear\)"):
        XGradient()(f, images)


def test_only_so_many_fingerprints_are_remembered(images, monkeypatch):
    monkeypatch.setattr(xgradient, "REMEMBERED", 2)
    for seed in range(3):
        f = ModelScalar(Network.read(net(seed=seed), images), Logit(0))
        XGradient()(f, images)
    assert len(xgradient.PROOFS) == 2


def test_a_loss_on_its_maps_trains_the_weights(images):
    model = net()
    f = ModelScalar(Network.read(model, images), Logit(0))
    XGradient(create_graph=True)(f, images).abs().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_batches_change_nothing_and_the_model_is_left_alone(network, images, untouched):
    f = ModelScalar(network, Logit(LABELS))
    with untouched(network.module), torch.inference_mode():
        whole = XGradient()(f, images)
        torch.testing.assert_close(XGradient(batch_size=2)(f, images), whole, rtol=1e-12, atol=0)
    for k in range(3):
        alone = XGradient()(f.at(torch.tensor([k])), images[k : k + 1])
        torch.testing.assert_close(alone[0], whole[k], rtol=1e-10, atol=1e-13)


def test_it_has_its_name_and_explains_a_converted_model_by_it(images):
    from whence import explain

    made = x_dnn(net(bias=True), images)
    result = explain(made.model, images, method="x-gradient")
    torch.testing.assert_close(result.conservation, torch.ones(3, dtype=torch.float64))
    assert method_named("x-gradient") == XGradient()
