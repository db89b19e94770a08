"""What a command takes, read from its signature: the flags' names, kinds and bounds."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, final, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

__all__ = ["Entry", "entries_of"]

PLACES = ("SOURCE", "FILE", "FOLDER", "PATH", "MODEL", "IMAGES", "INDEX", "AUDIT", "FIXED")
"""Last words of metavars whose values may be files or folders."""


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """One option or argument of a command.

    Args:
        name: Of the function's parameter.
        key: The flag's long name without dashes, or an argument's metavar in lower case.
        flags: All its flags, ``--hold-weights`` and ``--differentiate-weights``; none of an
            argument.
        kind: ``str``, ``int``, ``float``, ``bool`` or ``Path``, of one value.
        repeated: Whether it may be given several times.
        metavar: What its help calls the value.
        panel: The heading of its help.
        low: The least number that is allowed.
        high: The largest.
        default: Its value when it is not given; ``...`` if it must be.
        help: What its help says.
    """

    name: str
    key: str
    flags: tuple[str, ...]
    kind: type
    repeated: bool
    metavar: str
    panel: str
    low: float | None
    high: float | None
    default: Any
    help: str

    @property
    def place(self) -> bool:
        """Whether its value may be a file or a folder."""
        return self.kind is Path or self.metavar.rsplit("=", 1)[-1].strip("[]") in PLACES

    @property
    def paired(self) -> bool:
        """Whether its values are written KEY=VALUE, so that a table can hold them."""
        return self.repeated and "=" in self.metavar


def entries_of(command: Callable[..., Any]) -> tuple[Entry, ...]:
    """Return what a command takes, in the order of its signature."""
    hints = get_type_hints(command, include_extras=True)
    found = []
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if get_origin(hint) is not Annotated:
            continue  # the context
        plain, *notes = get_args(hint)
        info = next(note for note in notes if isinstance(note, ParameterInfo))
        kind, repeated = kind_of(plain)
        option = isinstance(info, OptionInfo)
        flags = flags_of(info, name) if option else ()
        metavar = info.metavar or ""
        default = ... if parameter.default is parameter.empty else parameter.default
        found.append(
            Entry(
                name=name,
                key=flags[0].lstrip("-") if flags else key_of(info, name),
                flags=flags,
                kind=kind,
                repeated=repeated,
                metavar=metavar,
                panel=str(getattr(info, "rich_help_panel", None) or ""),
                low=info.min,
                high=info.max,
                default=default,
                help=info.help or "",
            )
        )
    return tuple(found)


def flags_of(info: ParameterInfo, name: str) -> tuple[str, ...]:
    """Return the flags of an option, the long ones first."""
    # Typer takes the first name of an option for its default until it reads the signature.
    given = [flag for text in (info.default, *(info.param_decls or ())) for flag in parts(text)]
    flags = [flag for flag in given if flag.startswith("-")] or ["--" + name.replace("_", "-")]
    return tuple(sorted(flags, key=lambda flag: not flag.startswith("--")))


def parts(text: Any) -> list[str]:  # noqa: ANN401 - a name, or no name at all
    """Return the flags of ``--this/--that``."""
    return text.split("/") if isinstance(text, str) else []


def key_of(info: ParameterInfo, name: str) -> str:
    """Return the name of an argument in a file: what the help calls it."""
    return (info.metavar or name).strip("[]").lower() if isinstance(info, ArgumentInfo) else name


def kind_of(hint: Any) -> tuple[type, bool]:  # noqa: ANN401 - any annotation
    """Return the type of one value, and whether there may be several."""
    choices = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is list:
        return kind_of(choices[0])[0], True
    if len(choices) == 1:
        return kind_of(choices[0])
    return hint, False
