"""What a study of harmony found, its folder, and the work behind it. Needs no torch.

A folder holds ``transfer.json`` (everything), ``transfer.csv`` (one row per cell),
``transfer.md`` (the tables), and ``work/``: one archive for each finished step, by which a study
that was stopped goes on.
"""

import csv
import io
import json
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.display import card, facts, note, table
from whence.errors import MismatchError, OutputError, RecordError
from whence.results.coding import decode, encode
from whence.results.folder import write_whole
from whence.results.records import SCHEMA_VERSION, DatasetCard, ModelCard, RunCard

__all__ = [
    "IntervalRecord",
    "TransferMethod",
    "TransferNetworkCard",
    "TransferRecord",
    "TransferRow",
    "TransferWork",
    "load_transfer",
    "save_transfer",
    "transfer_csv",
]

FILES = (
    "transfer.json",
    "transfer.csv",
    "transfer.md",
    "report.html",
    "heat.svg",
    "heat.png",
    "run.toml",
)
"""What a study writes, beside its work."""

WORK, IDENTITY = "work", "identity.json"


@final
@dataclass(frozen=True, kw_only=True)
class IntervalRecord:
    """A value with the ends of its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the value with its interval, or a dash where it is undefined."""
        if math.isnan(self.value):
            return "-"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@final
@dataclass(frozen=True, kw_only=True)
class TransferNetworkCard:
    """One network of a study.

    Args:
        name: What it is called in the tables.
        family: ``convolutional``, ``transformer``, or what the user calls it.
        model: Its weights, classes and preprocessing.
        size: Rows and columns that it takes.
        right: How many of the images it gets right as they are.
        count: Of how many.
    """

    name: str
    family: str
    model: ModelCard
    size: tuple[int, int]
    right: int
    count: int


@final
@dataclass(frozen=True, kw_only=True)
class TransferMethod:
    """One method of a study.

    Args:
        name: What it is called in the tables.
        settings: The method with its settings, as text.
        scale: How its maps became masks.
        blank: By the generating network: images whose map shows nothing.
        coverage: By the generating network: the mean of the soft masks.
    """

    name: str
    settings: str
    scale: str
    blank: dict[str, int]
    coverage: dict[str, float]


@final
@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """One cell of the cube; see :class:`whence.evaluation.Verdict` for what the numbers are."""

    generator: str
    evaluator: str
    method: str
    shown: str
    mask: str
    fill: str
    count: int
    accuracy: IntervalRecord
    probability: IntervalRecord
    agreement: IntervalRecord
    kept: IntervalRecord
    of_original: IntervalRecord
    of_self: IntervalRecord | None = None
    advantage: IntervalRecord | None = None
    agreement_advantage: IntervalRecord | None = None


@final
@dataclass(frozen=True, kw_only=True)
class TransferRecord:
    """Everything that a study found.

    Args:
        networks: In the order of the tables.
        methods: In the order of the tables.
        masks: Kinds of masks: ``soft``, ``25 %``.
        fills: What stood where masks are zero; the first one has all controls.
        target: Which class was explained: ``predicted`` or ``label``.
        data: The images.
        rows: The cube.
        run: How it was made.
        notes: What a reader must know.
    """

    networks: tuple[TransferNetworkCard, ...]
    methods: tuple[TransferMethod, ...]
    masks: tuple[str, ...]
    fills: tuple[str, ...]
    target: str
    data: DatasetCard
    rows: tuple[TransferRow, ...]
    run: RunCard
    notes: tuple[str, ...] = ()

    def row(
        self,
        evaluator: str,
        shown: str,
        *,
        generator: str = "",
        method: str = "",
        mask: str = "",
        fill: str = "",
    ) -> TransferRow | None:
        """Return a cell of the cube, or None if there is none."""
        return self.index.get((evaluator, shown, generator, method, mask, fill))

    @cached_property
    def index(self) -> dict[tuple[str, ...], TransferRow]:
        """The rows by evaluator, shown, generator, method, mask and fill."""
        return {(r.evaluator, r.shown, r.generator, r.method, r.mask, r.fill): r for r in self.rows}

    def _repr_html_(self) -> str:
        """Show the study in a notebook: accuracy on the features, for each method and mask."""
        names, blocks = [one.name for one in self.networks], []
        for mask in self.masks[:2]:
            for method in self.methods[:3]:
                where = {"method": method.name, "mask": mask, "fill": self.fills[0]}
                rows = [
                    (
                        maker,
                        *(
                            shown(self.row(judge, "features", generator=maker, **where))
                            for judge in names
                        ),
                    )
                    for maker in names
                ]
                title = f"{method.name}, mask {mask}, fill {self.fills[0]}"
                blocks.append(table(("maps of", *names), rows, title=title))
        told = {"data": self.data.name, "images": self.data.count, "explained": self.target}
        return card(
            "Transfer of features",
            facts(told),
            *blocks,
            note("Accuracy of the networks in the columns on what the maps show, with intervals."),
            *map(note, self.notes[:5]),
        )


def shown(row: TransferRow | None) -> str:
    """Return a cell's accuracy with its interval."""
    return "-" if row is None else str(row.accuracy)


@final
@dataclass(frozen=True, kw_only=True)
class TransferWork:
    """The finished steps of a study in its folder, each a file that is there whole or not at all.

    Args:
        folder: ``work`` in the study's folder.
    """

    folder: Path

    @staticmethod
    def open(out: str | Path, identity: Mapping[str, str], *, overwrite: bool) -> "TransferWork":
        """Make a folder for a study, or go on with what is in it.

        Args:
            out: The study's folder.
            identity: What the study is: fingerprints and settings by name, as text.
            overwrite: Begin again, whatever study is there.

        Raises:
            MismatchError: Another study is in the folder; it names what differs.
            OutputError: The folder holds what is none of ours, or cannot be written.
        """
        target = Path(out)
        work = target / WORK
        path = work / IDENTITY
        check_free(target)
        if overwrite:
            clear(target)
        elif path.is_file():
            check_same(path, identity)
        elif (target / FILES[0]).exists():
            msg = f"{target} holds a study without its work. Give another folder, or --overwrite."
            raise OutputError(msg)
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{work} cannot be made: {error.strerror}. Give a place that can."
            raise OutputError(msg) from error
        if not path.is_file():
            text = json.dumps({"whence": "transfer", **identity}, indent=2, ensure_ascii=False)
            write_whole(path, text.encode())
        return TransferWork(folder=work)

    def has(self, step: str) -> bool:
        """Return whether a step is finished."""
        return (self.folder / f"{step}.npz").is_file()

    def save(self, step: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write what a step made."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for key, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(f"{key}.npy", content.getvalue(), zipfile.ZIP_DEFLATED, 1)
        write_whole(self.folder / f"{step}.npz", packed.getvalue())

    def load(self, step: str) -> dict[str, NDArray[Any]]:
        """Read what a step made.

        Raises:
            RecordError: The file is damaged.
        """
        path = self.folder / f"{step}.npz"
        try:
            content = io.BytesIO(path.read_bytes())
            with np.load(content, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            msg = f"{path} is damaged: {error}. Remove it, and the step is done again."
            raise RecordError(msg) from error


def check_free(target: Path) -> None:
    """Refuse a folder that holds something that is none of ours."""
    if not target.exists():
        return
    if not target.is_dir():
        msg = f"A folder was needed, but {target} is a file. Give another name."
        raise OutputError(msg)
    foreign = sorted(p.name for p in target.iterdir() if p.name not in (*FILES, WORK))
    ours = not (target / WORK).exists() or (target / WORK / IDENTITY).is_file()
    if foreign or not ours:
        found = foreign[0] if foreign else WORK
        msg = (
            f"{target} holds {found!r}, which no study of harmony wrote. Give another folder; "
            f"--overwrite only replaces such a study."
        )
        raise OutputError(msg)


def clear(target: Path) -> None:
    """Remove a study."""
    shutil.rmtree(target / WORK, ignore_errors=True)
    for name in FILES:
        (target / name).unlink(missing_ok=True)


def check_same(path: Path, identity: Mapping[str, str]) -> None:
    """Refuse to go on with another study."""
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} is damaged: {error}. Begin again with --overwrite."
        raise RecordError(msg) from error
    names = sorted((set(known) | set(identity)) - {"whence"})
    differing = [name for name in names if known.get(name) != identity.get(name)]
    if differing:
        first = differing[0]
        msg = (
            f"{path.parents[1]} holds a study that differs in {', '.join(differing)}: {first} was "
            f"{brief(known.get(first))}, and is {brief(identity.get(first))}. Give another "
            f"folder, or begin again with --overwrite."
        )
        raise MismatchError(msg)


def brief(value: object) -> str:
    """Return a setting, shortened."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line


def save_transfer(record: TransferRecord, path: str | Path) -> None:
    """Write a study as one JSON file; a file that is there already is replaced.

    Raises:
        OutputError: The file cannot be written.
    """
    document = {
        "whence": "transfer",
        "schema_version": SCHEMA_VERSION,
        "record": encode(record, {}),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(Path(path), text.encode("utf-8", "backslashreplace"))


def load_transfer(path: str | Path) -> TransferRecord:
    """Read a study back, from its folder or its ``transfer.json``.

    Raises:
        RecordError: The file is missing or damaged, or has another schema version.
    """
    file = Path(path)
    file = file / FILES[0] if file.is_dir() else file
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{file} cannot be read: {error}. Give a folder that `whence transfer` wrote."
        raise RecordError(msg) from error
    if not isinstance(document, dict) or document.get("whence") != "transfer":
        msg = f"{file} needs to be written by `whence transfer`, and is not."
        raise RecordError(msg)
    if document.get("schema_version") != SCHEMA_VERSION:
        msg = (
            f"{file} has schema version {document.get('schema_version')!r}, but this whence reads "
            f"{SCHEMA_VERSION}. Run the command again."
        )
        raise RecordError(msg)
    return decode(TransferRecord, document.get("record"), {})


PLAIN = ("generator", "evaluator", "method", "shown", "mask", "fill", "count")
NUMBERS = (
    "accuracy",
    "probability",
    "agreement",
    "kept",
    "of_original",
    "of_self",
    "advantage",
    "agreement_advantage",
)


def transfer_csv(record: TransferRecord) -> str:
    """Return the cube as CSV: one row per cell, each number with the ends of its interval."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in NUMBERS for end in ("", "_low", "_high")]
    writer.writerow((*PLAIN, *ends))
    for row in record.rows:
        plain = [getattr(row, name) for name in PLAIN]
        writer.writerow((*plain, *(value for name in NUMBERS for value in spelled(row, name))))
    return text.getvalue()


def spelled(row: TransferRow, name: str) -> Iterator[str]:
    """Yield a number and the ends of its interval; empty where there is none."""
    interval = getattr(row, name)
    for part in ("value", "low", "high"):
        value = math.nan if interval is None else getattr(interval, part)
        yield "" if math.isnan(value) else repr(value)
