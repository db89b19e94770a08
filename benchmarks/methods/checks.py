"""Counterfactuals: does a network use what the true map says that it uses?"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.methods.scenes import SHORTCUT, Scene, composed, patched, scene

__all__ = ["Check", "checks"]

IMAGES = 500


@dataclass(frozen=True, kw_only=True)
class Check:
    """A change of the images, and how often the prediction does what it should.

    Args:
        change: What was changed, and what the prediction should be.
        share: How often it is.
        chance: What to hold the share against.
    """

    change: str
    share: float
    chance: str


def checks(model: nn.Module, kind: str, images: int = IMAGES) -> tuple[Check, ...]:
    """Return what a network does when objects, backgrounds and patches are exchanged."""
    pictures = scene(kind, images, judged=True, seed=40)
    return patch_checks(model, pictures) if kind == SHORTCUT else object_checks(model, pictures)


def object_checks(model: nn.Module, one: Scene) -> tuple[Check, ...]:
    """Return the checks of images whose digit decides the class."""
    shown, labels = turned(one.digits), turned(one.labels)
    differ = labels != one.labels
    other, _ = composed(shown, one.backgrounds, one.layout)
    behind, _ = composed(one.digits, turned(one.backgrounds), one.layout)
    rows = (
        ("none: the label", one.images, one.labels, "1 in 10"),
        ("another digit on the same background: the new digit", other, labels, "0 if not used"),
        ("another background: still the label", behind, one.labels, "1 in 10"),
        ("the background alone: the digit that was there", one.backgrounds, one.labels, "1 in 10"),
    )
    return tuple(
        Check(change=text, share=share(model, images, wanted, differ), chance=chance)
        for text, images, wanted, chance in rows
    )


def patch_checks(model: nn.Module, one: Scene) -> tuple[Check, ...]:
    """Return the checks of images whose patch decides the class, whatever the digit."""
    labels, shown = turned(one.labels), turned(one.digits)
    differ = (labels != one.labels) & (labels != one.shown)
    plain, _ = composed(one.digits, one.backgrounds, one.layout)
    recoloured, _ = patched(plain, one.layout, labels)
    other, _ = patched(composed(shown, one.backgrounds, one.layout)[0], one.layout, one.labels)
    alone, _ = patched(one.backgrounds, one.layout, one.labels)
    rows = (
        ("none: the patch's class", one.images, one.labels, "1 in 10"),
        ("another patch: the new patch's class", recoloured, labels, "0 if not used"),
        ("another digit: still the patch's class", other, one.labels, "1 in 10"),
        ("no digit: still the patch's class", alone, one.labels, "1 in 10"),
        ("no patch: the digit", plain, one.shown, "1 in 10"),
        ("neither: the patch's class", one.backgrounds, one.labels, "1 in 10"),
    )
    return tuple(
        Check(change=text, share=share(model, images, wanted, differ), chance=chance)
        for text, images, wanted, chance in rows
    )


def turned(values: Tensor) -> Tensor:
    """Return the values of the next image for each, the first for the last."""
    return values.roll(-1, dims=0)


def share(model: nn.Module, images: Tensor, wanted: Tensor, counted: Tensor) -> float:
    """Return how often the counted images are predicted as wanted."""
    with torch.no_grad():
        found = torch.cat([model(some).argmax(dim=1) for some in images.split(100)])
    return float((found == wanted)[counted].double().mean())
