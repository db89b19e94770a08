"""What a person asks on a form, read with bounds and checked before anything is computed."""

import io
import warnings
from dataclasses import dataclass
from typing import final

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from whence.errors import ImageError, SettingError
from whence.viewer.live import Live, Picked

__all__ = ["MOST_PIXELS", "Panel", "Question", "read_form", "read_question"]

MOST_PIXELS = 25_000_000
"""Pixels of an uploaded picture: a small file can unpack to all the memory there is."""

LONGEST_NAME = 120
LONGEST_FIELD = 4096
FIELDS = 24


@final
@dataclass(frozen=True, kw_only=True)
class Panel:
    """One map: which network, which method, which settings."""

    network: str
    method: str
    settings: tuple[str, ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about one picture.

    Args:
        image: The picture.
        name: What it is called.
        panels: The maps that are wanted, side by side.
        target: ``predicted``, or a class.
        versus: A second class, or nothing.
    """

    image: Picked
    name: str
    panels: tuple[Panel, ...]
    target: str = "predicted"
    versus: str = ""


async def read_form(request: Request) -> FormData:
    """Return a form whose parts are not more, and not longer, than a form of ours sends."""
    return await request.form(max_files=1, max_fields=FIELDS, max_part_size=LONGEST_FIELD)


async def read_question(form: FormData, live: Live, kept: Question | None) -> Question:
    """Return what a form asks.

    Args:
        form: The form.
        live: What can be asked about.
        kept: An earlier question, whose picture is taken if the form brings none.

    Raises:
        ImageError: There is no picture, or it is none, or too large.
        SettingError: Something that does not exist is asked for.
    """
    image, name = await read_picture(form, live, kept)
    network = text(form, "network") or live.networks[0]
    first = Panel(
        network=network,
        method=text(form, "method") or "integrated-gradients",
        settings=words(text(form, "set")),
    )
    panels = [first]
    if text(form, "method2") or text(form, "network2"):
        second = Panel(
            network=text(form, "network2") or network,
            method=text(form, "method2") or first.method,
            settings=words(text(form, "set2"))
            or (first.settings if not text(form, "method2") else ()),
        )
        if second == first:
            msg = "The two maps to compare are the same. Choose another method or network."
            raise SettingError(msg)
        panels.append(second)
    return Question(
        image=image,
        name=name,
        panels=tuple(panels),
        target=text(form, "target") or "predicted",
        versus=text(form, "versus"),
    )


async def read_picture(form: FormData, live: Live, kept: Question | None) -> tuple[Picked, str]:
    """Return the picture that a form brings, or names."""
    upload = form.get("picture")
    if isinstance(upload, UploadFile) and upload.filename:
        content = await upload.read()
        name = upload.filename.replace("\\", "/").rpartition("/")[2][:LONGEST_NAME] or "picture"
        check_picture(content, name)
        return content, name
    source, place = text(form, "from"), text(form, "place")
    if source:
        counts = dict(live.sources)
        if source not in counts or not place.isdecimal() or int(place) >= counts[source]:
            msg = f"There is no image {place!r} among the {source!r} images. Choose another."
            raise ImageError(msg)
        return (source, int(place)), named(live, source, int(place))
    if kept is not None:
        return kept.image, kept.name
    msg = "A picture is needed: choose a file, or one of the images of the data."
    raise ImageError(msg)


def named(live: Live, source: str, place: int) -> str:
    """Return what an image of the data is called."""
    found = live.pictures(source, [place])
    return found[0][1] if found else f"{source} image {place}"


def check_picture(content: bytes, name: str) -> None:
    """Refuse what is no picture, or would unpack to too many pixels; only its head is read.

    Raises:
        ImageError: With the reason.
    """
    if not content:
        msg = f"{name} is empty (0 bytes). Choose the file again."
        raise ImageError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise too_many(name) from error
    except UnidentifiedImageError as error:
        msg = f"{name} is no picture that can be read. Send a PNG, JPEG, WebP, TIFF, BMP or GIF."
        raise ImageError(msg) from error
    except Exception as error:
        # A decoder answers a damaged head with almost any exception: they all mean this.
        msg = f"{name} is truncated or corrupt ({error}). Send the file again."
        raise ImageError(msg) from error
    if width * height > MOST_PIXELS:
        raise too_many(name)


def too_many(name: str) -> ImageError:
    """Return the error for a decompression bomb."""
    return ImageError(
        f"{name} has more than {MOST_PIXELS // 10**6} million pixels and is left unread. Send a "
        f"smaller version; the network sees a small one anyway."
    )


def text(form: FormData, name: str) -> str:
    """Return a field's text; empty where there is none."""
    value = form.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def words(line: str) -> tuple[str, ...]:
    """Return the ``key=value`` settings of a line, with spaces between them."""
    return tuple(line.split())
