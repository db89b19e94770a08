"""TensorData keeps the laws of image data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whence.core import ImageData, TensorData, batch_indices
from whence.errors import DataError, SettingError

IMAGES = torch.arange(5 * 3 * 2 * 2.0).reshape(5, 3, 2, 2)
LABELS = torch.tensor([0, 2, 1, 2, -1])


@pytest.fixture
def data():
    return TensorData(images=IMAGES, labels=LABELS)


def test_tensor_data_are_image_data(data):
    assert isinstance(data, ImageData)
    assert len(data) == 5
    assert data.skipped == ()


@given(
    size=st.integers(1, 7),
    indices=st.one_of(st.none(), st.lists(st.integers(0, 4), max_size=9)),
)
def test_batches_hold_the_asked_images_in_order_whatever_their_size(size, indices):
    data = TensorData(images=IMAGES, labels=LABELS)
    batches = list(data.batches(size, indices))
    asked = list(range(5)) if indices is None else indices
    assert [i for batch in batches for i in batch.indices.tolist()] == asked
    assert all(len(batch.indices) == size for batch in batches[:-1])
    assert all(1 <= len(batch.indices) <= size for batch in batches)
    for batch in batches:
        torch.testing.assert_close(batch.images, IMAGES[batch.indices], rtol=0, atol=0)
        assert torch.equal(batch.labels, LABELS[batch.indices])


def test_labels_and_names_are_found_by_index(data):
    assert [data.label(i) for i in range(5)] == [0, 2, 1, 2, None]
    assert [data.name(i) for i in range(5)] == ["0", "1", "2", "3", "4"]
    assert data.classes == ("0", "1", "2")
    named = TensorData(images=IMAGES, names=("a", "b", "c", "d", "e"))
    assert named.name(3) == "d"


def test_images_without_labels_have_label_minus_one_in_batches():
    data = TensorData(images=IMAGES)
    assert data.label(0) is None
    assert data.classes == ()
    assert [batch.labels.tolist() for batch in data.batches(3)] == [[-1] * 3, [-1] * 2]


def test_the_fingerprint_knows_images_labels_and_order(data):
    other = IMAGES.clone()
    other[4, 2, 1, 1] = 1e-3
    names = {
        data.fingerprint(),
        TensorData(images=other, labels=LABELS).fingerprint(),
        TensorData(images=IMAGES).fingerprint(),
        TensorData(images=IMAGES.flip(0), labels=LABELS.flip(0)).fingerprint(),
    }
    assert len(names) == 4
    assert TensorData(images=IMAGES.clone(), labels=LABELS).fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"images": IMAGES[0]}, r"got torch\.float32 of shape \(3, 2, 2\)"),
        ({"images": IMAGES.to(torch.uint8)}, r"floating point; got torch\.uint8"),
        ({"images": IMAGES, "labels": LABELS[:3]}, r"5 images need 5 labels; got shape \(3,\)"),
        ({"images": IMAGES, "labels": LABELS.float()}, r"integers.*got torch\.float32"),
        ({"images": IMAGES, "names": ("a",)}, r"5 images need 5 names; got 1"),
        (
            {"images": IMAGES, "labels": LABELS, "classes": ("cat", "dog")},
            r"label 2 of image 1 does not exist.*from 0 to 1",
        ),
        ({"images": IMAGES, "labels": LABELS - 1}, r"label -2 of image 4 does not exist"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(parts, says):
    with pytest.raises(DataError, match=says):
        TensorData(**parts)


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_needs_an_image(size):
    with pytest.raises(SettingError, match=f"at least one image; got size={size}"):
        list(batch_indices(5, size, None))
