"""The one door to matplotlib: sizes, fonts and files of publication figures.

No figure touches pyplot, its windows or its settings: each is made by itself and can be thrown
away. Nothing here is imported before the first figure is drawn.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from whence.errors import MissingExtra, OutputError, SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
else:
    Axes = Drawing = Any  # annotations are executed, also where matplotlib is not installed

__all__ = [
    "DOUBLE_COLUMN",
    "SINGLE_COLUMN",
    "Axes",
    "Drawing",
    "Plot",
    "check_width",
    "new_drawing",
    "styled",
]

SINGLE_COLUMN = 3.25
"""Inches: a column of a paper with two columns."""

DOUBLE_COLUMN = 6.75
"""Inches: both columns, or the page of a paper with one."""

KINDS = ("pdf", "svg", "png")

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.35",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 7.5,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # letters stay letters, and their font is in the file
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "whence",
    "text.parse_math": False,  # a class may be called $x
    "xtick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 6.5,
    "ytick.major.width": 0.6,
}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Plot:
    """A figure for a paper; a notebook shows it.

    Args:
        figure: Matplotlib's own figure; change what you like before it is saved.
    """

    figure: Drawing

    def save(self, path: str | Path, *, dpi: int = 300) -> Path:
        """Write the figure; a file that is there is replaced, whole or not at all.

        In PDF and SVG lines are lines and text is text; PDF holds its font, SVG names it. The
        same figure gives the same bytes on every day.

        Args:
            path: A name that ends in ``.pdf``, ``.svg`` or ``.png``.
            dpi: Dots per inch of a PNG.

        Raises:
            OutputError: The file cannot be written.
            SettingError: The name has another ending.
        """
        path = Path(path)
        content = self.content(path.suffix.lower().removeprefix("."), dpi=dpi)
        part = path.with_name(f"{path.name}.part")
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = error.strerror or os.strerror(error.errno or 0)
            msg = f"{path} cannot be written: {reason}. Give a place that can."
            raise OutputError(msg) from error
        return path

    def content(self, kind: str, *, dpi: int = 300) -> bytes:
        """The bytes of the file.

        Args:
            kind: ``pdf``, ``svg`` or ``png``.
            dpi: Dots per inch of a PNG.

        Raises:
            SettingError: There is no such kind.
        """
        if kind not in KINDS:
            msg = f"A figure is written as {', '.join(KINDS)}; got {kind!r}. Rename the file."
            raise SettingError(msg)
        undated: dict[str, dict[str, Any]] = {
            "pdf": {"CreationDate": None, "ModDate": None},
            "svg": {"Date": None},
        }
        file = io.BytesIO()
        with styled():
            self.figure.savefig(file, format=kind, dpi=dpi, metadata=undated.get(kind))
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        return self.content("png", dpi=160)


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib with our settings, and with the user's again afterwards."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - the door opens late
    except ImportError as error:
        package, extra, purpose = "matplotlib", "figures", "A figure for a paper"
        raise MissingExtra(package, extra, purpose) from error
    settings: dict[Any, Any] = {
        key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"
    }
    with mpl.rc_context(settings | STYLE):
        yield


def new_drawing(width: float, height: float, *, placed: bool = False) -> Drawing:
    """An empty figure; to be called inside :func:`styled`.

    Args:
        width: Inches.
        height: Inches.
        placed: Its axes stay where they are put; else they make room for their labels.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - the door opens late

    return Figure(figsize=(width, height), layout=None if placed else "constrained")


def check_width(width: float) -> None:
    """Check a figure's width.

    Raises:
        SettingError: It is not between 1 and 40 inches.
    """
    if not 1 <= width <= 40:  # noqa: PLR2004 - inches
        msg = (
            f"width needs inches between 1 and 40, such as SINGLE_COLUMN ({SINGLE_COLUMN}) or "
            f"DOUBLE_COLUMN ({DOUBLE_COLUMN}); got {width}."
        )
        raise SettingError(msg)
