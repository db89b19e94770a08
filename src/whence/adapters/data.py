"""The one entrance for data: a source named in a line becomes a dataset."""

from collections.abc import Sequence
from pathlib import Path

from whence.adapters.classes import WORDNET, map_classes, numbered
from whence.adapters.folders import Files, FileSource, FolderFiles, Layout, ZipFiles, arrange
from whence.adapters.images import EXTENSIONS, is_image_name
from whence.adapters.labels import class_indices, read_labels
from whence.adapters.preprocessing import Preprocessing
from whence.adapters.streamed import PictureData, PictureSource
from whence.adapters.tables import array_source, digits_arrays, label_array, read_npy, read_npz
from whence.adapters.timm import imagenet_synsets
from whence.adapters.torchvision import torchvision_dataset
from whence.errors import DataError, MissingExtra

__all__ = ["load_data"]

TORCHVISION = "torchvision/"
IMAGENET_CLASSES = 1000


def load_data(
    source: str | Path,
    preprocessing: Preprocessing,
    *,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    labels: Path | None = None,
) -> PictureData:
    """Return the dataset that a source names.

    ============================  ==============================================================
    ``photos/``                   an image folder ``CLASS/image.jpg``, or images without classes
    ``photos.zip``                either, read without unpacking
    ``cat.jpg``                   one image
    ``data.npz``                  arrays ``x`` and ``y`` (``images``, ``labels``), or for each
                                  split ``x_train``, ``y_train``, ``x_test``, ...
    ``images.npy``                one array; its labels in another, given as ``labels``
    ``digits``                    scikit-learn's handwritten digits
    ``torchvision/CIFAR10:ROOT``  a torchvision dataset that is on disk
    ============================  ==============================================================

    A split may also be written behind the source: ``data.npz#train``.

    Args:
        source: What to read.
        preprocessing: How each picture becomes the model's input.
        classes: Names of the model's classes in the order of its outputs; without them the
            dataset's own.
        split: Which part of the dataset.
        labels: A file of labels, in the dataset or anywhere: ``.npy``, ``.json``, ``.csv``.

    Raises:
        DataError: The source does not exist, cannot be read, holds no images, or its labels and
            the classes do not fit.
        MissingExtra: A torchvision dataset, and torchvision is not installed.
    """
    name = str(source)
    text, mark, part = name.rpartition("#")
    if mark and part and not Path(name).exists():
        if split not in (None, part):
            msg = f"The source {source} names the split {part}, the option {split}. Give one."
            raise DataError(msg)
        name, split = text, part
    if not Path(name).exists():
        if name.startswith(TORCHVISION):
            return from_torchvision(name, preprocessing, classes, split)
        if name == "digits":
            pictures, numbers = digits_arrays(split)
            return labelled(pictures, numbers, preprocessing, classes, titled("digits", split))
    return from_path(Path(name), preprocessing, classes, split, labels)


def from_path(
    path: Path,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    split: str | None,
    labels: Path | None,
) -> PictureData:
    """Return the images in a folder or a file."""
    if path.is_dir():
        return from_files(FolderFiles(root=path), path, preprocessing, classes, split, labels)
    if not path.is_file():
        raise no_source(path)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return from_files(ZipFiles(path=path), path, preprocessing, classes, split, labels)
    if suffix in (".npz", ".npy"):
        return from_arrays(path, preprocessing, classes, split, labels)
    if is_image_name(path.name):
        single = FileSource(files=FolderFiles(root=path.parent), members=(path.name,))
        return from_label_file(single, None, path, preprocessing, classes, labels, path.name)
    msg = (
        f"{path} is of no known kind. Data come as a folder, .zip, .npz, .npy, or an image file "
        f"({', '.join(EXTENSIONS)})."
    )
    raise DataError(msg)


def from_files(
    files: Files,
    path: Path,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    split: str | None,
    labels: Path | None,
) -> PictureData:
    """Return the images in a folder or an archive."""
    title = titled(path.resolve().name, split)
    layout = arrange(files.names(), split, title)
    source = FileSource(files=files, members=layout.members, prefix=layout.prefix)
    if labels is not None:
        return from_label_file(source, files, path, preprocessing, classes, labels, title)
    if layout.labels is None:
        return unlabelled(source, preprocessing, classes, title)
    synsets = synsets_for(layout, classes)
    found = map_classes(layout.folders, classes, synsets)
    return PictureData(
        source=source,
        preprocessing=preprocessing,
        title=title,
        classes=found.classes,
        labels=tuple(found.indices[k] for k in layout.labels),
        mapping=found.mapping,
    )


def from_label_file(
    source: FileSource,
    files: Files | None,
    path: Path,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    labels: Path | None,
    title: str,
) -> PictureData:
    """Return images whose labels are in a file, beside them or elsewhere."""
    if labels is None:
        return unlabelled(source, preprocessing, classes, title)
    if files is not None and labels.as_posix() in files.names():
        content = files.read(labels.as_posix())
    elif labels.is_file():
        content = labels.read_bytes()
    else:
        msg = f"There is no label file {labels}, neither in {path} nor as a path of its own."
        raise DataError(msg)
    names = [source.name(k) for k in range(len(source))]
    values = read_labels(content, labels, names)
    indices, known = class_indices(values, classes, names, title)
    return PictureData(
        source=source,
        preprocessing=preprocessing,
        title=title,
        classes=known,
        labels=indices,
        mapping=f"by {labels.name}",
    )


def from_arrays(
    path: Path,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    split: str | None,
    labels: Path | None,
) -> PictureData:
    """Return the images in an array file."""
    title = titled(path.name, split)
    if path.suffix.lower() == ".npz":
        images, own, key = read_npz(path, split)
    else:
        if split is not None:
            msg = f"{path} is one array and has no split {split!r}. Leave the split out."
            raise DataError(msg)
        images, own, key = read_npy(path), None, path.stem
    source = array_source(images, key)
    values = own if labels is None else read_npy(labels)
    if values is None:
        return unlabelled(source, preprocessing, classes, title)
    flat = label_array(values, len(source), title).tolist()
    return labelled(source, flat, preprocessing, classes, title)


def from_torchvision(
    source: str, preprocessing: Preprocessing, classes: Sequence[str] | None, split: str | None
) -> PictureData:
    """Return a torchvision dataset on disk, ``torchvision/NAME:ROOT``."""
    name, colon, root = source.removeprefix(TORCHVISION).partition(":")
    if not colon or not root:
        msg = f"{source} names no folder. Write torchvision/{name}:ROOT, ROOT the data's folder."
        raise DataError(msg)
    pictures = torchvision_dataset(name, Path(root), split)
    found = map_classes(pictures.classes, classes) if pictures.classes else None
    if found is None:
        return labelled(pictures, pictures.labels, preprocessing, classes, titled(name, split))
    return PictureData(
        source=pictures,
        preprocessing=preprocessing,
        title=titled(name, split),
        classes=found.classes,
        labels=tuple(found.indices[k] for k in pictures.labels),
        mapping=found.mapping,
    )


def labelled(
    source: PictureSource,
    labels: Sequence[int | str],
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    title: str,
) -> PictureData:
    """Return pictures whose labels are class indices or class names."""
    names = [source.name(k) for k in range(len(source))]
    indices, known = class_indices(labels, classes, names, title)
    return PictureData(
        source=source,
        preprocessing=preprocessing,
        title=title,
        classes=known,
        labels=indices,
        mapping="by number" if all(isinstance(k, int) for k in labels) else "by name",
    )


def unlabelled(
    source: PictureSource, preprocessing: Preprocessing, classes: Sequence[str] | None, title: str
) -> PictureData:
    """Return pictures without labels."""
    return PictureData(
        source=source,
        preprocessing=preprocessing,
        title=title,
        classes=tuple(classes or ()),
        labels=None,
        mapping="no labels",
    )


def synsets_for(layout: Layout, classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return ImageNet's WordNet ids where folders are named by them and timm knows them."""
    ids = all(WORDNET.fullmatch(folder) for folder in layout.folders)
    if classes is None or len(classes) != IMAGENET_CLASSES or not ids:
        return None
    if tuple(classes) == numbered(IMAGENET_CLASSES):
        return None
    try:
        return imagenet_synsets()
    except MissingExtra:
        return None


def titled(name: str, split: str | None) -> str:
    """Return what to call a dataset."""
    return name if split is None else f"{name} ({split})"


def no_source(path: Path) -> DataError:
    """Return the error for a source that does not exist."""
    near = ""
    if path.parent.is_dir() and path.name:
        beside = sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))
        near = f" Beside it are {', '.join(beside[:5])}." if beside else ""
    return DataError(
        f"There is no data source {path}.{near} Give a folder, a file, 'digits', or "
        f"torchvision/NAME:ROOT."
    )
