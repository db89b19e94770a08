import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from whence.adapters import declared_preprocessing, load_data
from whence.adapters.tables import array_source
from whence.errors import DataError, MissingExtra

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 1, 0])


def all_images(data):
    return torch.cat([batch.images for batch in data.batches(2)])


EXPECTED = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("images", "labels"), ("data", "targets")])
def test_arrays_with_labels_come_from_npz(x, y, plain, tmp_path):
    np.savez(tmp_path / "d.npz", **{x: IMAGES, y: LABELS})
    data = load_data(tmp_path / "d.npz", plain)
    assert (data.classes, data.title, data.name(3)) == (("0", "1", "2"), "d.npz", f"{x}[3]")
    assert [data.label(k) for k in range(5)] == LABELS.tolist()
    assert torch.equal(all_images(data), EXPECTED)


def test_a_split_chooses_the_arrays_of_a_part(plain, tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2], y_test=LABELS[:2, None])
    assert [len(load_data(path, plain, split=s)) for s in ("train", "test")] == [5, 2]
    assert load_data(f"{path}#test", plain).label(1) == 1
    with pytest.raises(DataError, match="Choose one of the splits train, test"):
        load_data(path, plain)
    with pytest.raises(DataError, match="no images of a split 'val'; it has the arrays x_train"):
        load_data(path, plain, split="val")


def test_the_only_part_need_not_be_named(plain, tmp_path):
    np.savez(tmp_path / "d.npz", x_train=IMAGES)
    data = load_data(tmp_path / "d.npz", plain)
    assert (len(data), data.label(0), data.mapping) == (5, None, "no labels")


def test_npy_images_take_labels_from_another_file(plain, tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "y.npy", LABELS.astype(np.float64))
    data = load_data(tmp_path / "x.npy", plain, labels=tmp_path / "y.npy")
    assert data.label(2) == 2
    assert torch.equal(all_images(data), EXPECTED)
    np.save(tmp_path / "y.npy", np.array(["b", "a", "b", "a", "c"]))
    named = load_data(tmp_path / "x.npy", plain, labels=tmp_path / "y.npy")
    assert (named.classes, named.label(0)) == (("a", "b", "c"), 1)


@pytest.mark.parametrize(
    "stored",
    [
        IMAGES.transpose(0, 3, 1, 2),
        (IMAGES / 255).astype(np.float32),
        IMAGES.astype(np.int64),
        IMAGES.astype(np.uint16) * 257,
    ],
)
def test_the_same_pictures_are_read_from_any_usual_form(stored, plain, tmp_path):
    np.savez(tmp_path / "d.npz", x=stored)
    assert torch.allclose(all_images(load_data(tmp_path / "d.npz", plain)), EXPECTED, atol=1e-6)


def test_grey_arrays_have_one_channel_or_three(tmp_path):
    np.savez(tmp_path / "d.npz", x=IMAGES[:, :, :, 0])
    for channels in (1, 3):
        pre = declared_preprocessing({"size": 8, "channels": channels, "mean": 0, "std": 1}, "x")
        got = all_images(load_data(tmp_path / "d.npz", pre))
        assert torch.equal(got, EXPECTED[:, :1].expand(5, channels, 8, 8))


def test_booleans_are_black_and_white():
    source = array_source(np.array([[[True, False]]]), "x")
    assert source.read(0).tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (IMAGES.astype(np.float32), r"float32 from 0 to 255; float32 images run from 0 to 1"),
        (IMAGES / 127.5 - 1, r"float64 from -1 to 1"),
        (IMAGES.astype(np.int32) - 9, "int32 from -9 to"),
        (IMAGES[0, 0], r"shape \(8, 3\); images \(n, h, w\)"),
        (IMAGES[:0], r"shape \(0, 8, 8, 3\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"1 or 3 channels"),
        (np.full((2, 8, 8), "a"), "numbers were needed"),
    ],
)
def test_arrays_that_are_no_pictures_are_named(stored, message, plain, tmp_path):
    np.savez(tmp_path / "d.npz", x=stored)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "d.npz", plain)


def test_a_picture_with_nan_is_left_out_and_listed(plain, tmp_path):
    values = IMAGES / 255
    values[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "d.npz", x=values, y=LABELS)
    data = load_data(tmp_path / "d.npz", plain)
    assert [b.indices.tolist() for b in data.batches(2)] == [[0, 1], [2], [4]]
    assert data.skipped[0][0] == "x[3]"
    assert "NaN" in data.skipped[0][1]


def test_a_label_outside_the_classes_is_named(plain, tmp_path):
    np.savez(tmp_path / "d.npz", x=IMAGES, y=LABELS)
    with pytest.raises(DataError, match=r"x\[2\] in d\.npz has label 2, and there are 2 classes"):
        load_data(tmp_path / "d.npz", plain, classes=["a", "b"])
    np.savez(tmp_path / "d.npz", x=IMAGES, y=LABELS - 1)
    with pytest.raises(DataError, match=r"x\[0\] in d\.npz has label -1"):
        load_data(tmp_path / "d.npz", plain)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:4], r"5 images and labels of shape \(4,\)"),
        (np.eye(3)[LABELS], r"labels of shape \(5, 3\)"),
        (LABELS + 0.5, "labels of type float64"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message, plain, tmp_path):
    np.savez(tmp_path / "d.npz", x=IMAGES, y=labels)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "d.npz", plain)


def test_files_that_are_no_arrays_are_named(plain, tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, other=IMAGES)
    with pytest.raises(DataError, match="it has the arrays other"):
        load_data(path, plain)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="truncated or no NumPy file"):
        load_data(path, plain)
    path.write_bytes(b"<html>gone</html>")
    with pytest.raises(DataError, match="a web page"):
        load_data(path, plain)
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects, which are not read"):
        load_data(tmp_path / "o.npy", plain)
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(DataError, match="one array and has no split 'test'"):
        load_data(tmp_path / "x.npy", plain, split="test")
    with pytest.raises(DataError, match=r"no file .*y\.npy"):
        load_data(tmp_path / "x.npy", plain, labels=tmp_path / "y.npy")


def test_the_digits_are_scikit_learns(plain):
    images, labels = load_digits(return_X_y=True)
    data = load_data("digits", plain)
    assert (len(data), data.classes) == (1797, tuple("0123456789"))
    assert [data.label(k) for k in range(1797)] == labels.tolist()
    seen = next(iter(data.batches(9, [7]))).images[0]
    expected = torch.from_numpy(images[7].reshape(8, 8) / 16).float()
    assert torch.equal(seen, expected.expand(3, 8, 8))


def test_the_parts_of_the_digits_are_disjoint_and_named_by_their_place(plain):
    train, test = (load_data(f"digits#{part}", plain) for part in ("train", "test"))
    places = [{d.name(k) for k in range(len(d))} for d in (train, test)]
    assert (len(train), len(test), test.name(0)) == (1438, 359, "digits[4]")
    assert not places[0] & places[1]
    with pytest.raises(DataError, match="no 'val'"):
        load_data("digits", plain, split="val")


def test_a_fingerprint_of_arrays_follows_pictures_and_labels(plain, tmp_path):
    def mark(images, labels):
        np.savez(tmp_path / "d.npz", x=images, y=labels)
        return load_data(tmp_path / "d.npz", plain).fingerprint()

    other = IMAGES.copy()
    other[4, 7, 7, 2] ^= 1
    assert len({mark(IMAGES, LABELS), mark(other, LABELS), mark(IMAGES, LABELS[::-1] * 0)}) == 3
    assert mark(IMAGES, LABELS) == mark(IMAGES, LABELS)


@pytest.fixture
def cifar(tmp_path):
    """A CIFAR-10 of ten pictures, as torchvision stores it."""
    import hashlib
    import pickle

    from whence.adapters.torchvision import open_torchvision

    kind = open_torchvision().datasets.CIFAR10
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    rows = np.random.default_rng(1).integers(0, 256, (2, 3072), dtype=np.uint8)
    lists = {}
    for number, (name, _) in enumerate([*kind.train_list, *kind.test_list]):
        content = pickle.dumps({"data": rows, "labels": [number, 9]})
        (folder / name).write_bytes(content)
        lists[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    names = {"label_names": [f"name {k}" for k in range(10)]}
    meta = pickle.dumps(names)
    (folder / kind.meta["filename"]).write_bytes(meta)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "train_list", [[n, lists[n]] for n, _ in kind.train_list])
        patch.setattr(kind, "test_list", [[n, lists[n]] for n, _ in kind.test_list])
        digest = hashlib.md5(meta, usedforsecurity=False).hexdigest()
        patch.setattr(kind, "meta", {**kind.meta, "md5": digest})
        yield tmp_path, rows


def test_a_torchvision_dataset_on_disk_is_read(cifar):
    root, rows = cifar
    pre = declared_preprocessing({"size": 32, "mean": 0.0, "std": 1.0}, "x")
    train = load_data(f"torchvision/CIFAR10:{root}", pre, split="train")
    test = load_data(f"torchvision/CIFAR10:{root}#test", pre)
    assert (len(train), len(test), train.title) == (10, 2, "CIFAR10 (train)")
    assert (test.classes[9], test.label(0), test.name(1)) == ("name 9", 5, "CIFAR10[1]")
    expected = torch.from_numpy(rows[0].reshape(3, 32, 32)).float() / 255
    assert torch.equal(next(iter(test.batches(1))).images[0], expected)
    assert train.fingerprint() != test.fingerprint()
    with pytest.raises(DataError, match="no part called 'val'"):
        load_data(f"torchvision/CIFAR10:{root}", pre, split="val")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision/CIFAR10:nowhere", r"could not read CIFAR10.*download=True"),
        ("torchvision/CIFAR11:nowhere", "no dataset 'CIFAR11'.*CIFAR10"),
        ("torchvision/CIFAR10", "names no folder"),
    ],
)
def test_a_torchvision_dataset_that_is_not_there_is_named(source, message, plain):
    with pytest.raises(DataError, match=message):
        load_data(source, plain)


def test_a_tensor_shaped_picture_is_what_the_source_holds():
    source = array_source(IMAGES[:, :, :, :1], "x")
    assert source.name(2) == "x[2]"
    assert Image.fromarray(source.read(2)[:, :, 0]).size == (8, 8)


def test_missing_extras_say_how_to_install_them():
    error = MissingExtra("torchvision", "torchvision", "A torchvision model")
    assert "pip install 'whence[torchvision]'" in str(error)
