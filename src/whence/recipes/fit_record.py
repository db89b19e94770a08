"""The record of a training: rows, measurements and notes, as a file and as text."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from whence.adapters.training import EpochRow
from whence.display import card, facts, note, table
from whence.errors import RecordError
from whence.recipes.measure import CONTRASTS, Measured
from whence.results.folder import write_whole

__all__ = [
    "FitRecord",
    "FitRow",
    "fit_text",
    "log_text",
    "percent",
    "read_row",
    "save_record",
    "save_row",
    "spreads_in",
]


@final
@dataclass(frozen=True, kw_only=True)
class FitRow:
    """One training among those that were compared.

    Args:
        name: What it is called: ``no prior``, ``weight 0.1``.
        weight: The prior's weight; 0 without a prior.
        bias_free: Whether the network is homogeneous, so that no bias can help it.
        epochs: How many epochs it was trained.
        best_epoch: The one whose weights were kept, from 1; 0 if none.
        validation_accuracy: The share of the validation images that these predict right.
        validation_loss: Their cross-entropy there.
        penalty: The prior's penalty on the training images in that epoch, without its weight;
            NaN without a prior.
        note: Why there is no result, or nothing.
    """

    name: str
    weight: float
    bias_free: bool
    epochs: int
    best_epoch: int
    validation_accuracy: float
    validation_loss: float
    penalty: float
    note: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """What a training came to.

    Args:
        model: Its name.
        data: Names of the training, validation and test images.
        classes: Names of the classes.
        prior: What was asked of the attributions, in words; empty without a prior.
        rows: The trainings that were compared.
        chosen: The name of the one whose weights were kept.
        before: The network as it came; None if its head was new.
        after: The trained network.
        counts: Training images of each class.
        intercept: The logarithm of each class's share of the training images, less their mean:
            what to add to the logits of a network without biases, outside of it.
        trained_with_intercept: Whether that was added in training already.
        notes: What a reader must know.
        seconds: How long all took.
        command: The command, if there was one.
    """

    model: str
    data: tuple[str, str, str]
    classes: tuple[str, ...]
    prior: str
    rows: tuple[FitRow, ...]
    chosen: str
    before: Measured | None
    after: Measured
    counts: tuple[int, ...]
    intercept: tuple[float, ...]
    trained_with_intercept: bool
    notes: tuple[str, ...]
    seconds: float
    command: str = ""

    def _repr_html_(self) -> str:
        """Show the training in a notebook: what was compared, and before and after."""
        return card(
            "Training",
            facts({"model": self.model, "trained on": self.data[0], "prior": self.prior}),
            *(
                table(rows[0], rows[1:], title=title)
                for title, rows in (
                    (f"Compared on {self.data[1]}", comparison(self)),
                    (f"Before and after, on {self.data[2] or self.data[1]}", differences(self)),
                    ("Accuracy as the contrast falls", curves(self)),
                )
            ),
            *map(note, self.notes[:5]),
        )


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a document in which numbers that JSON does not have are null."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON document."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, text.encode())


def save_record(record: FitRecord, folder: Path) -> None:
    """Write ``fit.json`` and ``report.md``."""
    save_json(folder / "fit.json", {"whence": "fit", **asdict(record)})
    write_whole(folder / "report.md", f"{fit_text(record, markdown=True)}\n".encode())


def save_row(row: FitRow, path: Path) -> None:
    """Write one row, when its training has ended."""
    save_json(path, asdict(row))


def read_row(path: Path) -> FitRow:
    """Read one row.

    Raises:
        RecordError: The file holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        penalty = content["penalty"]
        return FitRow(**{**content, "penalty": math.nan if penalty is None else penalty})
    except (OSError, ValueError, TypeError, KeyError) as error:
        msg = f"{path} is no finished training ({error}). Delete it, and resume."
        raise RecordError(msg) from error


def log_text(rows: Sequence[EpochRow]) -> str:
    """Return the rows of a training as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*EpochRow.__dataclass_fields__], lineterminator="\n")
    writer.writeheader()
    writer.writerows([vars(row) for row in rows])
    return out.getvalue()


def spreads_in(path: Path) -> list[float]:
    """Return how far apart the logits were, epoch by epoch, from a log."""
    with path.open(encoding="utf-8", newline="") as file:
        return [float(row["spread"]) for row in csv.DictReader(file)]


def fit_text(record: FitRecord, *, markdown: bool = False) -> str:
    """Return a record as text."""
    train, validation, test = record.data
    where = test or validation
    lines = [f"{record.model}, trained on {train}"]
    if record.prior:
        lines += ["", f"Prior: {record.prior}"]
    lines += ["", *titled("Compared on " + validation, markdown=markdown)]
    lines += grid(comparison(record), markdown=markdown)
    lines += ["", *titled(f"Before and after, on {where}", markdown=markdown)]
    lines += grid(differences(record), markdown=markdown)
    lines += ["", *titled("Accuracy as the contrast falls", markdown=markdown)]
    lines += grid(curves(record), markdown=markdown)
    if record.notes:
        lines += ["", *titled("Notes", markdown=markdown)]
        lines += [f"{'-' if markdown else ' '} {note}" for note in record.notes]
    return "\n".join(lines)


def titled(text: str, *, markdown: bool) -> list[str]:
    """Return a heading."""
    return [f"## {text}", ""] if markdown else [text]


def grid(rows: list[list[str]], *, markdown: bool) -> list[str]:
    """Return rows, the first of which is the head, as a table."""
    if markdown:
        head, *body = [f"| {' | '.join(row)} |" for row in rows]
        return [head, "|--" * len(rows[0]) + "|", *body]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    cells = [
        [cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in pairs(row, widths)]
        for row in rows
    ]
    return ["  " + "  ".join(row).rstrip() for row in cells]


def pairs(row: list[str], widths: list[int]) -> list[tuple[int, tuple[str, int]]]:
    """Return cells with their widths, numbered."""
    return list(enumerate(zip(row, widths, strict=True)))


def percent(value: float) -> str:
    """Return a share in per cent."""
    return f"{100 * value:.1f} %"


def comparison(record: FitRecord) -> list[list[str]]:
    """Return the trainings as rows of text."""
    rows = [["training", "biases", "epochs", "best", "accuracy", "loss", "penalty", ""]]
    for row in record.rows:
        if row.note:
            rows.append([row.name, "", str(row.epochs), "", "", "", "", "no result, see the notes"])
            continue
        penalty = "" if math.isnan(row.penalty) else f"{row.penalty:.4f}"
        rows.append(
            [
                row.name,
                "none" if row.bias_free else "some",
                str(row.epochs),
                str(row.best_epoch),
                percent(row.validation_accuracy),
                f"{row.validation_loss:.4f}",
                penalty,
                "chosen" if row.name == record.chosen else "",
            ]
        )
    return rows


def differences(record: FitRecord) -> list[list[str]]:
    """Return what was measured before and after as rows of text."""
    columns = [one for one in (record.before, record.after) if one is not None]
    head = ["", "before", "after"] if record.before is not None else ["", "after"]
    said = {True: "yes", False: "no", None: "unknown"}
    return [
        head,
        ["accuracy", *(percent(one.accuracy) for one in columns)],
        ["mean over the classes", *(percent(one.balanced) for one in columns)],
        ["homogeneous (an X-DNN)", *(said[one.homogeneous] for one in columns)],
        ["scale error", *(f"{one.scale_error:.1e}" for one in columns)],
        ["largest |f(0)|", *(f"{one.at_zero:.1e}" for one in columns)],
    ]


def curves(record: FitRecord) -> list[list[str]]:
    """Return the contrast curves as rows of text."""
    named = [("before", record.before), ("after", record.after)]
    rows = [["contrast", *(f"{k:g}" for k in CONTRASTS)]]
    rows += [
        [name, *(f"{100 * value:.1f}" for value in one.contrast)]
        for name, one in named
        if one is not None
    ]
    return rows
