"""What a dataset's class names mean to a model: matched by name, by position, or refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from whence.errors import DataError

__all__ = ["ClassMap", "map_classes", "normalised_name", "numbered"]

WORDNET = re.compile(r"n\d{8}")
SHOWN = 5


@final
@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Which class of the model each folder of a dataset is.

    Args:
        classes: Names of the classes, in the order of the labels.
        indices: The class index of each folder name, in the order of the folders.
        mapping: How they were found: "by name", "by position", "by number", "by WordNet id".
    """

    classes: tuple[str, ...]
    indices: tuple[int, ...]
    mapping: str


def numbered(count: int) -> tuple[str, ...]:
    """Return ``"0"``, ``"1"``, ...: the names of classes that have no names."""
    return tuple(str(k) for k in range(count))


def normalised_name(name: str) -> str:
    """Return a class name without what file systems and people write differently."""
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def map_classes(
    found: Sequence[str],
    classes: Sequence[str] | None,
    synsets: Sequence[str] | None = None,
) -> ClassMap:
    """Map the class folders of a dataset to the classes of a model.

    By name if every folder has the name of a class, whatever its case; by WordNet id
    (``n01440764``) for models of ImageNet's classes; by sorted position if no folder has the name
    of a class and there are as many folders as classes. Folders named by numbers of several
    lengths, for classes without names, have two plausible orders, and neither is guessed.

    Args:
        found: The folders' names, sorted.
        classes: The model's classes; None to take the folders as the classes.
        synsets: The WordNet ids of the model's classes, where they are known.

    Raises:
        DataError: The folders fit the classes in none of these ways.
    """
    own = tuple(range(len(found)))
    if classes is None:
        return ClassMap(classes=tuple(found), indices=own, mapping="by position")
    names = tuple(classes)
    if names == numbered(len(names)):
        return map_to_numbers(found, names)
    if synsets and len(synsets) == len(names) and all(name in synsets for name in found):
        at = {synset: k for k, synset in enumerate(synsets)}
        by_id = tuple(at[name] for name in found)
        return ClassMap(classes=names, indices=by_id, mapping="by WordNet id")
    places = places_of(names)
    matched = [name for name in found if len(places.get(normalised_name(name), ())) == 1]
    if len(matched) == len(found):
        by_name = tuple(places[normalised_name(name)][0] for name in found)
        return ClassMap(classes=names, indices=by_name, mapping="by name")
    if not matched and len(found) == len(names):
        return ClassMap(classes=tuple(found), indices=own, mapping="by position")
    strangers = [name for name in found if name not in matched]
    shared = any(normalised_name(name) in places for name in strangers)
    raise unmatched(found, names, strangers, ambiguous=shared)


def places_of(names: Sequence[str]) -> dict[str, list[int]]:
    """Return which classes a name may mean: a whole name, or one of those between commas."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        for alias in {normalised_name(part) for part in (name, *name.split(","))}:
            places.setdefault(alias, []).append(index)
    return places


def map_to_numbers(found: Sequence[str], names: tuple[str, ...]) -> ClassMap:
    """Map folders to classes that have no names, only numbers."""
    numeric = all(name.isdecimal() for name in found)
    if numeric and all(int(name) < len(names) for name in found):
        by_number = tuple(int(name) for name in found)
        if len(found) == len(names) and by_number != tuple(range(len(found))):
            msg = (
                f"The class folders are numbers of several lengths ({listed(found)}), and the "
                f"model's classes have no names: sorted as text or as numbers they mean different "
                f"classes. Give the model's class names in the order of its outputs."
            )
            raise DataError(msg)
        return ClassMap(classes=names, indices=by_number, mapping="by number")
    if len(found) == len(names):
        places = tuple(range(len(found)))
        return ClassMap(classes=tuple(found), indices=places, mapping="by position")
    raise unmatched(found, names, list(found), ambiguous=False)


def unmatched(
    found: Sequence[str], names: Sequence[str], strangers: Sequence[str], *, ambiguous: bool
) -> DataError:
    """Return the error for folders that fit the model's classes in no way."""
    twice = (
        " Some of them are names that several of the model's classes share." if ambiguous else ""
    )
    wordnet = (
        " The folders are WordNet ids; with timm installed they are matched to ImageNet's classes."
        if all(WORDNET.fullmatch(name) for name in found)
        else ""
    )
    return DataError(
        f"The data has {len(found)} classes ({listed(found)}), the model {len(names)} "
        f"({listed(names)}); no class of the model is called {listed(strangers)}.{twice}{wordnet} "
        f"Rename the folders, or give the model's class names in the order of its outputs."
    )


def listed(names: Sequence[str]) -> str:
    """Return the first few names for an error."""
    shown = ", ".join(names[:SHOWN])
    return f"{shown}, ..." if len(names) > SHOWN else shown
