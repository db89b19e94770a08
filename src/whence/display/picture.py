"""Pictures as files and data URIs, at a size that a page can carry."""

import base64
import io
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "data_uri",
    "enlarge",
    "grey",
    "is_pixel_art",
    "jpeg_bytes",
    "picture_uri",
    "png_bytes",
    "shrink",
]

Picture = NDArray[np.uint8]

_PIXEL_ART = 96
"""Pictures up to this many pixels a side are shown with their pixels visible."""

_PALE = 0.6
"""The contrast that is left below a map."""


def is_pixel_art(picture: NDArray[Any]) -> bool:
    """Whether a picture is so small that its single pixels should be seen."""
    height, width = picture.shape[:2]
    return bool(height <= _PIXEL_ART and width <= _PIXEL_ART)


def shrink(picture: Picture, longest: int) -> Picture:
    """The picture with at most ``longest`` pixels a side; smaller ones are returned as they are."""
    size = _fitting(picture, longest)
    if size is None:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def enlarge(picture: Picture, shortest: int) -> Picture:
    """The picture with each pixel repeated until no side is below ``shortest``."""
    times = math.ceil(shortest / min(picture.shape[:2]))
    return picture.repeat(max(times, 1), axis=0).repeat(max(times, 1), axis=1)


def grey(picture: Picture) -> Picture:
    """The picture without its colours and a little paler, so that a map's colours stand out."""
    light = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float64)
    pale = np.round((light - 127.5) * _PALE + 127.5).astype(np.uint8)
    return np.repeat(pale[..., None], 3, axis=-1)


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A PNG file of a picture ``(h, w, 3)`` or, with opacity, ``(h, w, 4)``."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG", optimize=True)
    return content.getvalue()


def jpeg_bytes(picture: Picture, quality: int = 88) -> bytes:
    """A JPEG file of a picture ``(h, w, 3)``."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=quality, optimize=True)
    return content.getvalue()


def data_uri(content: bytes, kind: Literal["png", "jpeg"] = "png") -> str:
    """An image file as a URI that a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture_uri(picture: Picture, longest: int = 320) -> str:
    """A picture as a URI: small ones exactly, large ones shrunk and as JPEG."""
    if is_pixel_art(picture):
        return data_uri(png_bytes(picture))
    return data_uri(jpeg_bytes(shrink(picture, longest)), "jpeg")


def _fitting(array: NDArray[Any], longest: int) -> tuple[int, int] | None:
    """Width and height that fit, or None where the array fits already."""
    height, width = array.shape[:2]
    if max(height, width) <= longest:
        return None
    scale = longest / max(height, width)
    return max(round(width * scale), 1), max(round(height * scale), 1)
