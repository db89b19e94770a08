"""The table, for a terminal and as a page."""

from collections.abc import Iterable

from benchmarks.attribution.cell import Cell
from benchmarks.attribution.rows import ROWS
from benchmarks.attribution.setup import MODELS

__all__ = ["page", "text"]

NEAR, SLOW = 1.1, 1.25
"""How far above its floor a method may be, in FLOPs and in time."""

HEAD = """# Attribution beside other libraries

Written by `make bench-attribution`. {about}

One pass is a forward and the gradient for the input, of the untouched model on the same batch: 8
random images of 224 px, random weights. *floor* is what the definition needs; *FLOPs* are counted
in convolutions and matrix products, in passes, and do not depend on what else the machine does;
*CPU* and *wall* are times in passes, measured in turn with one, medians; *MiB* is how far the
process grew in the first call. Every cell has a process of its own. Methods of several steps take
10, on ResNet-50 5. Where gaps are made equal, every image has to come to a relative completeness
gap of 1 %: whence finds its own number of steps, and the others are told the smallest number that
does it with their own rule, which nobody knows beforehand; Captum says how complete the result is,
zennit does not. *Tuned* is `network.tuned()`: batch
norms folded, weights frozen, channels last; reading and tuning are done once and not counted.
"""


def sorted_cells(cells: Iterable[Cell], model: str) -> list[Cell]:
    """Return a model's cells in the order of the rows."""
    order = {
        (row.name, library): (i, j)
        for i, row in enumerate(ROWS)
        for j, library in enumerate(row.cells)
    }
    mine = [cell for cell in cells if cell.model == model and (cell.row, cell.library) in order]
    return sorted(mine, key=lambda cell: order[cell.row, cell.library])


def number(value: float | None, form: str = ".2f") -> str:
    """Return a figure, or nothing."""
    return "" if value is None else format(value, form)


def fields(cell: Cell) -> list[str]:
    """Return a cell's columns."""
    said = f"fails: {cell.error}" if cell.error else cell.remark
    figures = [number(v) for v in (cell.floor, cell.flops, cell.cpu, cell.wall)]
    return [cell.row, cell.library, *figures, number(cell.memory, ".0f"), said]


TITLES = ["method", "library", "floor", "FLOPs", "CPU", "wall", "MiB", "remarks"]


def text(cells: Iterable[Cell]) -> str:
    """Return the table for a terminal."""
    lines = []
    for model in MODELS:
        rows = [fields(cell) for cell in sorted_cells(cells, model)]
        if not rows:
            continue
        lines += ["", model]
        widths = [max(len(row[i]) for row in [TITLES, *rows]) for i in range(7)]
        for row in [TITLES, *rows]:
            head = [row[i].ljust(widths[i]) for i in range(2)]
            tail = [row[i].rjust(widths[i]) for i in range(2, 7)]
            lines.append("  ".join([*head, *tail, row[7][:90]]))
    return "\n".join(lines)


def page(cells: Iterable[Cell], about: str) -> str:
    """Return the tables as Markdown."""
    cells = list(cells)
    lines = [HEAD.format(about=about)]
    for model in MODELS:
        rows = sorted_cells(cells, model)
        if not rows:
            continue
        lines += [f"## {model}", "", f"| {' | '.join(TITLES)} |"]
        lines.append("|--|--|--:|--:|--:|--:|--:|--|")
        lines += [f"| {' | '.join(escaped(fields(cell)))} |" for cell in rows]
        lines.append("")
    return "\n".join(lines)


def escaped(row: list[str]) -> list[str]:
    """Return columns in which no bar ends a column."""
    return [part.replace("|", "\\|") for part in row]
