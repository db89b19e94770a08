"""The one door to torchvision: its classifiers, their transforms, its datasets on disk."""

import hashlib
import inspect
import threading
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, final

import torch
from torch import nn

from whence.adapters.preprocessing import Picture, Preprocessing
from whence.core import Normalisation
from whence.errors import DataError, ImageError, MissingExtra, SettingError

__all__ = [
    "TorchvisionSource",
    "build_torchvision",
    "open_torchvision",
    "torchvision_classes",
    "torchvision_dataset",
    "torchvision_preprocessing",
]

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
WITH_AUXILIARY = ("googlenet", "inception_v3")
"""Architectures with extra heads for training, which a weight file may or may not hold."""

IMAGENET_CLASSES = 1000
DECLARED: list[torch.library.Library] = []
"""Keeps the declared operators alive; filled at most once."""
DOOR = threading.Lock()


def open_torchvision() -> ModuleType:
    """Import torchvision.

    A torchvision whose compiled part does not fit the installed torch fails to import, because
    it describes operators that were never declared. Nothing here runs these operators (they are
    of detectors), so they are declared without an implementation, and the import is repeated.

    Raises:
        MissingExtra: torchvision is not installed.
    """
    with DOOR:
        try:
            import torchvision
        except ModuleNotFoundError as error:
            if error.name != "torchvision":
                raise
            raise MissingExtra("torchvision", "torchvision", "A torchvision model") from error  # noqa: EM101 - a package's name
        except RuntimeError as error:
            if DECLARED or not any(f"torchvision::{name}" in str(error) for name in OPERATORS):
                raise
            library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for name in OPERATORS:
                library.define(f"{name}{SCHEMA}")  # type: ignore[no-untyped-call]
            DECLARED.append(library)
            import torchvision
    module: ModuleType = torchvision
    return module


def architecture(name: str) -> tuple[Any, Any]:
    """Return the builder of a classifier and the table of its published weights."""
    models = open_torchvision().models
    names = models.list_models(module=models)
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        msg = f"torchvision has no classifier {name!r}.{hint}"
        raise SettingError(msg)
    return models.get_model_builder(name), models.get_model_weights(name)


def build_torchvision(
    name: str, classes: int | None, *, auxiliary: bool = False, download: bool = False
) -> nn.Module:
    """Build a classifier of torchvision.

    Args:
        name: The builder's name: ``resnet18``.
        classes: Outputs; the published weights' number by default.
        auxiliary: Whether GoogLeNet or Inception keep the heads that only training uses.
        download: Whether to fetch torchvision's default weights.

    Raises:
        SettingError: There is no such classifier.
        MissingExtra: torchvision is not installed.
    """
    builder, weights = architecture(name)
    if download:
        model = builder(weights=weights.DEFAULT)
    elif name in WITH_AUXILIARY:
        model = builder(
            weights=None,
            num_classes=classes or IMAGENET_CLASSES,
            aux_logits=auxiliary,
            init_weights=False,
            # The published weights expect other means; a network for other classes does not.
            transform_input=classes in (None, IMAGENET_CLASSES),
        )
    else:
        model = builder(weights=None, num_classes=classes or IMAGENET_CLASSES)
    if not isinstance(model, nn.Module):
        msg = f"torchvision's {name} is no module but a {type(model).__name__}."
        raise SettingError(msg)
    return model


def torchvision_preprocessing(name: str) -> Preprocessing:
    """Return what torchvision does to a picture before its default weights see it."""
    transforms = architecture(name)[1].DEFAULT.transforms()
    crop, resize = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        size=(crop[0], crop[-1]),
        resize=resize[0] if len(resize) == 1 else (resize[0], resize[1]),
        crop=True,
        interpolation=transforms.interpolation.value,
        channels=len(transforms.mean),
        normalisation=Normalisation(mean=tuple(transforms.mean), std=tuple(transforms.std)),
        source="weights' own transforms",
    )


def torchvision_classes(name: str, count: int) -> tuple[str, ...] | None:
    """Return the published class names if there are as many as outputs."""
    names = architecture(name)[1].DEFAULT.meta.get("categories") or ()
    return tuple(names) if len(names) == count else None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TorchvisionSource:
    """A torchvision dataset as pictures.

    Args:
        dataset: Gives (picture, class index) for each place.
        title: What its pictures are called.
        labels: The class index of each picture.
        classes: Names of the classes; empty where the dataset has none.
    """

    dataset: Any
    title: str
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the dataset's name and the picture's place."""
        return f"{self.title}[{index}]"

    def read(self, index: int) -> Picture:
        """Return a picture."""
        try:
            picture: Picture = self.dataset[index][0]
        except Exception as error:
            # Decoders answer a damaged file with almost any exception.
            msg = f"{self.name(index)} could not be read ({error})."
            raise ImageError(msg) from error
        return picture

    def digest(self, index: int) -> str:
        """Return a SHA-256 of a picture's pixels, size and mode."""
        try:
            picture = self.dataset[index][0]
            content = f"{picture.size}{picture.mode}".encode() + picture.tobytes()
        except Exception as error:  # noqa: BLE001 - an unreadable picture is told from others too
            content = str(error).encode()
        return hashlib.sha256(content).hexdigest()


def torchvision_dataset(name: str, root: Path, split: str | None) -> TorchvisionSource:
    """Return a classification dataset of torchvision that is on disk.

    Args:
        name: The dataset's class: ``CIFAR10``.
        root: The folder that torchvision keeps it in.
        split: "train" or "test", or what the dataset calls its parts; torchvision's own default
            if left out.

    Raises:
        DataError: There is no such dataset, it is not in that folder, or has no such part.
        MissingExtra: torchvision is not installed.
    """
    datasets = open_torchvision().datasets
    if name not in datasets.__all__ or not inspect.isclass(getattr(datasets, name)):
        near = get_close_matches(name, datasets.__all__, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        msg = f"torchvision has no dataset {name!r}.{hint}"
        raise DataError(msg)
    kind: Any = getattr(datasets, name)
    options = split_options(kind, name, split)
    if "download" in inspect.signature(kind).parameters:
        options["download"] = False
    try:
        dataset = kind(str(root), **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        msg = (
            f"torchvision could not read {name} from {root} ({error}). Fetch it there first: "
            f"torchvision.datasets.{name}({str(root)!r}, download=True)."
        )
        raise DataError(msg) from error
    labels = next(
        (
            getattr(dataset, key)
            for key in ("targets", "labels", "_labels")
            if getattr(dataset, key, None) is not None
        ),
        None,
    )
    if labels is None:
        labels = [dataset[index][1] for index in range(len(dataset))]
    try:
        numbers = tuple(int(label) for label in labels)
    except (TypeError, ValueError) as error:
        msg = f"{name} does not hold one class per image; whence reads classification data."
        raise DataError(msg) from error
    classes = tuple(str(c) for c in getattr(dataset, "classes", ()) or ())
    return TorchvisionSource(dataset=dataset, title=name, labels=numbers, classes=classes)


def split_options(kind: Any, name: str, split: str | None) -> dict[str, object]:  # noqa: ANN401
    """Return a part of a dataset as the dataset's constructor calls it."""
    if split is None:
        return {}
    parameters = inspect.signature(kind).parameters
    if "train" in parameters and split in ("train", "test"):
        return {"train": split == "train"}
    if "split" in parameters:
        return {"split": split}
    msg = f"torchvision's {name} has no part called {split!r}."
    raise DataError(msg)
