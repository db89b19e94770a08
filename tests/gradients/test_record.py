import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.core import Loss, Margin
from whence.errors import SettingError, ShapeError
from whence.gradients import DirectBlock, ExampleGradients, FactoredBlock, Recorder


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def test_gradients_of_every_architecture_equal_a_loop_over_images(architecture, agree):
    recorded = architecture.recorder.record(architecture.images, architecture.target)
    assert architecture.recorder.fallback == ()
    assert len(recorded) == 3
    agree(recorded.materialise(), architecture.loop)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["resnet", "vit", "convnext"])
def test_gradients_equal_vmap_over_grad(named_architecture, agree, name):
    subject = named_architecture(name)
    parameters = {n: p.detach() for n, p in subject.model.named_parameters()}

    def margin(values, image, label):
        return Margin(label[None])(functional_call(subject.model, values, (image[None],)))[0]

    with sdpa_kernel(SDPBackend.MATH):
        expected = vmap(grad(margin), in_dims=(None, 0, 0))(
            parameters, subject.images, subject.labels
        )
    found = subject.recorder.record(subject.images, subject.target).materialise()
    agree(found, expected)


def test_products_and_norms_equal_those_of_full_gradients(architecture, generator):
    recorded = architecture.recorder.record(architecture.images, architecture.target)
    full = architecture.flat(architecture.loop)
    for count in (1, 3):
        queries = {
            name: torch.randn(count, *p.shape, generator=generator, dtype=torch.float64)
            for name, p in architecture.network.parameters.items()
        }
        assert relative(recorded.dot(queries), full @ architecture.flat(queries).T) < 1e-10
    assert relative(recorded.squared_norm(), full.square().sum(dim=1)) < 1e-10
    assert relative(recorded.norm(), full.norm(dim=1)) < 1e-10


def test_factored_queries_give_the_products_of_dense_ones(architecture):
    recorded = architecture.recorder.record(architecture.images, architecture.target)
    full = architecture.flat(architecture.loop)
    settled = recorded.settled(3)
    kinds = {type(block) for block in settled.values()}
    assert kinds == {DirectBlock, FactoredBlock}
    assert relative(recorded.dot(settled), full @ full.T) < 1e-10


def test_a_gradient_depends_on_no_other_image_of_the_batch(architecture, agree):
    recorder, images, labels = architecture.recorder, architecture.images, architecture.labels
    whole = recorder.record(images, Margin(labels)).materialise()
    order = torch.tensor([2, 0, 1])
    turned = recorder.record(images[order], Margin(labels[order])).materialise()
    agree(turned, {n: v[order] for n, v in whole.items()}, relative=1e-12)
    alone = [recorder.record(images[i : i + 1], Margin(labels[i : i + 1])) for i in range(3)]
    agree({n: torch.cat([a.materialise()[n] for a in alone]) for n in whole}, whole, relative=1e-12)


def test_gradients_of_norms_equal_a_double_backward_pass(architecture):
    images = architecture.images[:2].clone().requires_grad_()
    recorded = architecture.recorder.record(
        images, Margin(architecture.labels[:2]), create_graph=True
    )
    (found,) = torch.autograd.grad(recorded.norm().sum(), images)
    with sdpa_kernel(SDPBackend.MATH):
        image = images[1:].detach().repeat(2, 1, 1, 1).requires_grad_()
        model = architecture.copied()
        margin = Margin(architecture.labels[[1, 1]])(model(image))[0]
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(
            margin, parameters, create_graph=True, materialize_grads=True
        )
        norm = sum(g.square().sum() for g in gradients).sqrt()
        (expected,) = torch.autograd.grad(norm, image)
    assert relative(found[1:], expected[:1]) < 1e-10


def test_the_loss_has_its_own_gradients(named_architecture, agree):
    subject = named_architecture("vit")
    margins = subject.recorder.record(subject.images, subject.target).materialise()
    found = subject.recorder.record(subject.images, Loss(subject.labels)).materialise()
    logits = subject.model(subject.images).detach()
    residuals = 1 - logits.softmax(dim=1)[range(3), subject.labels]
    expected = {n: -residuals.view(-1, *[1] * (v.ndim - 1)) * v for n, v in margins.items()}
    agree(found, expected)


def test_the_users_model_is_left_untouched(architecture, untouched):
    with untouched(architecture.model):
        recorder = Recorder(architecture.network)
        recorder.record(architecture.images, architecture.target)
        recorder.record(architecture.images, architecture.target, create_graph=True)
    assert all(p.grad is None for p in architecture.model.parameters())


def test_nothing_recorded_holds_a_graph_unless_it_is_asked_for(named_architecture):
    subject = named_architecture("vit")
    recorded = subject.recorder.record(subject.images, subject.target)
    blocks = [b for several in recorded.blocks.values() for b in several]
    tensors = [b.values if isinstance(b, DirectBlock) else b.output for b in blocks]
    assert not any(t.requires_grad for t in (*tensors, recorded.logits))
    with torch.no_grad():
        kept = subject.recorder.record(subject.images, subject.target, create_graph=True)
    assert kept.logits.requires_grad


def test_inference_mode_changes_nothing(named_architecture, agree):
    subject = named_architecture("vit")
    with torch.inference_mode():
        images = subject.images.clone()
        found = subject.recorder.record(images, subject.target).materialise()
    agree(found, subject.loop)


def test_frozen_parameters_have_gradients_too(subject, agree):
    made = subject(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(98, 3)))
    expected = made.loop
    for parameter in made.model.parameters():
        parameter.requires_grad_(requires_grad=False)
    recorded = Recorder(made.network).record(made.images, made.target)
    agree(recorded.materialise(), expected)
    assert not any(p.requires_grad for p in made.model.parameters())


def test_later_training_shows_through(subject, agree):
    made = subject(nn.Sequential(nn.Flatten(), nn.Linear(243, 4), nn.Tanh(), nn.Linear(4, 3)))
    before = made.recorder.record(made.images, made.target).materialise()
    with torch.no_grad():
        made.model[1].weight.mul_(0.5)
    after = made.recorder.record(made.images, made.target).materialise()
    agree(after, made.loop)
    assert not torch.allclose(before["3.weight"], after["3.weight"])


def test_only_chosen_parameters_are_recorded(named_architecture, agree):
    subject = named_architecture("convnext")
    names = [n for n in subject.network.parameters if "layer_scale" in n or n.endswith("0.bias")]
    recorder = Recorder(subject.network, names)
    found = recorder.record(subject.images, subject.target).materialise()
    assert set(found) == set(names)
    assert len(recorder.uses.layers) < len(subject.recorder.uses.layers)
    agree(found, {n: subject.loop[n] for n in names})


@pytest.mark.parametrize("names", [["weight"], []])
def test_unknown_parameters_are_refused_with_examples(subject, names):
    made = subject(nn.Sequential(nn.Flatten(), nn.Linear(243, 3)))
    with pytest.raises(SettingError, match=r"has no parameter .* Its parameters are 1\.weight"):
        Recorder(made.network, names)


def test_images_of_another_shape_are_refused(subject):
    made = subject(nn.Sequential(nn.Flatten(), nn.Linear(243, 3)))
    with pytest.raises(ShapeError, match="read with images of shape"):
        made.recorder.record(torch.zeros(2, 3, 8, 8, dtype=torch.float64), made.target)


def test_a_shared_parameter_sums_its_uses(generator):
    blocks = tuple(
        FactoredBlock(
            output=torch.randn(2, 1, 3, 5, generator=generator),
            input=torch.randn(2, 1, 4, 5, generator=generator),
            shape=(3, 4),
        )
        for _ in range(2)
    )
    gradients = ExampleGradients(logits=torch.zeros(2, 2), blocks={"w": blocks})
    full = blocks[0].materialise() + blocks[1].materialise()
    queries = torch.randn(3, 3, 4, generator=generator)
    torch.testing.assert_close(gradients.materialise()["w"], full.view(2, 3, 4))
    torch.testing.assert_close(gradients.squared_norm(), full.square().sum(dim=1))
    torch.testing.assert_close(gradients.dot({"w": queries}), full @ queries.flatten(1).T)
    torch.testing.assert_close(gradients.settled(1)["w"].materialise(), full)
