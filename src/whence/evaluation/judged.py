"""Judging image by image: what cannot be judged is left out and named; the rest goes on.

A metric that is called by itself refuses a batch with a map that is not finite or a mask that is
empty. :func:`judge` calls it with the other images, and says of every image without a value why.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Final, final

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from whence.core import Attributions, Images, Method, ScalarFn, Scalars, Target
from whence.errors import DataError, NumericsError, SettingError, ShapeError, WhenceError
from whence.evaluation.mean import UNDEFINED
from whence.evaluation.metric import check_maps
from whence.network import Network

__all__ = ["Judged", "faults_of", "judge"]

NOT_FINITE: Final = "the map is not finite"
ZERO: Final = "the map is zero everywhere"
CONSTANT: Final = "the map is constant"
OTHER: Final = "the other "
NO_MASK: Final = "the mask is empty"
INFINITE: Final = "its value is infinite"

OF_ITS_IMAGE: Final = (NumericsError, DataError)
"""Errors that say something of an image, never of how a metric was called."""

WHAT: Final = {
    "values": "maps, (b, c, h, w)",
    "f": "the function that is explained, such as ModelScalar(model, target)",
    "images": "the images, (b, c, h, w)",
    "masks": "masks of the objects, (b, 1, h, w)",
    "others": "the maps of another method or network, (b, c, h, w)",
    "model": "the model",
    "target": "the target, such as logit(classes)",
    "method": "the method that makes the maps",
}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A metric's value of every image, and why there is none where there is none.

    Args:
        values: In double precision, ``(b,)``; NaN where there is none.
        reasons: Why an image has no value; empty where it has one.
        faults: What is wrong with a map (not finite, zero everywhere, constant), whether it has
            a value or not; empty where nothing is, and where no maps were given.
    """

    values: Scalars
    reasons: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def undefined(self) -> dict[str, int]:
        """How many images have no value, by the reason."""
        return dict(Counter(reason for reason in self.reasons if reason))


def judge(
    metric: Any,  # noqa: ANN401 - metrics differ in how they are called; checked below
    values: Tensor | None = None,
    *,
    f: ScalarFn | None = None,
    images: Images | None = None,
    masks: Tensor | None = None,
    others: Tensor | None = None,
    model: nn.Module | Network | None = None,
    target: Target | None = None,
    method: Method | None = None,
) -> Judged:
    """Return a metric's value of every image that can be judged, and why the others cannot.

    The metric is called with what it takes by these names, whatever its call form; the rest is
    not looked at, so that one set of arguments fits many metrics. Left out are images whose map
    is not finite, whose mask is empty, or which the metric refuses when they come alone.

    Costs what the metric costs, and once more image by image where it refuses some of them.

    Args:
        metric: Any metric, or a function whose arguments have these names.
        values: The maps.
        f: What is explained.
        images: The images.
        masks: Masks of the objects, 1 inside.
        others: Maps of another method or network.
        model: The model, for sanity checks.
        target: What is explained of it.
        method: The method, where a metric makes maps itself.

    Returns:
        One value per image, in the order of the images.

    Raises:
        SettingError: If the metric needs something that was not given, or is none of images.
        ShapeError: If there is not one of everything for each image, or maps are of another size.
        WhenceError: If the metric refuses every image alike, such as one with too few segments.

    Example:
        >>> from whence.evaluation import Gini, Mean
        >>> maps = torch.rand(3, 1, 4, 4)
        >>> maps[1] = torch.nan
        >>> found = judge(Gini(), maps)
        >>> found.undefined
        {'the map is not finite': 1}
        >>> mean = Mean()
        >>> mean.update(torch.arange(3), found.values, found.reasons)
        >>> mean.result().count
        2
    """
    rows_of: dict[str, Any] = {
        "values": values,
        "f": f,
        "images": images,
        "masks": masks,
        "others": others,
        "model": model,
        "target": target,
        "method": method,
    }
    given = {name: rows_of[name] for name in needs_of(metric, rows_of)}
    count = number_of(given)
    faults = [""] * count if values is None else faults_of(values)
    reasons = excluded(given, count)
    found = torch.full((count,), torch.nan, dtype=torch.float64)
    good = [row for row, reason in enumerate(reasons) if not reason]
    if good:
        told = asked(metric, given, good, count)
        for row, number in told.items():
            if isinstance(number, str):
                reasons[row] = number
            else:
                found[row] = number
    for row in good:
        if not reasons[row] and not bool(found[row].isfinite()):
            reasons[row] = unsaid(given, row, faults[row], infinite=bool(found[row].isinf()))
            found[row] = torch.nan
    return Judged(values=found, reasons=tuple(reasons), faults=tuple(faults))


def faults_of(values: Attributions) -> list[str]:
    """Return what is wrong with each map: not finite, zero everywhere, constant; or nothing."""
    check_maps(values)
    broken = ~values.isfinite().flatten(1).all(dim=1)
    zero = (values == 0).flatten(1).all(dim=1)
    pixels = values.sum(dim=1).flatten(1)
    even = pixels.amin(dim=1) == pixels.amax(dim=1)
    return [
        NOT_FINITE if bad else ZERO if none else CONSTANT if flat else ""
        for bad, none, flat in zip(broken.tolist(), zero.tolist(), even.tolist(), strict=True)
    ]


def needs_of(
    metric: Any,  # noqa: ANN401 - the check is the point
    given: Mapping[str, object],
) -> list[str]:
    """Return the names that a metric is called with.

    Raises:
        SettingError: If it takes another argument, or one that was not given.
    """
    name = getattr(metric, "__name__", type(metric).__name__)
    if not callable(metric):
        msg = (
            f"{name} cannot be called with maps, so it is no metric of single images. ROAR, which "
            f"trains networks, is asked by whence.evaluate or whence.recipes.roar."
        )
        raise SettingError(msg)
    needed = [p.name for p in signature(metric).parameters.values() if p.default is p.empty]
    strange = [one for one in needed if one not in WHAT]
    if strange:
        msg = f"{name} takes {strange[0]!r}; a metric takes some of {', '.join(WHAT)}."
        raise SettingError(msg)
    missing = [one for one in needed if given[one] is None]
    if missing:
        says = "; ".join(f"{one}: {WHAT[one]}" for one in missing)
        msg = f"{name} is called with {', '.join(needed)}. Give what is missing: {says}."
        raise SettingError(msg)
    return needed


def number_of(given: Mapping[str, Any]) -> int:
    """Return the number of images.

    Raises:
        ShapeError: If there is not one of everything for each.
    """
    lengths = {name: len(one) for name, one in given.items() if isinstance(one, Tensor)}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        msg = f"There must be one of everything for each image; got {told}."
        raise ShapeError(msg)
    return next(iter(lengths.values()))


def excluded(given: Mapping[str, Any], count: int) -> list[str]:
    """Return why images are left out before anything is asked; empty where they are not."""
    reasons = [""] * count

    def note(bad: Bool[Tensor, " b"], why: str) -> None:
        for row in bad.nonzero()[:, 0].tolist():
            reasons[row] = reasons[row] or why

    for name, why in (("values", NOT_FINITE), ("others", OTHER + NOT_FINITE[4:])):
        if name in given:
            check_maps(given[name])
            note(~given[name].isfinite().flatten(1).all(dim=1), why)
    if "masks" in given:
        note((given["masks"] == 0).flatten(1).all(dim=1), NO_MASK)
    return reasons


def asked(
    metric: Callable[..., Any], given: Mapping[str, Any], rows: list[int], count: int
) -> dict[int, float | str]:
    """Return a metric's value of some images, or what it says of an image that it refuses.

    Raises:
        WhenceError: If it refuses every one, and not for what is in the images.
    """
    try:
        return dict(zip(rows, called(metric, given, rows, count), strict=True))
    except WhenceError as error:
        first = error
    found: dict[int, float | str] = {}
    strange = 0
    for row in rows:
        try:
            found[row] = called(metric, given, [row], count)[0]
        except WhenceError as error:
            found[row] = " ".join(str(error).split()).rstrip(".")
            strange += not isinstance(error, OF_ITS_IMAGE)
    if strange == len(rows):
        raise first
    return found


def called(
    metric: Callable[..., Any], given: Mapping[str, Any], rows: list[int], count: int
) -> list[float]:
    """Return a metric's values of some images."""
    some = dict(given)
    if len(rows) < count:
        for name, one in given.items():
            if isinstance(one, Tensor):
                some[name] = one[torch.tensor(rows, device=one.device)]
            elif name in ("f", "target"):
                places = next(x for x in given.values() if isinstance(x, Tensor)).device
                some[name] = one.at(torch.tensor(rows, device=places))
    found = metric(*some.values())
    scores: Tensor = found if isinstance(found, Tensor) else found.score
    if scores.shape != (len(rows),):
        msg = f"A metric returns one value per image, ({len(rows)},); got {tuple(scores.shape)}."
        raise ShapeError(msg)
    numbers: list[float] = scores.detach().double().tolist()
    return numbers


def unsaid(given: Mapping[str, Any], row: int, fault: str, *, infinite: bool) -> str:
    """Return why a metric has no value of an image that it did not refuse."""
    if infinite:
        return INFINITE
    other = faults_of(given["others"][row : row + 1])[0] if "others" in given else ""
    return fault or (OTHER + other[4:] if other else UNDEFINED)
