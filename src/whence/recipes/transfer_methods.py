"""The methods of a study of harmony, by name or as values, each made for a generating network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import final

from torch import Tensor

from whence.attribution import ExtremalPerturbation, References, SoundnessSaliency, method_named
from whence.core import BASELINES, Baseline, Method, Normalisation, baseline_named
from whence.errors import SettingError
from whence.evaluation.transfer_masks import Scale
from whence.recipes.load import pairs

__all__ = ["FILLS", "MODIFIED", "ORIGINAL_FORM", "StudiedMethod", "fill_named", "studied_methods"]

MODIFIED, ORIGINAL_FORM = "ss-modified", "ss-original"
SOUNDNESS = {
    MODIFIED: {"objective": "weighted"},
    ORIGINAL_FORM: {"objective": "double-softmax"},
    "soundness-saliency": {},
}
"""Names under which Soundness Saliency goes here; its fills are drawn from the bank."""

BANK = "bank"
FILLS = (*(name for name in BASELINES if name != "noise"), BANK)
"""Names of fills. In pixels ``zero`` is black, and ``mean`` is the image's own mean colour."""


@final
@dataclass(frozen=True, kw_only=True)
class StudiedMethod:
    """A method of a study.

    Args:
        name: What to call it in the tables.
        make: Makes it for a network: from its units, and bank images in them.
        text: The method with its settings, the same for every network.
    """

    name: str
    make: Callable[[Normalisation, Tensor], Method]
    text: str


def scale_of(method: Method) -> Scale:
    """Return how the maps of a method become masks."""
    return "mask" if isinstance(method, SoundnessSaliency | ExtremalPerturbation) else "maximum"


def studied_methods(
    methods: Sequence[str] | Mapping[str, Method | str],
) -> tuple[StudiedMethod, ...]:
    """Return the methods of a study from what a user gives.

    Args:
        methods: Names of :func:`whence.attribution.method_named`, ``ss-modified`` or
            ``ss-original``, with settings behind a colon, ``ss-modified:steps=300,draws=3``; or
            what to call each, with its name or the method itself.

    Raises:
        SettingError: If a name or a setting is unknown, or a method is named twice.
    """
    if isinstance(methods, Mapping):
        found = [studied(name, method) for name, method in methods.items()]
    else:
        short = [text.partition(":")[0] for text in methods]
        found = [
            studied(text if short.count(name) > 1 else name, text)
            for name, text in zip(short, methods, strict=True)
        ]
    names = [method.name for method in found]
    if not names or len(set(names)) < len(names):
        msg = f"Give one method or more, each once; got {', '.join(names) or 'none'}."
        raise SettingError(msg)
    return tuple(found)


def studied(name: str, method: Method | str) -> StudiedMethod:
    """Return one method of a study."""
    if not isinstance(method, str):
        value = method
        return StudiedMethod(name=name, make=lambda _units, _bank: value, text=str(value))
    kind, _, tail = method.partition(":")
    settings = dict(pairs([part for part in tail.split(",") if part], "steps=64"))
    fill = settings.pop("fill", BANK) if kind in SOUNDNESS else ""
    plain = "soundness-saliency" if kind in SOUNDNESS else kind
    settings = {**SOUNDNESS.get(kind, {}), **settings}

    def make(units: Normalisation, bank: Tensor) -> Method:
        made = method_named(plain, settings, normalisation=units)
        if not isinstance(made, SoundnessSaliency):
            return made
        known = References(images=bank) if fill == BANK else baseline_named(fill, units)
        return replace(made, fill=known)

    checked = method_named(plain, settings)
    if fill not in ("", BANK):
        baseline_named(fill)
    text = f"{checked}, fill {fill}" if fill else str(checked)
    return StudiedMethod(name=name, make=make, text=text)


def fill_named(name: str) -> Baseline:
    """Return a fill in pixels from 0 to 1; the bank is made for each network.

    Raises:
        SettingError: If there is no fill of this name.
    """
    if name not in FILLS:
        near = get_close_matches(name, FILLS, 1, 0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        msg = f"Unknown fill {name!r}.{hint} Choose one of: {', '.join(FILLS)}."
        raise SettingError(msg)
    return baseline_named(name, Normalisation())
