"""ScalarFn: what every method explains, one scalar per image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from whence.core.target import Target
from whence.core.types import Images, Logits, Scalars
from whence.errors import ModeError, NumericsError, SettingError, ShapeError, WhenceError

__all__ = [
    "ModelScalar",
    "ScalarFn",
    "check_finite_images",
    "check_images",
    "check_logits",
    "check_mode",
    "check_weights",
    "logits_from",
    "logits_of",
]

WITHOUT_MODE = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""Wrappers that do the same in either mode."""

CLASSIFIER = (
    "Wrap the model in a module whose forward returns one row of scores per image: "
    "(b, classes, h, w) by .mean(dim=(2, 3)) or by the pixel to explain, (b,) by [:, None]."
)


@runtime_checkable
class ScalarFn(Protocol):
    """A function of images that returns one scalar per image.

    Rows never interact: ``f(images)[i]`` depends on ``images[i]`` alone, so that the gradient of
    ``f(images).sum()`` holds every image's own gradient.
    """

    def __call__(self, images: Images) -> Scalars:
        """Return one scalar per image."""
        ...

    def at(self, rows: Tensor) -> "ScalarFn":
        """Return the function of these rows of the batch (repeats allowed).

        ``f.at(rows)(images[rows])`` equals ``f(images)[rows]``.
        """
        ...


@final
@dataclass(frozen=True, eq=False)
class ModelScalar:
    """A model and a target make a ScalarFn.

    ``model`` is any callable from images ``(b, c, h, w)`` to logits ``(b, k)``: an
    ``nn.Module`` in eval mode, or a :class:`whence.network.Network`, which activation-map and
    relevance methods need.
    """

    model: Callable[[Tensor], Any]
    target: Target

    def __post_init__(self) -> None:
        """Refuse a model in train mode."""
        if isinstance(self.model, nn.Module):
            check_mode(self.model)

    def __call__(self, images: Images) -> Scalars:
        """Return the target of the model's logits."""
        if isinstance(self.model, nn.Module):
            check_mode(self.model)  # it may have been set to train mode since
        return self.target(logits_from(self.model, images))

    def at(self, rows: Tensor) -> "ModelScalar":
        """Return the same function for these rows of the batch."""
        return ModelScalar(self.model, self.target.at(rows))


def logits_from(model: Callable[[Tensor], Any], images: Tensor) -> Logits:
    """Return a model's logits, one row per image; say why if it cannot take the images.

    Raises:
        SettingError: If the images are of another type, or elsewhere, than the model's weights.
        ShapeError: If the model cannot take images of this shape, or returns no row per image.
    """
    try:
        output = model(images)
    except (torch.OutOfMemoryError, NotImplementedError, WhenceError):
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        if not isinstance(model, nn.Module):
            raise
        check_weights(model, images)
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        msg = (
            f"The model {type(model).__name__} cannot take images of shape {tuple(images.shape)}: "
            f"{reason}. Give them the size and channels that it was trained with."
        )
        raise ShapeError(msg) from error
    return check_logits(logits_of(output), len(images))


def check_weights(model: nn.Module, images: Tensor) -> None:
    """Refuse images of another type, or elsewhere, than a model's weights."""
    for name, weight in model.named_parameters():
        if weight.device != images.device:
            msg = (
                f"The model's {name!r} is on {weight.device}, but the images are on "
                f"{images.device}. Move one of them with .to(...)."
            )
            raise SettingError(msg)
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if kinds and images.dtype not in kinds:
        names = ", ".join(sorted(map(str, kinds)))
        msg = (
            f"The model's weights are {names}, but the images are {images.dtype}. "
            f"Convert one of them with .to(...)."
        )
        raise SettingError(msg)


def logits_of(output: Any) -> Any:  # noqa: ANN401 - a user's model may return anything
    """Return the logits in what a model returned: itself, ``.logits``, or a first element."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, dict) and "logits" in output:
        return output["logits"]
    if isinstance(output, (tuple, list)) and output:
        return logits_of(output[0])
    return output


def check_logits(logits: Any, count: int) -> Logits:  # noqa: ANN401 - the check is the point
    """Return ``logits`` if it is one row of scores per image."""
    if not isinstance(logits, Tensor):
        keys = f" with {', '.join(map(repr, logits))}" if isinstance(logits, dict) else ""
        msg = (
            f"The model must return logits as a tensor (or an object with .logits); "
            f"it returned {type(logits).__name__}{keys}. {CLASSIFIER}"
        )
        raise ShapeError(msg)
    if logits.ndim != 2 or len(logits) != count:  # noqa: PLR2004 - images and classes
        msg = (
            f"The model must return logits of shape ({count}, classes), one row per image; "
            f"it returned {tuple(logits.shape)} (of several outputs, the first). {CLASSIFIER}"
        )
        raise ShapeError(msg)
    return logits


def check_images(images: Any) -> Images:  # noqa: ANN401 - the check is the point
    """Return ``images`` if they are a floating-point batch ``(b, c, h, w)``."""
    if not isinstance(images, Tensor):
        msg = (
            f"Images must be a tensor of shape (b, c, h, w); got {type(images).__name__}. Make one "
            f"with torch.as_tensor(array) or torch.stack(list)."
        )
        raise ShapeError(msg)
    if images.ndim != 4 or not images.numel():  # noqa: PLR2004 - the four axes of a batch
        hint = " Add the batch axis with images[None]." if images.ndim == 3 else ""  # noqa: PLR2004
        hint = " There is nothing in it: give one image at least." if not images.numel() else hint
        msg = f"Images must have shape (b, c, h, w); got {tuple(images.shape)}.{hint}"
        raise ShapeError(msg)
    if not images.is_floating_point():
        msg = (
            f"Images must be floating point, preprocessed as the model needs; got {images.dtype}. "
            f"Convert with images.float() / 255 and normalise."
        )
        raise ShapeError(msg)
    if images.is_meta:
        msg = (
            "The images are on the device 'meta', which holds shapes but no values. Load them "
            "onto 'cpu' or a GPU."
        )
        raise SettingError(msg)
    return images


def check_finite_images(images: Images) -> None:
    """Refuse images that hold NaN or infinity."""
    bad = (~images.isfinite()).flatten(1).any(dim=1).nonzero()[:, 0]
    if len(bad):
        msg = (
            f"NaN or infinity in the images already, in {len(bad)} of {len(images)} images, first "
            f"in image {int(bad[0])}. Check how they were read and normalised (a standard "
            f"deviation of 0?)."
        )
        raise NumericsError(msg)


def check_mode(model: nn.Module) -> None:
    """Refuse a model of which any part is in train mode."""
    for name, module in model.named_modules():
        if module.training and not isinstance(module, WITHOUT_MODE):
            where = f"its part {name!r} ({type(module).__name__})" if name else "it"
            msg = (
                f"The model must be in eval mode, but {where} is in train mode, where dropout is "
                f"random and batch norm mixes the images of a batch. Call model.eval() first."
            )
            raise ModeError(msg)
