"""Images whose region shows what other images show there."""

from collections import Counter

import pytest
import torch

from whence.core import TensorData
from whence.recipes.fit_data import Part
from whence.recipes.swap import AlsoSwapped, donors_of, pasted

SIDE = 4


def region(count: int) -> torch.Tensor:
    """Return the left half as the region of each image."""
    found = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.bool)
    found[..., :2] = True
    return found


def numbered(count: int) -> TensorData:
    """Return images of their own number, of two classes by turns."""
    images = torch.arange(float(count)).reshape(-1, 1, 1, 1).expand(count, 2, SIDE, SIDE).clone()
    return TensorData(images=images, labels=torch.arange(count) % 2)


def test_a_region_is_the_donors_and_the_rest_its_own():
    images, donors = torch.zeros(1, 2, SIDE, SIDE), torch.rand(1, 2, SIDE, SIDE)
    made = pasted(images, region(1), donors)
    assert torch.equal(made[..., :2], donors[..., :2])
    assert torch.equal(made[..., 2:], images[..., 2:])


def test_where_the_donors_region_does_not_reach_its_mean_colour_stands():
    donors = torch.rand(1, 2, SIDE, SIDE)
    theirs = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    theirs[..., 0] = True
    made = pasted(torch.zeros(1, 2, SIDE, SIDE), region(1), donors, theirs)
    assert torch.equal(made[..., 0], donors[..., 0])
    torch.testing.assert_close(made[0, :, :, 1], donors[0, :, :, 0].mean(1)[:, None].expand(2, 4))
    assert (made[..., 2:] == 0).all()


def test_donors_are_of_another_class_and_of_those_wanted_where_there_are_some():
    labels = [0, 1, 2] * 20
    found = donors_of(labels, torch.Generator().manual_seed(0), {1})
    for own, donor in zip(labels, found, strict=True):
        assert labels[donor] == 1 if own != 1 else labels[donor] != 1
    free = donors_of(labels, torch.Generator().manual_seed(0))
    assert all(labels[d] != own for own, d in zip(labels, free, strict=True))
    assert set(Counter(labels[d] for d in free)) == {0, 1, 2}


def test_an_image_without_another_class_is_its_own_donor():
    assert donors_of([3, 3], torch.Generator().manual_seed(0)) == [0, 1]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_every_image_comes_twice_the_second_time_swapped(size):
    data = numbered(10)
    both = AlsoSwapped(data=data, inside=lambda places: region(len(places)), moves=False)
    batches = list(both.batches(size))
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(images[:10], data.images)
    assert torch.equal(labels, torch.cat([data.labels, data.labels]))
    assert [both.label(k) for k in range(20)] == labels.tolist()
    for place, donor in enumerate(both.donors):
        assert (images[10 + place, :, :, :2] == donor).all()
        assert (images[10 + place, :, :, 2:] == place).all()


def test_regions_that_move_are_those_of_image_and_donor():
    data = numbered(6)

    def inside(places):
        found = torch.zeros(len(places), 1, SIDE, SIDE, dtype=torch.bool)
        for row, place in enumerate(places):
            found[row, :, :, : 1 + place % 2] = True
        return found

    both = AlsoSwapped(data=data, inside=inside, moves=True)
    for batch in both.batches(1, range(6, 12)):
        place = int(batch.indices[0]) - 6
        wide = 1 + place % 2
        assert (batch.images[0, :, :, :wide] == both.donors[place]).all()
        assert (batch.images[0, :, :, wide:] == place).all()


def test_of_a_part_the_places_are_those_of_the_part():
    part = Part(whole=numbered(10), places=(9, 2, 7), title="three")
    both = AlsoSwapped(data=part, inside=lambda places: region(len(places)), moves=False)
    images = torch.cat([batch.images for batch in both.batches(2)])
    assert images[:3, 0, 0, 3].tolist() == [9, 2, 7]
    assert images[3:, 0, 0, 3].tolist() == [9, 2, 7]
    assert images[3:, 0, 0, 0].tolist() == [[9, 2, 7][d] for d in both.donors]


def test_donors_regions_and_images_are_in_the_fingerprint():
    def made(seed=0, wanted=(), wide=2):
        def inside(places):
            return region(len(places)).roll(wide, dims=3)

        return AlsoSwapped(
            data=numbered(6), inside=inside, moves=False, seed=seed, wanted=frozenset(wanted)
        ).fingerprint()

    assert made() == made()
    assert len({made(), made(seed=1), made(wanted=[1]), made(wide=1)}) == 4
