"""The exchange: the shortcut stays in the images, and tells nothing of the class any more."""

from itertools import islice

import pytest
import torch

from whence.core import ImageData, TensorData
from whence.errors import ShapeError
from whence.recipes.shortcut_exchange import Exchanged, exchanged

COUNT, SIDE = 60, 8


def numbered():
    """Images in which every pixel is the image's number."""
    values = torch.arange(COUNT, dtype=torch.float32).view(-1, 1, 1, 1)
    return values.expand(-1, 3, SIDE, SIDE).clone()


def box(left, top, right, bottom):
    inside = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    inside[:, :, top:bottom, left:right] = True
    return inside


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_inside_are_pixels_of_other_images_and_outside_nothing_changes():
    images = numbered()
    inside = box(0, 0, SIDE, 6).expand(COUNT, -1, -1, -1)
    found = exchanged(images, inside, images, inside, drawn(), stamp=False)
    assert torch.equal(found[:, :, 6:], images[:, :, 6:])
    here = found[:, 0, :6].flatten(1)
    assert (here == here[:, :1]).all()  # one donor has all the pixels that are asked for
    assert len(here[:, 0].unique()) > COUNT // 3
    assert (here[:, 0] != torch.arange(COUNT)).float().mean() > 0.9


def test_where_the_first_donors_shortcut_does_not_reach_another_donor_gives_pixels():
    images = numbered()
    inside = box(0, 0, SIDE, SIDE).expand(COUNT, -1, -1, -1).clone()
    inside[::2, :, :4] = False
    inside[1::2, :, 4:] = False
    found = exchanged(images, inside, images, inside, drawn(), stamp=False)
    lower, upper = found[::2, 0, 4:], found[1::2, 0, :4]
    assert torch.equal(found[::2, :, :4], images[::2, :, :4])
    right = [(part % 2 == kind).float().mean() for part, kind in ((lower, 0), (upper, 1))]
    assert min(right) > 0.95  # eight donors, each with the right half by even odds


def test_no_object_of_another_image_gets_into_a_ground():
    images = numbered()
    inside = torch.ones(COUNT, 1, SIDE, SIDE, dtype=torch.bool)
    inside[1:, :, 2:4, 2:4] = False
    found = exchanged(images, inside, images, inside, drawn(), stamp=False)
    assert torch.equal(found[1:, :, 2:4, 2:4], images[1:, :, 2:4, 2:4])
    assert torch.equal(found[0, :, 2:4, 2:4], images[0, :, 2:4, 2:4])  # nobody's ground is there
    assert (found[:, 0, 0, 0] != images[:, 0, 0, 0]).float().mean() > 0.9


def test_a_stamp_is_taken_off_and_put_on_others():
    images = torch.zeros(COUNT, 1, SIDE, SIDE)
    inside = torch.zeros(COUNT, 1, SIDE, SIDE, dtype=torch.bool)
    inside[:20, :, 1:3, 1:3] = True
    images[inside] = 1
    found = exchanged(images, inside, images, inside, drawn(3), stamp=True)
    assert found[:, :, 3:].sum() == 0
    carries = torch.cat(
        [
            exchanged(images, inside, images, inside, drawn(k), stamp=True)[:, 0, 1:3, 1:3].mean(
                dim=(1, 2)
            )
            for k in range(20)
        ]
    ).view(20, COUNT)
    assert carries[:, :20].mean() == pytest.approx(1 / 3, abs=0.1)
    assert carries[:, 20:].mean() == pytest.approx(1 / 3, abs=0.1)


def test_afterwards_the_shortcut_tells_nothing_of_the_class():
    labels = torch.arange(COUNT) % 2
    images = torch.rand(COUNT, 1, SIDE, SIDE, generator=drawn(1))
    images[:, :, :6] += 5 * labels.view(-1, 1, 1, 1)
    whole = TensorData(images=images, labels=labels)
    data = Exchanged(whole=whole, inside=box(0, 0, SIDE, 6), generator=drawn(2))
    seen, truth = [], []
    for _ in range(20):
        for batch in data.batches(20):
            seen.append(batch.images[:, :, :6].mean(dim=(1, 2, 3)) > 2.5)
            truth.append(batch.labels == 1)
    told = (torch.cat(seen) == torch.cat(truth)).float().mean()
    assert abs(float(told) - 0.5) < 0.06


def test_every_pass_draws_anew_and_a_seed_draws_the_same():
    whole = TensorData(images=numbered(), labels=torch.zeros(COUNT, dtype=torch.int64))

    def passes(seed):
        data = Exchanged(whole=whole, inside=box(0, 0, SIDE, 6), generator=drawn(seed))
        return [torch.cat([b.images for b in data.batches(16)]) for _ in range(2)]

    one, two = passes(0)
    again = passes(0)
    assert torch.equal(one, again[0])
    assert torch.equal(two, again[1])
    assert not torch.equal(one, two)


def test_it_is_image_data_of_the_same_images_and_reads_none_twice():
    labels = torch.arange(COUNT) % 3
    whole = TensorData(images=numbered(), labels=labels, names=tuple(map(str, range(COUNT))))
    masks = box(0, 0, 2, 2).expand(COUNT, -1, -1, -1)
    data = Exchanged(whole=whole, inside=masks, generator=drawn(), share=0.0)
    assert isinstance(data, ImageData)
    assert (len(data), data.name(3), data.label(4)) == (COUNT, "3", 1)
    assert (data.title, data.classes, data.skipped) == (whole.title, whole.classes, ())
    (batch,) = islice(data.batches(4, [9, 2, 5, 7]), 1)
    assert batch.indices.tolist() == [9, 2, 5, 7]
    assert torch.equal(batch.labels, labels[[9, 2, 5, 7]])
    assert torch.equal(batch.images, whole.images[[9, 2, 5, 7]])
    other = Exchanged(whole=whole, inside=~masks, generator=drawn())
    assert len({data.fingerprint(), other.fingerprint(), whole.fingerprint()}) == 3


def test_masks_that_do_not_fit_are_refused_with_the_numbers():
    whole = TensorData(images=numbered())
    data = Exchanged(whole=whole, inside=box(0, 0, 2, 2).expand(7, -1, -1, -1), generator=drawn())
    with pytest.raises(ShapeError, match="60 images need as many masks, or one for all; got 7"):
        next(data.batches(4))
    images = numbered()
    with pytest.raises(ShapeError, match="need masks"):
        exchanged(images, box(0, 0, 2, 2), images, box(0, 0, 2, 2), drawn(), stamp=True)


def test_what_covers_little_of_the_images_that_have_it_is_a_stamp_and_the_rest_a_ground():
    whole = TensorData(images=numbered())
    some = torch.zeros(COUNT, 1, SIDE, SIDE, dtype=torch.bool)
    some[:3, :, :4, :4] = True
    assert Exchanged(whole=whole, inside=some, generator=drawn()).is_stamp
    some[:3] = True
    assert not Exchanged(whole=whole, inside=some, generator=drawn()).is_stamp
    some[3:20, :, :2, :2] = True
    assert Exchanged(whole=whole, inside=some, generator=drawn()).is_stamp
