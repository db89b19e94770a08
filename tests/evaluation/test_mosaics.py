import pytest
import torch

from whence.errors import DataError
from whence.evaluation import Focus, mosaics

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3])


@pytest.fixture
def images():
    return (1.0 + torch.arange(8)).view(8, 1, 1, 1).expand(-1, 2, 4, 6).clone()


def quadrants(values):
    height, width = values.shape[2] // 2, values.shape[3] // 2
    rows = (values[:, 0, :height], values[:, 0, height:])
    parts = [half for row in rows for half in (row[..., :width], row[..., width:])]
    return torch.stack(parts, dim=1).flatten(2)


@pytest.mark.parametrize("shrink", [False, True])
def test_a_mosaic_has_two_images_of_the_class_under_the_mask_and_two_of_another(images, shrink):
    made = mosaics(images, LABELS, count=30, shrink=shrink)
    assert made.images.shape == ((30, 2, 4, 6) if shrink else (30, 2, 8, 12))
    shown, mask = quadrants(made.images), quadrants(made.masks.double())
    assert torch.equal(shown[..., 0], shown[..., -1])
    assert torch.equal(shown[..., 0].long() - 1, made.places)
    assert torch.equal(mask[..., 0], mask[..., -1])
    kinds = LABELS[made.places]
    expected = torch.where(mask[..., 0] == 1, made.labels[:, None], made.others[:, None])
    assert torch.equal(kinds, expected)
    assert (mask[..., 0].sum(dim=1) == 2).all()
    assert all(len(set(row)) == 4 for row in made.places.tolist())
    assert not (made.labels == made.others).any()
    assert 3 not in made.labels.tolist() + made.others.tolist()  # one image is too few


def test_focus_is_the_positive_share_on_the_images_of_the_class(images):
    made = mosaics(images, LABELS, count=4)
    masks = made.masks.double()
    assert Focus()(masks, made.masks).tolist() == [1.0] * 4
    assert Focus()(torch.ones_like(masks), made.masks).tolist() == [0.5] * 4
    assert Focus()(4 * masks - 1, made.masks).tolist() == [1.0] * 4
    assert Focus()(2 * masks + 1, made.masks).tolist() == [0.75] * 4
    assert Focus()(-masks, made.masks).isnan().all()


def test_the_seed_decides(images):
    one, two, other = (mosaics(images, LABELS, count=5, seed=s).places for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_too_few_images_and_odd_sides_are_refused(images):
    with pytest.raises(DataError, match="got 1 such classes"):
        mosaics(images[:3], torch.tensor([0, 0, 1]), count=1)
    with pytest.raises(DataError, match="count of 0"):
        mosaics(images, LABELS, count=0)
    with pytest.raises(DataError, match=r"odd sides.*\(3, 6\)"):
        mosaics(images[:, :, :3], LABELS, count=1, shrink=True)
