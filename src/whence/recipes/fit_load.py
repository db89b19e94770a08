"""What a training needs, from lines of text as a command line gives them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from whence.adapters import LoadedModel, load_data
from whence.adapters.streamed import PictureData
from whence.adapters.tables import read_npy
from whence.attribution import method_named
from whence.convert import Wrapping
from whence.convert.names import AnyRoute, routes_named
from whence.core import ImageData, Method
from whence.errors import DataError, SettingError
from whence.priors import Prior, all_log_probabilities, box_masks, penalty_named
from whence.recipes.load import load_architecture, load_images, load_subject, pairs

__all__ = ["FitData", "load_fit_data", "load_for_fit", "load_prior", "load_routes"]

CORNERS = 4
PLANES, STACK = 2, 3


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FitData:
    """The data of a training.

    Args:
        train: Training images.
        validation: Images to choose by, or None.
        test: Images to measure the outcome on, or None.
        new_head: Whether the model needs a new head for the data's classes.
    """

    train: PictureData
    validation: PictureData | None
    test: PictureData | None
    new_head: bool


def load_for_fit(
    model: str,
    *,
    weights: Path | None,
    classes: Path | None,
    settings: Sequence[str],
    download: bool,
    from_scratch: bool,
    seed: int,
) -> LoadedModel:
    """Load a classifier to be trained, with weights or with those that its library draws.

    Raises:
        SettingError: Both weights and none were asked for.
        WhenceError: As :func:`whence.recipes.load_subject`.
    """
    with torch.random.fork_rng(devices=()):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        if not from_scratch:
            return load_subject(
                model,
                weights=weights,
                classes=classes,
                settings=settings,
                download=download,
            )
        if weights is not None or download:
            msg = "Training from scratch takes no weights. Leave out one of the two."
            raise SettingError(msg)
        return load_architecture(model, settings)


def load_fit_data(
    model: LoadedModel,
    train: str,
    validation: str | None,
    test: str | None,
    *,
    new_head: bool,
    from_scratch: bool = False,
    train_labels: Path | None = None,
) -> FitData:
    """Load the data of a training.

    With a new head the classes are those of the data. From scratch the head is new if the data
    have another number of classes.

    Raises:
        DataError: Data that are missing, empty, without labels, or do not fit the classes.
    """
    if new_head or from_scratch:
        training = load_data(train, model.preprocessing, labels=train_labels)
    else:
        training = load_images(train, model, labels=train_labels)
    if training.labels is None:
        msg = (
            f"The training images in {training.title} have no labels. Put them into one folder for "
            f"each class, or name a file of labels."
        )
        raise DataError(msg)
    named = replace(model, classes=training.classes)
    return FitData(
        train=training,
        validation=None if validation is None else load_images(validation, named),
        test=None if test is None else load_images(test, named),
        new_head=new_head or (from_scratch and len(training.classes) != len(model.classes)),
    )


def load_routes(names: Sequence[str]) -> tuple[AnyRoute, ...]:
    """Return the routes of these names; none if there are none.

    Raises:
        SettingError: There is no such route, or it adds something to the images.
    """
    if not names:
        return ()
    found = routes_named(names)
    kept = tuple(route for route in found if not isinstance(route, Wrapping))
    if len(kept) < len(found):
        msg = (
            "The homogeneous coordinate and the norm wrapper change no operation, so there is "
            "nothing to train after them. Train the network itself, then convert it."
        )
        raise SettingError(msg)
    return kept


def load_prior(
    name: str | None,
    data: ImageData,
    *,
    method: str,
    method_settings: Sequence[str],
    masks: Path | None,
    box: str | None,
    model: LoadedModel,
) -> Prior | None:
    """Return the prior of this name, or None without one.

    Args:
        name: One of :data:`whence.priors.PENALTIES`.
        data: The training images, whose classes are the groups of those that compare images.
        method: What is penalised, by its name in the catalogue.
        method_settings: Its settings, ``key=value``.
        masks: An ``.npy`` file of masks, ``(h, w)``, ``(n, h, w)`` or ``(n, 1, h, w)``.
        box: ``left,top,right,bottom`` in pixels of the model's input, for all images.
        model: Whose input the images are.

    Raises:
        SettingError: A prior that does not exist, or masks where there is no prior.
        DataError, ShapeError: Masks that are none.
    """
    if name is None:
        if masks is not None or box is not None or method_settings:
            msg = (
                "Masks, a box or a method's settings were given, and no prior. Name one (--prior)."
            )
            raise SettingError(msg)
        return None
    how: Method = method_named(
        method, pairs(method_settings, "steps=8"), normalisation=model.preprocessing.normalisation
    )
    groups = torch.tensor([-1 if (one := data.label(k)) is None else one for k in range(len(data))])
    penalty = penalty_named(name, masks=load_masks(masks, box, model, len(data)), groups=groups)
    options: dict[str, Any] = {"target": all_log_probabilities} if name == "right-reasons" else {}
    return Prior(method=how, penalty=penalty, **options)


def load_masks(
    masks: Path | None, box: str | None, model: LoadedModel, count: int
) -> Tensor | None:
    """Return the masks in a file or of a box, checked against the images."""
    size = model.preprocessing.size
    if masks is not None and box is not None:
        msg = "Masks and a box were given. Give one of them."
        raise SettingError(msg)
    if box is not None:
        try:
            corners = [float(part) for part in box.split(",")]
        except ValueError:
            corners = []
        if len(corners) != CORNERS:
            msg = f"A box is left,top,right,bottom in pixels, such as 0,0,8,8; got {box!r}."
            raise SettingError(msg)
        return box_masks([corners], size)
    if masks is None:
        return None
    found = torch.from_numpy(read_npy(masks).copy())
    found = found[None] if found.ndim == PLANES else found
    found = found[:, None] if found.ndim == STACK else found
    if found.shape[2:] != size or len(found) not in (1, count):
        msg = (
            f"{masks} holds masks of shape {tuple(found.shape)}; one of {size[0]} x {size[1]} for "
            f"each of the {count} training images was needed, or one for all."
        )
        raise DataError(msg)
    return found
