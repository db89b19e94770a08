import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from whence.adapters import declared_preprocessing, load_data
from whence.adapters.classes import map_classes
from whence.adapters.folders import arrange
from whence.core import ImageData
from whence.errors import DataError, SettingError


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def as_tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def whole(data, size=2):
    batches = list(data.batches(size))
    return (
        torch.cat([b.indices for b in batches]),
        torch.cat([b.images for b in batches]),
        torch.cat([b.labels for b in batches]),
    )


def test_an_image_folder_gives_pictures_labels_and_names(photos, plain, picture):
    data = load_data(photos, plain)
    assert isinstance(data, ImageData)
    assert (len(data), data.classes, data.title) == (6, ("cat", "dog"), "photos")
    assert [data.name(k) for k in (0, 5)] == ["cat/0.png", "dog/2.png"]
    assert [data.label(k) for k in range(6)] == [0, 0, 0, 1, 1, 1]
    indices, images, labels = whole(data, 4)
    assert (indices.tolist(), labels.tolist()) == ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])
    assert torch.equal(images[4], as_tensor(picture(11)))
    assert data.skipped == ()


def test_batches_keep_the_order_and_the_places_asked_for(photos, plain):
    data = load_data(photos, plain)
    got = [b.indices.tolist() for b in data.batches(2, [5, 0, 3, 3, 1])]
    assert got == [[5, 0], [3, 3], [1]]
    assert list(data.batches(2, [])) == []


def test_a_stream_that_is_left_early_can_be_read_again(photos, plain):
    data = load_data(photos, plain)
    assert next(iter(data.batches(1))).indices.tolist() == [0]
    assert len(list(data.batches(1))) == 6


def test_a_zip_archive_is_the_same_dataset_as_its_folder(photos, plain, tmp_path):
    folder = load_data(photos, plain)
    archive = load_data(zipped(photos, tmp_path / "p.zip"), plain)
    assert archive.classes == folder.classes
    assert [archive.name(k) for k in range(6)] == [folder.name(k) for k in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(whole(archive), whole(folder), strict=True))
    assert archive.fingerprint() == folder.fingerprint()


def test_the_fingerprint_follows_bytes_and_labels(photos, plain, picture):
    before = load_data(photos, plain).fingerprint()
    assert load_data(photos, plain).fingerprint() == before
    assert load_data(photos, plain, classes=["dog", "cat"]).fingerprint() != before
    picture(99).save(photos / "dog" / "1.png")
    assert load_data(photos, plain).fingerprint() != before


@pytest.mark.parametrize("where", ["option", "source"])
def test_a_split_is_a_folder_above_the_classes(where, photos, plain, tmp_path):
    root = tmp_path / "data"
    (root / "test" / "cat").mkdir(parents=True)
    photos.rename(root / "train")
    Image.new("RGB", (8, 8)).save(root / "test" / "cat" / "x.png")
    with pytest.raises(DataError, match=r"divided into test, train.*Choose one"):
        load_data(root, plain)
    with pytest.raises(DataError, match="no images in a folder 'val'; it has test, train"):
        load_data(root, plain, split="val")
    part = {"option": {"source": root, "split": "train"}, "source": {"source": f"{root}#train"}}
    data = load_data(preprocessing=plain, **part[where])
    assert (len(data), data.title, data.name(0)) == (6, "data (train)", "cat/0.png")
    with pytest.raises(DataError, match="names the split train, the option test"):
        load_data(f"{root}#train", plain, split="test")


def test_a_flat_folder_has_no_labels(photos, plain):
    data = load_data(photos / "cat", plain, classes=["cat", "dog"])
    assert (len(data), data.label(0), data.classes) == (3, None, ("cat", "dog"))
    assert next(iter(data.batches(3))).labels.tolist() == [-1, -1, -1]


def test_one_image_file_is_a_dataset(photos, plain, picture):
    data = load_data(str(photos / "dog" / "2.png"), plain)
    assert (len(data), data.title, data.name(0)) == (1, "2.png", "2.png")
    assert torch.equal(next(iter(data.batches(1))).images[0], as_tensor(picture(12)))


@pytest.mark.parametrize("ending", ["json", "csv", "npy", "txt"])
@pytest.mark.parametrize("inside", [True, False])
def test_labels_may_come_in_a_file(ending, inside, photos, plain, tmp_path):
    flat = photos / "cat"
    content = {
        "json": json.dumps({"0.png": 1, "1.png": "dog", "2.png": 0}),
        "csv": "0.png,1\n1.png,Dog\n2.png,0\n",
        "txt": "1\ndog\n0\n",
    }
    path = (flat if inside else tmp_path) / f"labels.{ending}"
    if ending == "npy":
        np.save(path, np.array([1, 1, 0]))
    else:
        path.write_text(content[ending])
    given = path.relative_to(flat) if inside else path
    data = load_data(flat, plain, classes=["cat", "dog"], labels=given)
    assert [data.label(k) for k in range(3)] == [1, 1, 0]
    assert data.mapping == f"by labels.{ending}"


def test_a_label_file_that_does_not_fit_is_named(photos, plain, tmp_path):
    path = tmp_path / "labels.json"
    options = {"classes": ["cat", "dog"], "labels": path}
    with pytest.raises(DataError, match="no label file"):
        load_data(photos / "cat", plain, **options)
    path.write_text('{"0.png": 1}')
    with pytest.raises(DataError, match=r"no usable label for 1\.png"):
        load_data(photos / "cat", plain, **options)
    path.write_text('{"0.png": 1, ')
    with pytest.raises(DataError, match=r"truncated or no \.json file"):
        load_data(photos / "cat", plain, **options)
    path.write_text("[0, 1]")
    with pytest.raises(DataError, match="2 labels; a label for each of 3"):
        load_data(photos / "cat", plain, **options)
    path.write_text('[0, 1, "eel"]')
    with pytest.raises(DataError, match=r"2\.png in cat has label 'eel'.*none of the 2 classes"):
        load_data(photos / "cat", plain, **options)
    path.write_text("[0, 1, 2]")
    with pytest.raises(DataError, match=r"2\.png in cat has label 2, and there are 2 classes"):
        load_data(photos / "cat", plain, **options)


def test_a_bad_image_in_the_middle_is_left_out_and_listed_once(photos, plain):
    whole_file = (photos / "cat" / "1.png").read_bytes()
    (photos / "cat" / "1.png").write_bytes(whole_file[: len(whole_file) // 2])
    (photos / "dog" / "0.png").write_bytes(b"")
    data = load_data(photos, plain)
    for _ in range(2):
        assert [b.indices.tolist() for b in data.batches(2)] == [[0], [2], [4, 5]]
    assert [name for name, _ in data.skipped] == ["cat/1.png", "dog/0.png"]
    assert "truncated or corrupt" in data.skipped[0][1]
    assert "is empty" in data.skipped[1][1]
    assert len(data.fingerprint()) == 64


def test_an_image_that_disappears_during_a_run_is_listed(photos, plain):
    data = load_data(photos, plain)
    (photos / "dog" / "1.png").unlink()
    assert whole(data)[0].tolist() == [0, 1, 2, 3, 5]
    assert data.skipped[0][0] == "dog/1.png"


def test_nothing_but_bad_images_is_an_error_with_the_reasons(photos, plain):
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no image")
    data = load_data(photos, plain)
    with pytest.raises(DataError, match=r"None of the 6 images.*cat/0\.png is no.*And 3 more"):
        list(data.batches(2))


def test_a_damaged_member_of_an_archive_is_left_out(photos, plain, tmp_path):
    path = zipped(photos, tmp_path / "p.zip")
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("photos/cat/1.png")
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len(entry.filename)
    content[start + 40] ^= 0xFF
    path.write_bytes(content)
    data = load_data(path, plain)
    assert whole(data)[0].tolist() == [0, 2, 3, 4, 5]
    assert "CRC" in data.skipped[0][1]


def test_a_truncated_archive_is_named(photos, plain, tmp_path):
    path = zipped(photos, tmp_path / "p.zip")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"p\.zip is no zip archive, or is truncated"):
        load_data(path, plain)


def test_a_folder_without_images_says_what_was_looked_for(plain, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no images.*\.jpeg, \.jpg.*among 1 files"):
        load_data(tmp_path, plain)


def test_images_beside_class_folders_are_named(photos, plain):
    Image.new("RGB", (8, 8)).save(photos / "loose.png")
    with pytest.raises(DataError, match=r"beside them \(loose\.png\)"):
        load_data(photos, plain)


def test_hidden_files_and_folders_are_no_images(photos, plain):
    (photos / ".cache").mkdir()
    Image.new("RGB", (8, 8)).save(photos / ".cache" / "x.png")
    (photos / "cat" / "._0.png").write_bytes(b"resource fork")
    (photos / "Thumbs.db").write_bytes(b"x")
    assert len(load_data(photos, plain)) == 6


def test_linked_folders_are_followed_and_loops_end(photos, plain, tmp_path):
    root = tmp_path / "linked"
    root.mkdir()
    (root / "cat").symlink_to(photos / "cat")
    (root / "dog").symlink_to(photos / "dog")
    (photos / "cat" / "loop").symlink_to(photos / "cat")
    assert len(load_data(root, plain)) == 6


def test_a_source_that_does_not_exist_is_named_with_what_is_beside(photos, plain):
    with pytest.raises(DataError, match=r"no data source .*photo\. Beside it are.*photos"):
        load_data(photos.parent / "photo", plain)
    other = photos.parent / "data.parquet"
    other.write_bytes(b"x")
    with pytest.raises(DataError, match="of no known kind"):
        load_data(other, plain)


def test_folders_around_everything_are_looked_through():
    names = ("set/v1/train/cat/a.png", "set/v1/train/dog/b.png")
    layout = arrange(names, None, "x")
    assert (layout.folders, layout.prefix) == (("cat", "dog"), "set/v1/train/")
    assert arrange(names, "train", "x") == layout
    one = arrange(("cat/a.png", "cat/deep/b.png"), None, "x")
    assert (one.folders, one.labels) == (("cat",), (0, 0))


def test_sizes_and_places_outside_the_dataset_are_named(photos, plain):
    data = load_data(photos, plain)
    with pytest.raises(SettingError, match="at least one image; got size 0"):
        data.batches(0)
    with pytest.raises(SettingError, match="has 6 images; there is no image 6"):
        data.batches(1, [6])


def test_a_dataset_travels_to_another_process(photos, plain, tmp_path):
    data = load_data(zipped(photos, tmp_path / "p.zip"), plain)
    list(data.batches(2))
    again = pickle.loads(pickle.dumps(data))  # noqa: S301 - our own bytes
    assert torch.equal(whole(again)[1], whole(data)[1])


@pytest.mark.parametrize(
    ("found", "classes", "indices", "mapping"),
    [
        (["cat", "dog"], None, (0, 1), "by position"),
        (["Cat", "guinea_pig"], ["dog", "guinea pig", "cat"], (2, 1), "by name"),
        (["tench"], ["tench, Tinca tinca", "goldfish"], (0,), "by name"),
        (["a", "b"], ["cat", "dog"], (0, 1), "by position"),
        (["a", "b"], ["0", "1"], (0, 1), "by position"),
        (["1", "3"], ["0", "1", "2", "3"], (1, 3), "by number"),
        (["00", "01"], ["0", "1"], (0, 1), "by number"),
        (["n2", "n1"], ["x", "y", "z"], (2, 1), "by WordNet id"),
    ],
)
def test_class_folders_are_matched_to_the_models_classes(found, classes, indices, mapping):
    got = map_classes(found, classes, synsets=["n0", "n1", "n2"])
    assert (got.indices, got.mapping) == (indices, mapping)


@pytest.mark.parametrize(
    ("found", "classes", "message"),
    [
        (["cat", "eel"], ["cat", "dog"], "no class of the model is called eel"),
        (["a", "b", "c"], ["cat", "dog"], r"3 classes \(a, b, c\), the model 2 \(cat, dog\)"),
        (["a", "b"], ["0", "1", "2"], "Rename the folders"),
        (["crane"], ["crane", "crane", "dog"], "several of the model's classes share"),
        (["n01440764"], ["0", "1"], "timm installed"),
        ([str(k) for k in (0, 1, 10, *range(2, 10))], [str(k) for k in range(11)], "several len"),
    ],
)
def test_class_folders_that_fit_no_class_are_named(found, classes, message):
    with pytest.raises(DataError, match=message):
        map_classes(found, classes)


def test_wordnet_folders_are_matched_to_imagenets_names(plain, tmp_path, picture):
    from whence.adapters.torchvision import torchvision_classes

    names = torchvision_classes("resnet18", 1000)
    for synset in ("n03888257", "n01443537"):
        (tmp_path / synset).mkdir()
        picture().save(tmp_path / synset / "x.JPEG")
    data = load_data(tmp_path, plain, classes=names)
    assert [data.classes[data.label(k)] for k in range(2)] == ["goldfish", "parachute"]


def test_grey_16_bit_and_cmyk_files_share_a_batch(tmp_path, picture):
    grey = Image.fromarray(np.full((9, 9), 32896, dtype=np.uint16))
    ink = Image.new("CMYK", (12, 9), (0, 0, 0, 127))
    buffer = io.BytesIO()
    ink.save(buffer, "JPEG", quality=100)
    (tmp_path / "b.jpg").write_bytes(buffer.getvalue())
    grey.save(tmp_path / "a.png")
    picture(size=(20, 10), mode="RGBA").save(tmp_path / "c.webp")
    pre = declared_preprocessing({"size": 8, "mean": 0.0, "std": 1.0}, "x")
    images = next(iter(load_data(tmp_path, pre).batches(3))).images
    assert images.shape == (3, 3, 8, 8)
    assert torch.allclose(images[:2], torch.tensor(128 / 255), atol=2.5 / 255)


def test_a_label_file_tells_files_of_one_name_apart_by_their_folder(photos, plain, tmp_path):
    path = tmp_path / "labels.json"
    table = {f"{name}/{n}.png": int(name == "cat") for name in ("cat", "dog") for n in range(3)}
    path.write_text(json.dumps(table))
    data = load_data(photos, plain, classes=["no", "yes"], labels=path)
    assert [data.label(k) for k in range(6)] == [1, 1, 1, 0, 0, 0]
    assert data.classes == ("no", "yes")
