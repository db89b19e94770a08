"""The gradient, input times gradient, and what every gradient method owes its caller."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from whence.attribution import GradCAM, Gradient, InputXGradient, IntegratedGradients, SmoothGrad
from whence.core import Custom, Logit, ModelScalar, contrast, logit
from whence.errors import ModeError, SettingError, ShapeError

METHODS = [
    Gradient(),
    InputXGradient(),
    SmoothGrad(samples=3),
    IntegratedGradients(steps=3),
    IntegratedGradients(steps=2, tolerance=1e-3, max_steps=54),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)

KEEPING = [
    Gradient(create_graph=True),
    InputXGradient(create_graph=True),
    SmoothGrad(samples=2, method=Gradient(create_graph=True)),
    IntegratedGradients(steps=3, create_graph=True),
    IntegratedGradients(steps=2, tolerance=1e-3, max_steps=18, create_graph=True),
]


class Weights(TorchDispatchMode):
    """Collects what each backward of a convolution was asked for: input, weight, bias."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


def test_the_gradient_of_a_linear_model_is_its_weights(linear, images):
    weights = linear[1].weight[2].view(3, 8, 8).expand(5, 3, 8, 8)
    assert torch.equal(Gradient()(ModelScalar(linear, logit(2)), images), weights)


def test_input_times_gradient_of_a_linear_model_is_each_pixels_term(linear, images):
    values = InputXGradient()(ModelScalar(linear, logit(2)), images)
    assert torch.equal(values, images * linear[1].weight[2].view(3, 8, 8))


def test_the_gradient_is_what_autograd_gives_for_each_image_and_its_own_class(
    rectifier, images, classes
):
    model = rectifier()
    values = Gradient()(ModelScalar(model, logit(classes)), images)
    for i, k in enumerate(classes.tolist()):
        pixel = images[i : i + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(model(pixel)[0, k], pixel)
        torch.testing.assert_close(values[i : i + 1], expected, rtol=1e-12, atol=1e-14)


@each_method
def test_a_batch_gives_what_its_images_give_alone(method, rectifier, images, classes):
    f = ModelScalar(rectifier(), contrast(classes, (classes + 1) % 4))
    together = method(f, images)
    for i in range(len(images)):
        alone = method(f.at(torch.tensor([i])), images[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("kind", [Gradient, InputXGradient, SmoothGrad, IntegratedGradients])
def test_no_internal_batch_changes_the_result(kind, batch_size, rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    expected = kind()(f, images)
    torch.testing.assert_close(
        kind(batch_size=batch_size)(f, images), expected, rtol=1e-12, atol=1e-14
    )


@each_method
def test_the_model_and_the_images_come_back_as_they_were(
    method, rectifier, images, classes, untouched
):
    model, before = rectifier(), images.clone()
    with untouched(model):
        values = method(ModelScalar(model, logit(classes)), images)
    assert torch.equal(images, before)
    assert (images.requires_grad, images.grad, values.requires_grad) == (False, None, False)


@each_method
def test_the_model_comes_back_when_the_target_raises(method, rectifier, images, untouched):
    def broken(logits):
        msg = "no"
        raise KeyError(msg)

    model = rectifier()
    with untouched(model), pytest.raises(KeyError):
        method(ModelScalar(model, Custom(broken)), images)


@each_method
def test_no_gradient_of_a_weight_is_computed(method, rectifier, images):
    model = rectifier()
    with Weights() as seen:
        method(ModelScalar(model, logit(0)), images)
    assert len(seen.masks) >= 2
    assert set(seen.masks) == {(True, False, False)}


@each_method
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_switched_gradients_off(method, mode, rectifier, images):
    f = ModelScalar(rectifier(), logit(1))
    with mode():
        values = method(f, images.clone())
    torch.testing.assert_close(values.clone(), method(f, images))


@pytest.mark.parametrize("method", KEEPING, ids=lambda m: type(m).__name__)
def test_images_made_under_inference_mode_can_be_trained_on(method, smooth, images):
    f = ModelScalar(smooth, logit(1))
    with torch.inference_mode():
        made = images.clone()
    (slope,) = torch.autograd.grad(method(f, made).square().sum(), smooth[2].weight)
    (expected,) = torch.autograd.grad(method(f, images).square().sum(), smooth[2].weight)
    torch.testing.assert_close(slope, expected)


@each_method
def test_frozen_weights_change_nothing(method, rectifier, images):
    model, frozen = rectifier(), rectifier().requires_grad_(requires_grad=False)
    values = [method(ModelScalar(m, logit(1)), images) for m in (model, frozen)]
    assert torch.equal(*values)


@each_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_comes_out(method, dtype, rectifier, images):
    exact = method(ModelScalar(rectifier(), logit(1)), images)
    values = method(ModelScalar(rectifier().to(dtype), logit(1)), images.to(dtype))
    assert values.dtype == dtype
    assert torch.corrcoef(torch.stack([values.double().flatten(), exact.flatten()]))[0, 1] > 0.95


@each_method
def test_a_network_may_change_its_input_in_place(method, rectifier, images):
    class Shifts(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, pixels):
            return self.body(pixels.sub_(0.5))

    before, body = images.clone(), rectifier()
    values = method(ModelScalar(Shifts(body).eval(), logit(1)), images)
    expected = method(ModelScalar(lambda pixels: body(pixels - 0.5), logit(1)), before)
    assert torch.equal(images, before)
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("method", KEEPING, ids=lambda m: type(m).__name__)
def test_a_loss_on_the_attributions_reaches_the_weights(method, smooth, images, classes):
    f, weight = ModelScalar(smooth, logit(classes)), smooth[2].weight

    def penalty():
        return method(f, images).square().sum()

    (slope,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn(
        weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    step = 1e-5
    with torch.no_grad():
        weight += step * direction
        above = penalty()
        weight -= 2 * step * direction
        below = penalty()
    expected = (above - below) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), expected.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_kept_graph_also_reaches_images_that_ask_for_it(batch_size, smooth, images):
    f = ModelScalar(smooth, logit(1))
    method = InputXGradient(create_graph=True, batch_size=batch_size)
    pixels = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(method(f, pixels).square().sum(), pixels)
    direction, step = torch.ones_like(images), 1e-5
    sides = [method(f, images + s * direction).detach().square().sum() for s in (step, -step)]
    expected = (sides[0] - sides[1]) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-6, atol=1e-9)


def test_images_with_a_past_give_values_without_one(smooth, images):
    pixels = images.clone().requires_grad_() * 2
    f = ModelScalar(smooth, logit(1))
    for method in METHODS:
        assert not method(f, pixels).requires_grad


@each_method
@pytest.mark.parametrize(
    "target",
    [Custom(lambda logits: logits.argmax(dim=1).to(logits)), Custom(lambda z: z.detach()[:, 0])],
)
def test_a_value_without_a_gradient_is_refused(method, target, rectifier, images):
    with pytest.raises(SettingError, match="no gradient with respect to the images"):
        method(ModelScalar(rectifier(), target), images)


def test_a_constant_that_hangs_on_the_weights_only_is_refused(rectifier, images):
    weight = rectifier()[0].weight
    f = ModelScalar(lambda x: weight.sum() * torch.ones(len(x), 2).to(x), logit(1))
    with pytest.raises(SettingError, match="no gradient with respect to the images"):
        Gradient()(f, images)


def test_a_function_must_return_one_value_per_image(images):
    class Pixels:
        def __call__(self, images):
            return images.sum()

        def at(self, rows):
            return self

    with pytest.raises(ShapeError, match=r"shape \(5,\); it returned \(\)"):
        Gradient()(Pixels(), images)


def test_a_model_in_train_mode_is_refused(rectifier):
    with pytest.raises(ModeError, match="eval"):
        ModelScalar(rectifier().train(), Logit(0))


@pytest.mark.parametrize(
    "kind", [Gradient, InputXGradient, SmoothGrad, IntegratedGradients, GradCAM]
)
def test_an_internal_batch_of_nothing_is_refused(kind):
    with pytest.raises(SettingError, match="batch_size must be at least 1"):
        kind(batch_size=0)


@pytest.mark.parametrize("method", [*METHODS, GradCAM()], ids=lambda m: type(m).__name__)
def test_methods_are_values(method):
    assert method == type(method)(**vars(method))
    assert hash(method) == hash(type(method)(**vars(method)))
    with pytest.raises(AttributeError):
        method.batch_size = 3
