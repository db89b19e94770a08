"""One image file becomes an 8-bit RGB picture, or an error that says why not."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from whence.core.sniff import impostor
from whence.errors import ImageError

__all__ = ["EXTENSIONS", "MAXIMUM_PIXELS", "decode_image", "is_image_name", "load_image"]

EXTENSIONS = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""File name endings that are taken for images, in any case."""

MAXIMUM_PIXELS = 89_478_485
"""Larger images are refused: a small file that unpacks to gigabytes. Pillow's own limit."""

DEEP = 65535
"""The white of a 16-bit image."""


def is_image_name(name: str) -> bool:
    """Return whether a file name ends like an image's and is not hidden."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(EXTENSIONS) and not base.startswith(".")


def load_image(path: Path) -> Image.Image:
    """Read an image file as 8-bit RGB.

    See :func:`decode_image` for how unusual images are treated.

    Raises:
        ImageError: There is no such file, or it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        msg = f"{path} is a folder, and one image file was needed. Name a file in it."
        raise ImageError(msg)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        msg = f"There is no image file {path}. Check the path."
        raise ImageError(msg) from error
    except OSError as error:
        msg = f"{path} could not be opened: {error.strerror or error}. Check its permissions."
        raise ImageError(msg) from error
    return decode_image(data, path.name)


def decode_image(data: bytes, name: str) -> Image.Image:
    """Turn the bytes of an image file into an upright 8-bit RGB picture.

    ========================  ==================================================================
    grey, black and white     the same value in all three channels
    16-bit grey               divided by 65535, whatever the brightest value that occurs
    16-bit colour             its upper eight bits
    palette                   its colours
    transparency              laid over white, as a page would show it
    CMYK, YCbCr, Lab, HSV     converted to RGB without a colour profile
    animation, several pages  the first
    EXIF orientation          applied
    ========================  ==================================================================

    Args:
        data: The whole file.
        name: What to call the image in an error.

    Raises:
        ImageError: The file is empty, truncated, corrupt, no image, floating point outside
            [0, 1], or larger than :data:`MAXIMUM_PIXELS`.
    """
    if not data:
        msg = f"{name} is empty (0 bytes). Fetch the file again."
        raise ImageError(msg)
    try:
        return decoded(data, name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(name) from error
    except UnidentifiedImageError as error:
        known = impostor(data[:200])
        reason = f"is {known}" if known else "is no image, or its beginning is corrupt"
        msg = f"{name} {reason}."
        raise ImageError(msg) from error
    except Exception as error:
        # A decoder answers a damaged file with almost any exception: they all mean this.
        msg = f"{name} is truncated or corrupt ({error}). Fetch the file again."
        raise ImageError(msg) from error


def decoded(data: bytes, name: str) -> Image.Image:
    """Decode without translating what the decoder raises."""
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MAXIMUM_PIXELS:
            raise too_large(name)
        image.load()
        return to_rgb(ImageOps.exif_transpose(image), name)


def too_large(name: str) -> ImageError:
    """Return the error for a decompression bomb."""
    return ImageError(
        f"{name} has more than {MAXIMUM_PIXELS:,} pixels. It is left unread, as a small file "
        f"may unpack to all the memory there is; store a smaller version."
    )


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a decoded image of any mode to RGB."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > DEEP:
            msg = (
                f"{name} holds integers from {values.min():.0f} to {values.max():.0f}; 8 or 16 "
                f"bits without sign were needed. Store it as such."
            )
            raise ImageError(msg)
        return from_fraction(values / DEEP)
    if image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not (values.min() >= 0 and values.max() <= 1):
            msg = (
                f"{name} holds floating point from {values.min():g} to {values.max():g}; values "
                f"in [0, 1] were needed. Store it as such, or with 8 or 16 bits."
            )
            raise ImageError(msg)
        return from_fraction(values)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def from_fraction(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Image.Image:
    """Return grey values in [0, 1] as an RGB picture."""
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)).convert("RGB")
