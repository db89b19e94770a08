"""Galleries: test image, Grad-CAM on it, training image, and its maps, as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from torch import Tensor

from reproductions.tfa.maps import Case
from reproductions.tfa.queries import Queries
from reproductions.tfa.tasks import Task
from whence.attribution import GradCAM
from whence.core import Logit, ModelScalar
from whence.display import data_uri, grey, overlay, png_bytes, symmetric_limit

__all__ = ["SHOWN", "Picture", "gallery", "taken"]

SHOWN = (
    "tfa",
    "shared-evidence",
    "shared-evidence, neutral",
    "2: saliency",
    "2: LRP",
    "2: Grad-CAM",
)
"""The maps that are drawn."""

TILE, GAP, LEFT, TOP = 112, 8, 10, 54


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One query with its first training image.

    Args:
        kind: Of the query.
        query: Pixels, ``(3, h, w)``, 0 to 1.
        cam: Grad-CAM of the label asked about on the query, ``(h, w)``.
        image: Pixels of the training image.
        maps: Its maps by name, ``(h, w)``.
        asked: The label asked about.
        given: The training image's label.
        score: Its score.
    """

    kind: str
    query: Tensor
    cam: Tensor
    image: Tensor
    maps: Mapping[str, Tensor]
    asked: str
    given: str
    score: float


def taken(
    kind: str,
    task: Task,
    case: Case,
    queries: Queries,
    query: int,
    rows: Tensor,
    maps: Mapping[str, Tensor],
) -> Picture:
    """Return the picture of a query and the first of some training images."""
    image = queries.images[query : query + 1]
    cam = GradCAM()(ModelScalar(case.network, Logit(queries.labels[query : query + 1])), image)
    return Picture(
        kind=kind,
        query=task.pixels(image)[0],
        cam=cam[0].sum(dim=0).detach(),
        image=task.pixels(task.images[rows[:1]])[0],
        maps={name: maps[name][0, 0].clone() for name in SHOWN},
        asked=task.classes[int(queries.labels[query])],
        given=task.classes[int(task.labels[rows[0]])],
        score=float(case.influence.scores[rows[0], query]),
    )


def gallery(title: str, pictures: Sequence[Picture]) -> str:
    """Return a figure: a row for each picture, with the name of each column above."""
    names = [name for name in SHOWN if all(name in one.maps for one in pictures)]
    heads = ["test image", "Grad-CAM on it", "training image", *names]
    width = 2 * LEFT + len(heads) * (TILE + GAP) - GAP
    height = TOP + len(pictures) * (TILE + 2 * GAP + 12)
    style = 'font-family="sans-serif" font-size="11" fill="#1c2026"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        words(LEFT, 20, title, weight="bold"),
    ]
    for at, head in enumerate(heads):
        x = LEFT + at * (TILE + GAP)
        said, _, more = head.removeprefix("2: ").partition(", ")
        parts.append(words(x, TOP - 8, more or said))
        above = "two-step" if head.startswith("2: ") else said if more else ""
        if above:
            parts.append(words(x, TOP - 20, above, ink="#626a75"))
    for number, one in enumerate(pictures):
        top = TOP + number * (TILE + 2 * GAP + 12)
        shown = [drawn(one.query), mapped(one.query, one.cam), drawn(one.image)]
        shown += [mapped(one.image, one.maps[name]) for name in names]
        for at, content in enumerate(shown):
            parts.append(tile(LEFT + at * (TILE + GAP), top, content))
        below = top + TILE + 12
        parts.append(words(LEFT, below, f"predicted {one.asked}", ink="#626a75"))
        said = f"labelled {one.given}, {one.score:+.2f}"
        parts.append(words(LEFT + 2 * (TILE + GAP), below, said, ink="#626a75"))
    return "\n".join([*parts, "</svg>", ""])


def drawn(pixels: Tensor) -> np.ndarray:
    """Return a picture as bytes, ``(h, w, 3)``."""
    return (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def mapped(pixels: Tensor, values: Tensor) -> np.ndarray:
    """Return a map over the picture in grey; every map has its own scale."""
    heat = values.double().numpy()
    return overlay(grey(drawn(pixels)), heat, symmetric_limit([heat], 99.5))


def tile(x: float, y: float, picture: np.ndarray) -> str:
    """Return a picture at a place, its pixels visible."""
    return (
        f'<image x="{x}" y="{y}" width="{TILE}" height="{TILE}" '
        f'style="image-rendering:pixelated" href="{data_uri(png_bytes(picture))}"/>'
    )


def words(x: float, y: float, text: str, *, weight: str = "normal", ink: str = "#1c2026") -> str:
    """Return words at a place."""
    return f'<text x="{x}" y="{y}" font-weight="{weight}" fill="{ink}">{escape(text)}</text>'
