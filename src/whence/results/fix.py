"""The record of a fix: which findings were accepted, and what was done about them."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from whence.display import card, facts, note, table
from whence.errors import OutputError, RecordError
from whence.results.files import read_record, write_record
from whence.results.findings import Audited, Finding, check_findings

__all__ = ["FixRecord", "FixTraining", "load_fix", "save_fix"]


@final
@dataclass(frozen=True, kw_only=True)
class FixTraining:
    """One training among those that were compared.

    Args:
        name: What it is called: ``no prior``, ``weight 100``.
        weight: The prior's weight; 0 without a prior.
        accuracy: What was compared: the accuracy on the validation images, as they are and with
            the region of an image of another class; 0 if there is no network.
        note: Why there is no network, or nothing.
    """

    name: str
    weight: float
    accuracy: float
    note: str = ""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FixRecord:
    """What was done about an audit's findings.

    Args:
        model: The name of the model.
        data: The name of the training data.
        audited: What the audit saw; the fingerprints say which model and data that was.
        findings: Those that were accepted, as they were then.
        masked: In how many training images attributions were kept out of a region.
        area: The mean share of these images that the region takes.
        dropped: Places of the training images that were left out.
        relabelled: New labels, by place.
        converted: Whether the network was made an X-DNN first.
        x_dnn: Whether it is one now, by proof.
        prior: What was asked of the attributions, in words; empty without a region.
        trainings: Those that were compared.
        chosen: The name of the one whose weights were kept.
        notes: What a reader must know.
        seconds: How long all took.
        command: The command, if there was one.
        created: When.
        exchanged: Whether the region's pixels were exchanged among the training images.
    """

    model: str
    data: str
    audited: Audited
    findings: tuple[Finding, ...]
    masked: int
    area: float
    dropped: tuple[int, ...]
    relabelled: dict[int, int]
    converted: bool
    x_dnn: bool
    prior: str
    trainings: tuple[FixTraining, ...]
    chosen: str
    notes: tuple[str, ...]
    seconds: float
    command: str
    created: str
    exchanged: bool = False

    def _repr_html_(self) -> str:
        """Show the fix in a notebook: what was accepted, and the trainings."""
        accepted = [(one.id, one.action, one.summary) for one in self.findings]
        trained = [
            (one.name, f"{one.accuracy:.1%}", "chosen" if one.name == self.chosen else one.note)
            for one in self.trainings
        ]
        told = {
            "model": self.model,
            "masked": self.masked,
            "dropped": len(self.dropped),
            "relabelled": len(self.relabelled),
            "X-DNN": "yes" if self.x_dnn else "no",
        }
        return card(
            "Fix",
            facts(told),
            table(("finding", "action", ""), accepted),
            table(("training", "validation accuracy", ""), trained),
            *map(note, self.notes[:5]),
        )


def save_fix(record: FixRecord, folder: str | Path) -> None:
    """Write ``fix.json`` and ``arrays.npz`` into a folder, which exists.

    Raises:
        RecordError: A finding does not fit.
        OutputError: The folder cannot be written.
    """
    check_findings(record.findings, record.audited)
    target = Path(folder)
    if not target.is_dir():
        msg = f"A folder was needed, but {target} is none. Make it first."
        raise OutputError(msg)
    write_record(record, target, "fix")


def load_fix(folder: str | Path) -> FixRecord:
    """Read back what :func:`save_fix` wrote.

    Raises:
        RecordError: A file is missing, damaged or of another version, or the folder holds no fix.
    """
    target = Path(folder)
    if not (target / "fix.json").is_file():
        held = "an audit" if (target / "audit.json").is_file() else "none"
        msg = (
            f"{target} was to be the folder of a fix, which holds fix.json, but it holds {held}. "
            f"Make one with `whence fix AUDIT --out FOLDER`."
        )
        raise RecordError(msg)
    record = read_record(target, "fix", FixRecord)
    check_findings(record.findings, record.audited)
    return record
