"""What pytorch-grad-cam 1.5 does with the same networks, for the table in the manual."""

import pytest
import torch
from torch import nn

from whence.attribution import GradCAM, Gradient, GuidedBackpropagation
from whence.core import ModelScalar, logit
from whence.network import Network


@pytest.fixture
def model(images):
    """A network with an in-place ReLU and batch norm, in single precision as they want it."""
    made = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return made


@pytest.fixture
def theirs(grad_cam, images, classes):
    """Return their maps of the fourth layer."""

    def explain(model, layer=4, chosen=classes):
        target = grad_cam.utils.model_targets.ClassifierOutputTarget
        with grad_cam.GradCAM(model, [model[layer]]) as cam:
            return torch.from_numpy(cam(images.float(), [target(int(k)) for k in chosen]))

    return explain


def test_grad_cams_constructor_switches_the_model_to_eval_for_good(grad_cam, model):
    model.train()
    grad_cam.GradCAM(model, [model[4]])
    assert not model.training


def test_grad_cam_leaves_gradients_on_all_weights_and_hooks_while_it_lives(grad_cam, model, images):
    cam = grad_cam.GradCAM(model, [model[4]])
    cam(images.float(), None)
    assert all(p.grad is not None for p in model.parameters())
    assert len(model[4]._forward_hooks) == 2


def test_grad_cam_fails_on_a_frozen_model(theirs, model):
    model.requires_grad_(requires_grad=False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        theirs(model)


def test_grad_cams_maps_lose_their_size(theirs, model, images, classes):
    f = ModelScalar(Network.read(model, images.float()), logit(classes))
    ours, before = GradCAM()(f, images.float()), theirs(model)
    with torch.no_grad():
        model[7].weight.mul_(7)
        model[7].bias.mul_(7)
    assert (theirs(model) - before).abs().max() < 1e-5
    assert before.max() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(GradCAM()(f, images.float()), 7 * ours, rtol=1e-4, atol=1e-5)


def test_grad_cams_maps_lose_what_speaks_against_the_class(theirs, model, images):
    with torch.no_grad():
        model[7].weight.abs_().neg_()
    assert theirs(model, chosen=[1] * 5).max() == 0
    f = ModelScalar(Network.read(model, images.float()), logit(1))
    assert GradCAM(relu=False)(f, images.float()).min() < 0


def test_grad_cam_needs_the_layout_of_tokens_from_the_user(grad_cam, make, images):
    model = make("transformer").float()
    cam = grad_cam.GradCAM(model, [model.norms[2]])
    with pytest.raises(ValueError, match="Invalid grads shape"):
        cam(images.float(), None)

    def grid(tokens):
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    with grad_cam.GradCAM(model, [model.norms[2]], reshape_transform=grid) as cam:
        assert cam(images.float(), None).shape == (5, 8, 8)


def guided(grad_cam, model, images):
    """Their guided map: height, width, colours."""
    found = grad_cam.GuidedBackpropReLUModel(model, "cpu")(images, target_category=1)
    return torch.from_numpy(found.copy())


def test_grad_cams_guided_rule_answers_for_the_first_image_only(grad_cam, model, images):
    f = ModelScalar(Network.read(model, images.float()), logit(1))
    expected = GuidedBackpropagation()(f, images.float())
    values = guided(grad_cam, model, images.float())
    assert values.shape == (8, 8, 3)
    torch.testing.assert_close(values, expected[0].permute(1, 2, 0), rtol=1e-4, atol=1e-5)
    assert len(expected) == 5


def test_grad_cams_guided_rule_replaces_the_users_modules_and_fills_their_gradients(
    grad_cam, model, images
):
    before = model[2]
    assert before.inplace
    guided(grad_cam, model, images[:1].float())
    assert model[2] is not before
    assert not model[2].inplace
    assert model[2].training  # the new one was never set to eval mode
    assert any(p.grad is not None for p in model.parameters())


def test_grad_cams_guided_rule_is_the_gradient_where_a_relu_is_a_function(grad_cam, make, images):
    values = guided(grad_cam, make("functional").float(), images[:1].float())
    model = make("functional")
    plain = Gradient()(ModelScalar(model, logit(1)), images[:1])[0].permute(1, 2, 0).float()
    right = (
        GuidedBackpropagation()(ModelScalar(Network.read(model, images), logit(1)), images[:1])[0]
        .permute(1, 2, 0)
        .float()
    )
    assert (values - plain).abs().max() < 1e-4 * plain.abs().max()
    assert (values - right).abs().max() > right.abs().max()


def test_grad_cams_guided_rule_is_the_gradient_on_gelus(grad_cam, images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    values = guided(grad_cam, model, images[:1].float())
    plain = Gradient()(ModelScalar(model, logit(1)), images[:1].float())[0].permute(1, 2, 0)
    torch.testing.assert_close(values, plain, rtol=1e-4, atol=1e-6)
