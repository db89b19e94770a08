"""A method that asks an explainer of another library, in batches, and checks what it answers."""

from dataclasses import dataclass, field
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from whence.attribution.account import Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.cam import enlarged
from whence.attribution.gradient import evaluate, recording
from whence.core import (
    Attributions,
    Images,
    Labels,
    Logit,
    ModelScalar,
    ScalarFn,
    Scalars,
    check_images,
)
from whence.errors import SettingError, ShapeError

__all__ = ["Explainer", "Foreign", "Question"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked of a foreign explainer.

    Args:
        model: The model, or its network.
        images: The images, a leaf that requires its gradient.
        classes: One class per image.
        explained: The logit of each.
    """

    model: Any
    images: Images
    classes: Labels
    explained: Scalars


@runtime_checkable
class Explainer(Protocol):
    """Answers a question with maps, and what they should add up to, if that is known."""

    def __call__(self, question: Question) -> tuple[Any, Tensor | None]:
        """Return maps, and the reference ``(b,)`` or None."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """A method of another library; made by the functions of this module.

    Args:
        name: The library and its class.
        settings: How it is set, in words.
        explainer: What computes the maps.
        batch_size: Images at a time; all if None.
    """

    name: str
    settings: str
    explainer: Explainer = field(repr=False)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the maps."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps, and what they should add up to where the library knows."""
        scalar = of_a_logit(f, self.name)
        images = check_images(images).detach()
        pace = Pace(f=f, images=images, batch_size=self.batch_size or len(images))
        explained = evaluate(f, images, pace)
        maps, references = [], []
        with recording():
            for start, stop in pace.spans(len(images)):
                question = Question(
                    model=scalar.model,
                    images=images[start:stop].clone().requires_grad_(),
                    classes=classes_of(scalar, start, stop, images),
                    explained=explained[start:stop],
                )
                values, reference = self.explainer(question)
                maps.append(self.fitted(values, question.images))
                references += [] if reference is None else [reference.detach().to(explained)]
        return Account(
            values=torch.cat(maps),
            passes=float("nan"),
            explained=explained,
            reference=torch.cat(references) if len(references) == len(maps) else None,
        )

    def fitted(self, values: object, images: Images) -> Attributions:
        """Return maps as attributions of the images."""
        if isinstance(values, np.ndarray):
            values = torch.from_numpy(values)
        if isinstance(values, tuple) and len(values) == 1:
            (values,) = values
        size = tuple(images.shape[2:])
        if isinstance(values, Tensor) and values.shape == (len(images), *size):
            values = values[:, None]
        if not isinstance(values, Tensor) or values.ndim != 4 or len(values) != len(images):  # noqa: PLR2004 - the axes of images
            came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            msg = (
                f"{self.name} must return one map per image, for images of shape "
                f"{tuple(images.shape)}; it returned {came}. Of a transformer's tokens "
                f"whence's own activation maps make a grid: GradCAM()."
            )
            raise ShapeError(msg)
        values = values.detach().to(images.device, images.dtype)
        fits = tuple(values.shape[2:]) == size
        if values.shape[1] != 1 and not (fits and values.shape[1] == images.shape[1]):
            values = values.sum(dim=1, keepdim=True)
        return values if fits else enlarged(values, images)


def of_a_logit(f: ScalarFn, name: str) -> ModelScalar:
    """Return a function that explains the logit of a class; refuse others."""
    if isinstance(f, ModelScalar) and isinstance(f.target, Logit):
        return f
    came = type(f.target if isinstance(f, ModelScalar) else f).__name__
    msg = (
        f"{name} takes the logit of a class, ModelScalar(model, logit(class)); got {came}. For a "
        f"contrast, a probability or a loss use a method of whence, or subtract the maps of two "
        f"logits where the method is linear in what it explains."
    )
    raise SettingError(msg)


def classes_of(f: ModelScalar, start: int, stop: int, images: Images) -> Tensor:
    """Return the classes of some images, one each."""
    classes = f.at(torch.arange(start, stop, device=images.device)).target.classes  # type: ignore[attr-defined]
    if isinstance(classes, int):
        return torch.full((stop - start,), classes, device=images.device)
    found: Tensor = classes.to(images.device)
    return found
