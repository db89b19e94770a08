"""How a picture becomes the model's input, as a value that can be shown and repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from whence.core import Normalisation
from whence.errors import ImageError, SettingError

__all__ = ["IMAGENET", "INTERPOLATIONS", "Picture", "Preprocessing", "declared_preprocessing"]

Picture: TypeAlias = Image.Image | NDArray[Any]
"""A Pillow image, or an array (h, w) or (h, w, c): 8-bit, or floating point in [0, 1]."""

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
"""The ways to resize; all but the nearest filter before they sample (antialias)."""

IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The mean and deviation of ImageNet's training images."""

GREY, COLOUR = 1, 3
LUMA = (0.299, 0.587, 0.114)
SETTINGS = ("channels", "crop", "interpolation", "mean", "resize", "size", "std")


@final
@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a file becomes the model's input: resize, centre crop, ``(pixel - mean) / std``.

    Resizing is Pillow's, with antialiasing, so that the input equals what torchvision's and
    timm's evaluation transforms make of the same Pillow image.

    Args:
        size: Rows and columns that the model takes.
        resize: Length of the shorter side, or exact rows and columns, or None for pictures that
            stay as they are.
        crop: Whether the centre is cut out to ``size`` after the resize; what is missing is
            filled with black.
        interpolation: One of :data:`INTERPOLATIONS`.
        channels: 3, or 1 for grey.
        normalisation: From pixels in [0, 1] to model units.
        source: Where this was found: "weights' own transforms", "timm config", "command line".

    Example:
        >>> settings = {"size": 2, "channels": 1, "mean": 0.5, "std": 0.5}
        >>> grey = declared_preprocessing(settings, "an example")
        >>> grey.tensor(np.full((2, 2), 255, dtype=np.uint8)).tolist()
        [[[1.0, 1.0], [1.0, 1.0]]]
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None
    crop: bool
    interpolation: str
    channels: int
    normalisation: Normalisation
    source: str

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        lengths = self.size if self.resize is None else (*self.size, *pair(self.resize, "resize"))
        if min(lengths) < 1:
            msg = f"Sizes must be positive; got size {self.size} and resize {self.resize}."
            raise SettingError(msg)
        if self.interpolation not in INTERPOLATIONS:
            msg = (
                f"There is no interpolation {self.interpolation!r}. "
                f"Choose one of {', '.join(INTERPOLATIONS)}."
            )
            raise SettingError(msg)
        if self.channels not in (GREY, COLOUR):
            msg = f"A picture has 1 or 3 channels; got {self.channels}."
            raise SettingError(msg)
        for name in ("mean", "std"):
            values = getattr(self.normalisation, name)
            if len(values) not in (1, self.channels):
                msg = (
                    f"{self.channels} channels need 1 or {self.channels} values of {name}; "
                    f"got {len(values)}."
                )
                raise SettingError(msg)

    def tensor(self, picture: Picture) -> Float[Tensor, "c h w"]:
        """Return a picture as the model takes it, ``(c, h, w)`` in float32 and model units.

        Raises:
            ImageError: The picture has another form, or another size than the model takes and
                the preprocessing does not change it.
        """
        planes = [self.fitted(plane) for plane in planes_of(picture, self.channels)]
        stacked = np.concatenate([np.atleast_3d(np.asarray(plane)) for plane in planes], axis=2)
        pixels = torch.from_numpy(np.ascontiguousarray(stacked.transpose(2, 0, 1)))
        pixels = pixels.float() / 255 if stacked.dtype == np.uint8 else pixels.float()
        result: Tensor = self.normalisation.to_model(pixels[None])[0]
        return result

    def picture(self, image: Float[Tensor, "c h w"]) -> NDArray[np.uint8]:
        """Return the model's input as an 8-bit picture ``(h, w, 3)``, for display."""
        pixels = self.normalisation.to_pixels(image.detach()[None])[0].clamp(0, 1)
        bytes_ = (pixels * 255).round().to(torch.uint8).cpu()
        shown = bytes_.expand(COLOUR, -1, -1).permute(1, 2, 0).contiguous()
        array: NDArray[np.uint8] = shown.numpy()
        return array

    def describe(self) -> dict[str, Any]:
        """Return all settings as plain values, for a record or a report."""
        return {
            "size": list(self.size),
            "resize": list(self.resize) if isinstance(self.resize, tuple) else self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "channels": self.channels,
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
            "source": self.source,
        }

    def fitted(self, image: Image.Image) -> Image.Image:
        """Return an image resized and cropped."""
        if self.resize is not None:
            rows, columns = target_size(image, self.resize)
            if (image.height, image.width) != (rows, columns):
                image = image.resize((columns, rows), INTERPOLATIONS[self.interpolation])
        if self.crop:
            image = centre_crop(image, self.size)
        if (image.height, image.width) != self.size:
            msg = (
                f"The picture has {image.height} x {image.width} pixels and the model takes "
                f"{self.size[0]} x {self.size[1]}. Set resize or crop in the preprocessing."
            )
            raise ImageError(msg)
        return image


def declared_preprocessing(settings: Mapping[str, object], source: str) -> Preprocessing:
    """Return the preprocessing that a mapping declares.

    Args:
        settings: Any of ``size`` (default 224), ``resize`` (default: shorter side for a square
            size, exact size otherwise), ``crop`` (default: as the resize needs it),
            ``interpolation`` (default bilinear), ``channels`` (default 3), ``mean`` and ``std``
            (default ImageNet's for 3 channels, 0 and 1 for one).
        source: Where the mapping came from.

    Raises:
        SettingError: An unknown key, or a value of another kind.
    """
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        msg = (
            f"The preprocessing has no setting {', '.join(map(repr, unknown))}. "
            f"It takes {', '.join(SETTINGS)}."
        )
        raise SettingError(msg)
    size = pair(settings.get("size", 224), "size")
    square = size[0] == size[1]
    resize = settings.get("resize", size[0] if square else size)
    if not (resize is None or isinstance(resize, int)):
        resize = pair(resize, "resize")
    channels = settings.get("channels", COLOUR)
    if not isinstance(channels, int):
        msg = f"channels is 1 or 3; got {channels!r}."
        raise SettingError(msg)
    usual = IMAGENET if channels == COLOUR else Normalisation()
    return Preprocessing(
        size=size,
        resize=resize,
        crop=bool(settings.get("crop", isinstance(resize, int))),
        interpolation=str(settings.get("interpolation", "bilinear")),
        channels=channels,
        normalisation=Normalisation(
            mean=numbers(settings.get("mean", usual.mean), "mean"),
            std=numbers(settings.get("std", usual.std), "std"),
        ),
        source=source,
    )


def pair(value: object, name: str) -> tuple[int, int]:
    """Return one or two whole numbers as rows and columns."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) for v in value):  # noqa: PLR2004 - rows and columns
        return value[0], value[1]
    msg = f"{name} is a whole number or two, rows and columns; got {value!r}."
    raise SettingError(msg)


def numbers(value: object, name: str) -> tuple[float, ...]:
    """Return one or several numbers as a tuple."""
    if isinstance(value, int | float):
        return (float(value),)
    if isinstance(value, Sequence) and value and all(isinstance(v, int | float) for v in value):
        return tuple(float(v) for v in value)
    msg = f"{name} is a number or one for each channel; got {value!r}."
    raise SettingError(msg)


def target_size(image: Image.Image, resize: int | tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns after the resize; the longer side is rounded down."""
    if isinstance(resize, tuple):
        return resize
    rows, columns = image.height, image.width
    if columns <= rows:
        return int(resize * rows / columns), resize
    return resize, int(resize * columns / rows)


def centre_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the centre of an image, with black where the image is smaller."""
    rows, columns = size
    if image.width < columns or image.height < rows:
        canvas = Image.new(image.mode, (max(image.width, columns), max(image.height, rows)))
        left, top = ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2)
        canvas.paste(image, (left, top))
        image = canvas
    top, left = round((image.height - rows) / 2), round((image.width - columns) / 2)
    return image.crop((left, top, left + columns, top + rows))


def planes_of(picture: Picture, channels: int) -> list[Image.Image]:
    """Return a picture as one 8-bit image, or as one floating-point image per channel."""
    if isinstance(picture, Image.Image):
        return [picture.convert("L" if channels == GREY else "RGB")]
    array = picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == GREY else picture  # noqa: PLR2004 - h w c
    if array.ndim == 3 and array.shape[2] != COLOUR or array.ndim not in (2, 3) or not array.size:  # noqa: PLR2004, RUF021 - h w c
        msg = (
            f"A picture is an array (h, w), (h, w, 1) or (h, w, 3); got shape {picture.shape}. "
            f"Move the channels to the end."
        )
        raise ImageError(msg)
    if array.dtype == np.uint8:
        return planes_of(Image.fromarray(np.ascontiguousarray(array)), channels)
    if not np.issubdtype(array.dtype, np.floating):
        msg = f"A picture is 8-bit or floating point in [0, 1]; got {array.dtype}."
        raise ImageError(msg)
    if not np.isfinite(array).all():
        msg = "The picture holds NaN or infinity. Repair or remove it."
        raise ImageError(msg)
    values = array.astype(np.float32)
    if values.ndim == 2:  # noqa: PLR2004 - h w
        return [Image.fromarray(values)] * channels
    if channels == GREY:
        return [Image.fromarray(values @ np.asarray(LUMA, dtype=np.float32))]
    return [Image.fromarray(np.ascontiguousarray(values[:, :, k])) for k in range(COLOUR)]
