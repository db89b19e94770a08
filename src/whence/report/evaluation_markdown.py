"""An evaluation as Markdown. Needs no torch."""

from whence.report.evaluation_pairs import pair_lines
from whence.report.evaluation_tables import agreement_rows, overtaken, refusals, summary_rows
from whence.results.evaluation import EvaluationRecord
from whence.results.transfer_tables import markdown

__all__ = ["markdown_tables"]

LEGEND = (
    "`+` better than the metric's control, `-` worse, `?` no claim: the interval of the paired "
    "difference covers 0, or there are too few images, or no control or direction; `n/a` not "
    "applicable. Brackets: {:.0%} bootstrap intervals over images."
)


def markdown_tables(record: EvaluationRecord) -> str:
    """Return the evaluation as Markdown."""
    parts = [
        f"# Evaluation on {record.data.name}",
        f"{len(record.images)} images. {LEGEND.format(record.confidence)}",
    ]
    for network in record.networks:
        accuracy = "" if network.accuracy is None else f", accuracy {network.accuracy:.1%}"
        parts.append(f"## {network.name}{accuracy}")
        parts.append(markdown(*summary_rows(record, network.name, ends=True), left=1))
        lines = pair_lines(record, network.name)
        if lines:
            parts += ["### Method against method", "\n".join(f"- {line}" for line in lines)]
    if record.agreements:
        parts += [
            "## Agreement between maps",
            markdown(("metric", "first", "second", "mean"), agreement_rows(record), left=3),
        ]
    notes = [*record.notes, *overtaken(record), *refusals(record)]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    metrics = [
        (one.name, one.says, one.better, one.control, one.chance, one.reference)
        for one in record.metrics
    ]
    head = ("metric", "measures", "better", "control", "chance", "reference")
    parts += ["## Metrics", markdown(head, metrics, left=len(head))]
    return "\n\n".join(parts) + "\n"
