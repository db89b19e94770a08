"""Varied images take their masks with them."""

import pytest
import torch
from torch import nn

from whence.adapters.training import TrainingSettings
from whence.attribution import InputXGradient
from whence.core import TensorData
from whence.priors import GiniSparsity, OutsideMask, Prior
from whence.recipes.fit import fit
from whence.recipes.fit_vary import masked, varied_together

SETTINGS = TrainingSettings(seed=3, vary=True)


def outside(masks):
    return Prior(method=InputXGradient(), penalty=OutsideMask(masks=masks), weight=2.0)


def test_a_mask_is_moved_and_mirrored_with_its_image():
    masks = (torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    images, prior = varied_together(masks.repeat(1, 3, 1, 1), outside(masks), SETTINGS, 5)
    assert images.shape == (6, 3, 16, 16)
    assert torch.equal(prior.penalty.masks, images[:, :1])
    assert prior.weight == 2.0
    assert not torch.equal(images[:, :1], masks)


def test_one_mask_for_all_moves_with_each_image_and_keeps_its_type():
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 4:9, 3:6] = True
    shown = mask.float().expand(5, 1, 16, 16)
    images, prior = varied_together(shown, outside(mask), SETTINGS, 0)
    assert prior.penalty.masks.dtype == torch.bool
    assert torch.equal(prior.penalty.masks, images > 0)
    assert len({tuple(one.flatten().tolist()) for one in images}) > 1


def test_draws_depend_on_the_step_and_without_masks_the_prior_stays(generator):
    images = torch.randn(4, 1, 16, 16, generator=generator)
    prior = Prior(method=InputXGradient(), penalty=GiniSparsity())
    assert not masked(prior)
    assert not masked(None)
    one, same = varied_together(images, prior, SETTINGS, 1)
    assert same is prior
    assert torch.equal(one, varied_together(images, None, SETTINGS, 1)[0])
    assert not torch.equal(one, varied_together(images, None, SETTINGS, 2)[0])


def squares(count, seed):
    """The class is a dot at a place of chance; a corner that moves with it tells it, too."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = 0.2 * torch.randn(count, 1, 12, 12, generator=drawn)
    masks = torch.zeros(count, 1, 12, 12)
    images[labels == 1, :, 6:9, 6:9] += 2
    images[labels == 1, :, 1:3, 1:3] += 2
    masks[:, :, 5:10, 5:10] = 1
    return TensorData(images=images, labels=labels, classes=("none", "dot"), title="dots"), masks


@pytest.mark.parametrize("step", [None, 5])
def test_a_weight_is_chosen_by_validation_with_varied_images_and_goes_on(step, tmp_path):
    data, masks = squares(48, 0)
    held, _ = squares(24, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2)
        ).eval()

    def run(folder, **options):
        return fit(
            net,
            data,
            held,
            out=tmp_path / folder,
            settings=TrainingSettings(epochs=3, batch_size=16, rate=2e-2, vary=True),
            prior=outside(masks),
            weights=(0.1, 3.0),
            **options,
        )

    whole = run("whole")
    names = [row.name for row in whole.rows]
    assert names == ["no prior", "no prior, bias-free", "weight 0.1", "weight 3"]
    assert whole.rows[3].penalty < whole.rows[2].penalty
    if step is None:
        return
    count = 0

    def stop(stage, done, total):
        nonlocal count
        count += stage.startswith("training: weight")
        if count == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("again", progress=stop)
    assert str(run("again", resume=True).rows) == str(whole.rows)
