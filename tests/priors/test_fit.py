from functools import partial

import pytest
import torch
from torch import nn

from whence.core import ModelScalar, TensorData, logit
from whence.errors import DataError, NumericsError, SettingError
from whence.priors import OutsideMask, Prior, fit

adam = partial(torch.optim.Adam, lr=0.02)


@pytest.fixture
def data(images, labels):
    return TensorData(images=images, labels=labels)


def fitted(model, data, **options):
    defaults = {"epochs": 3, "optimiser": adam, "batch_size": 2}
    return fit(model, data, generator=torch.Generator().manual_seed(1), **{**defaults, **options})


def test_the_first_step_is_the_optimisers_on_the_shuffled_batch(model, data):
    made = fitted(model, data, epochs=1, batch_size=5, optimiser=partial(torch.optim.SGD, lr=0.1))
    loss = nn.functional.cross_entropy(model(data.images), data.labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for new, old, gradient in zip(
        made.model.parameters(), model.parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(new, old - 0.1 * gradient)
    assert made.history[0].task == pytest.approx(loss.item())


def test_training_lowers_the_loss_and_reports_it(model, data):
    told = []
    made = fitted(model, data, epochs=30, progress=lambda *report: told.append(report))
    assert len(made.history) == 30
    assert made.history[-1].task < 0.3 * made.history[0].task
    assert made.history[-1].accuracy == 1
    assert told[0] == ("training", 2, 150)
    assert told[-1] == ("training", 150, 150)


def test_the_users_model_is_untouched_and_the_copy_has_its_modes(model, data, untouched, method):
    model[1].train()
    prior = Prior(method=method, penalty=OutsideMask(masks=torch.ones(1, 1, 6, 6)))
    with untouched(model):
        made = fitted(model, data, prior=prior)
    assert [m.training for m in made.model.modules()] == [m.training for m in model.modules()]


def test_the_order_comes_from_the_generator(model, data):
    one, two = (fitted(model, data).model.state_dict() for _ in range(2))
    other = fit(
        model,
        data,
        epochs=3,
        optimiser=adam,
        batch_size=2,
        generator=torch.Generator().manual_seed(2),
    ).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_frozen_parameters_stay(model, data):
    model[0].weight.requires_grad_(False)
    made = fitted(model, data)
    assert torch.equal(made.model[0].weight, model[0].weight)
    assert not torch.equal(made.model[3].weight, model[3].weight)


def shapes_with_a_shortcut(count, generator):
    """Two classes: a bar that stands or lies; and a bright corner that gives the second away."""
    labels = torch.randint(2, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 1, 6, 6, generator=generator)
    at = torch.randint(2, 5, (count,), generator=generator)
    for row in range(count):
        bar = images[row, 0, :, at[row]] if labels[row] else images[row, 0, at[row]]
        bar += 1.0
        images[row, 0, :2, :2] += 2.0 * labels[row]
    return images, labels


def test_a_prior_moves_attributions_out_of_a_forbidden_corner(method, generator):
    images, labels = shapes_with_a_shortcut(200, generator)
    data = TensorData(images=images, labels=labels)
    mask = torch.ones(1, 1, 6, 6)
    mask[:, :, :2, :2] = 0
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.15 * torch.randn(p.shape, generator=generator))
    corner = OutsideMask(masks=mask)
    options = {"epochs": 8, "batch_size": 20}
    plain = fitted(model, data, **options)
    guided = fitted(model, data, prior=Prior(method=method, penalty=corner, weight=2.0), **options)
    fresh, classes = shapes_with_a_shortcut(200, generator)

    def energy(made):
        return corner(method(ModelScalar(made.model.eval(), logit(classes)), fresh)).item()

    assert energy(guided) < 0.25 * energy(plain)
    assert guided.history[-1].penalty < 0.25 * guided.history[0].penalty
    removed = fresh.clone()
    removed[:, :, :2, :2] = 0
    right = {
        name: (made.model(removed).argmax(dim=1) == classes).float().mean().item()
        for name, made in (("plain", plain), ("guided", guided))
    }
    assert right["guided"] > right["plain"]
    assert right["guided"] > 0.9


def test_every_batch_gets_the_masks_of_its_images(model, images, labels, method):
    seen = []

    class Spy:
        def __call__(self, values):
            return values.sum() * 0

        def at(self, rows):
            seen.extend(rows.tolist())
            return self

    fitted(
        model,
        TensorData(images=images, labels=labels),
        epochs=1,
        prior=Prior(method=method, penalty=Spy()),
    )
    assert sorted(seen) == list(range(5))
    assert seen != list(range(5))


def test_an_image_without_a_label_is_refused(model, images, labels):
    labels = labels.clone()
    labels[3] = -1
    with pytest.raises(DataError, match="Image 3 has no label"):
        fitted(model, TensorData(images=images, labels=labels))


def test_a_loss_that_explodes_is_named(model, data):
    with pytest.raises(NumericsError, match=r"(nan|inf) in epoch \d.*Lower the learning rate"):
        fitted(model, data, epochs=20, optimiser=partial(torch.optim.SGD, lr=1e308))


def test_a_model_with_nothing_to_train_is_refused(data):
    with pytest.raises(SettingError, match="nothing to train"):
        fitted(nn.Flatten(), data)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_fewer_than_one_is_refused(model, data, name):
    with pytest.raises(SettingError, match="at least 1"):
        fitted(model, data, **{name: 0})
