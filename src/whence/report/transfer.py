"""A study of harmony as one self-contained HTML file. Needs no torch."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from whence.report import words
from whence.report.transfer_heat import heat_png, heat_svg
from whence.results.folder import write_whole
from whence.results.transfer import TransferRecord
from whence.results.transfer_tables import (
    advantage_table,
    control_table,
    family_table,
    filter_table,
    transfer_table,
)

__all__ = ["heat_png", "heat_svg", "render_transfer", "write_transfer"]

TEMPLATES = Path(__file__).parent / "templates"


@final
@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as its cells.

    Args:
        head: The first row.
        rows: The others.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True, kw_only=True)
class Slice:
    """What the page shows of one kind of mask.

    Args:
        mask: Which.
        tables: Title and table of each family of generators, on the first fill.
        advantage: Features less shuffled masks.
        controls: Features beside every control.
        means: Fill and means over pairs of networks.
    """

    mask: str
    tables: tuple[tuple[str, Grid], ...]
    advantage: Grid
    controls: Grid
    means: tuple[tuple[str, Grid], ...]


def grid(table: str) -> Grid:
    """Return the cells of a table in Markdown."""
    lines = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()
    ]
    return Grid(head=lines[0], rows=tuple(lines[2:]))


def slices(record: TransferRecord) -> tuple[Slice, ...]:
    """Return what the page shows, one slice for each kind of mask."""
    fill = record.fills[0]
    families = list(dict.fromkeys(network.family for network in record.networks))
    found = []
    for mask in record.masks:
        tables = [
            (
                f"Maps of {family} networks",
                grid(
                    transfer_table(
                        record,
                        mask,
                        fill,
                        [one.name for one in record.networks if one.family == family],
                    )
                ),
            )
            for family in families
        ]
        found.append(
            Slice(
                mask=mask,
                tables=tuple(tables),
                advantage=grid(advantage_table(record, mask, fill)),
                controls=grid(control_table(record, mask, fill)),
                means=tuple(
                    (name, grid(family_table(record, mask, name))) for name in record.fills
                ),
            )
        )
    return tuple(found)


def render_transfer(record: TransferRecord) -> str:
    """A study as the text of one HTML page."""
    # The drawing is made here, with every name in it escaped.
    picture = Markup(heat_svg(record))  # noqa: S704
    return (
        environment()
        .get_template("transfer.html.j2")
        .render(
            record=record,
            run=record.run,
            picture=picture,
            filters=grid(filter_table(record)),
            slices=slices(record),
        )
    )


def write_transfer(record: TransferRecord, path: str | Path) -> None:
    """Write a study as one HTML file; a file that is there already is replaced.

    Args:
        record: What the study found.
        path: The file; its folder must exist.

    Raises:
        OutputError: The file cannot be written.
    """
    write_whole(Path(path), render_transfer(record).encode("utf-8", "backslashreplace"))


@cache
def environment() -> Environment:
    """Return where the template is filled in."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join((TEMPLATES / name).read_text("utf-8") for name in ("style.css", "transfer.css"))
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    made.globals |= {
        "style": style,
        "policy": f"default-src 'none'; img-src data:; style-src 'sha256-{allowed}'; "
        f"base-uri 'none'; form-action 'none'",
        "counted": words.counted,
        "duration": words.duration,
        "moment": words.moment,
        "setting": words.setting,
        "short": words.short,
    }
    return made
