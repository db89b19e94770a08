"""Groups: which training images belong together, and what they did to predictions as one."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from whence.core import ImageData
from whence.errors import DataError, SettingError
from whence.influence import Influence
from whence.recipes.removal import group_influence
from whence.results import GroupRecord, HarmfulImage, RegionRecord, SuspectLabel

__all__ = ["group_records", "places_of", "read_group"]

Members = tuple[str, str, tuple[int, ...]]
"""Name, kind, and places in the training set."""


def read_group(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of a group and what a file lists, a place or a name of an image per line.

    Args:
        text: A file, or ``NAME=FILE``; otherwise the group is called like the file.

    Raises:
        DataError: If the file cannot be read, or lists nothing.
    """
    name, mark, file = text.partition("=")
    path = Path(file if mark else text)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The list of training images {path} cannot be read: {error}."
        raise DataError(msg) from error
    found = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not found:
        msg = f"{path} lists no training image; write a place or a file name on each line."
        raise DataError(msg)
    return (name.strip() if mark else path.stem), found


def places_of(name: str, members: Sequence[int | str], train: ImageData) -> tuple[int, ...]:
    """Return the places of training images that are given by place or by name.

    Raises:
        SettingError: If one does not exist, with what comes close.
    """
    texts = {one for one in members if isinstance(one, str)}
    known = {train.name(i): i for i in range(len(train))} if texts else {}
    found = []
    for one in members:
        place = known.get(one) if isinstance(one, str) else one
        if place is None and isinstance(one, str) and one.isdecimal():
            place = int(one)
        if place is None or not 0 <= place < len(train):
            close = difflib.get_close_matches(str(one), known, 1)
            msg = (
                f"The group {name!r} lists {one!r}, which is neither a place from 0 to "
                f"{len(train) - 1} nor the name of a training image"
                f"{f'. Did you mean {close[0]}?' if close else ', such as ' + train.name(0) + '.'}"
            )
            raise SettingError(msg)
        found.append(place)
    if not found:
        msg = f"The group {name!r} lists no training image."
        raise SettingError(msg)
    return tuple(sorted(set(found)))


def group_records(
    influence: Influence,
    train: ImageData,
    classes: Sequence[str],
    *,
    lists: Mapping[str, tuple[int, ...]],
    regions: Sequence[RegionRecord],
    suspects: Sequence[SuspectLabel],
    harmful: Sequence[HarmfulImage],
) -> tuple[GroupRecord, ...]:
    """Return what groups did to each prediction: lists given, what was found, and the classes.

    Args:
        influence: Scores of the training data for the predictions.
        train: The training data.
        classes: Names of the classes.
        lists: Groups that were asked for, by name.
        regions: Each region's training images are a group.
        suspects: All whose label looks wrong are one.
        harmful: All that harm several predictions are one.
    """
    made: list[Members] = [(name, "list", places) for name, places in lists.items()]
    for number, region in enumerate(regions, start=1):
        made.append((f"region {number}, class {classes[region.label]}", "region", region.images))
    if suspects:
        made.append(("labels that look wrong", "labels", tuple(s.index for s in suspects)))
    several = tuple(h.index for h in harmful if len(h.queries) > 1)
    if several:
        made.append(("images that harm several predictions", "harmful", several))
    for label in sorted(set(influence.labels.tolist())):
        members = tuple(influence.indices[influence.labels == label].tolist())
        made.append((f"class {classes[label]}", "class", members))
    masks = torch.zeros(len(made), len(train), dtype=torch.bool)
    for row, (_, _, places) in enumerate(made):
        masks[row, list(places)] = True
    found = group_influence(influence, masks, [name for name, _, _ in made])
    return tuple(
        GroupRecord(
            name=name,
            kind=kind,
            size=int(found.sizes[row]),
            scores=tuple(found.scores[row].tolist()),
            means=tuple(found.means[row].tolist()),
            others=tuple(found.others[row].tolist()),
            images=() if kind == "class" else tuple(sorted(places)),
        )
        for row, (name, kind, places) in enumerate(made)
    )
