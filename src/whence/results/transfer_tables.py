"""The cube in tables, as the paper prints its own. Needs no torch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from whence.results.transfer import IntervalRecord, TransferRecord, TransferRow

__all__ = [
    "FamilyMean",
    "control_table",
    "family_means",
    "family_table",
    "filter_table",
    "transfer_markdown",
    "transfer_table",
]

CONTROLS = ("features", "shuffled", "smooth", "complement", "alone")

EXPLAINED = """\
Rows are the networks whose maps were used, columns the networks that look: `F` at the features,
`I` at the images as they are. Accuracy with the half width of its 95 % Wilson interval, and the
mean probability of the class, in per cent; `vs. shuffled` is the accuracy on the features less
that on the same images behind masks of other images, with its paired bootstrap interval.\
"""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 2) -> str:
    """Return a table in Markdown; the first ``left`` columns are left-aligned, the others right."""
    rule = f"{'|:--' * left}{'|--:' * (len(head) - left)}|"
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def share(interval: IntervalRecord, *, half: bool = True) -> str:
    """Return a share in per cent, with half the width of its interval."""
    if math.isnan(interval.value):
        return "-"
    width = f" ± {50 * (interval.high - interval.low):.1f}" if half else ""
    return f"{100 * interval.value:.1f}{width}"


def difference(interval: IntervalRecord | None) -> str:
    """Return a difference in points with its interval."""
    if interval is None or math.isnan(interval.value):
        return "-"
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def transfer_table(record: TransferRecord, mask: str, fill: str, generators: Sequence[str]) -> str:
    """Return one slice of the cube as the paper's Tables 1 and 2 have it.

    A block of rows for each generating network, in it a row of accuracy and one of confidence
    for each method; a pair of columns, features and image, for each evaluating network.

    Args:
        record: The study.
        mask: Which kind of mask: ``soft``, ``25 %``.
        fill: What stands where the mask is zero.
        generators: Names of the networks whose maps are in the table.
    """
    names = [network.name for network in record.networks]
    head = ["maps of", "method", "", *(f"{name} {what}" for name in names for what in "FI")]
    rows = []
    for generator in generators:
        for method in record.methods:
            for what, told in (("accuracy", accuracy_of), ("confidence", probability_of)):
                cells = [
                    text
                    for name in names
                    for text in pair(record, told, name, generator, method.name, mask, fill)
                ]
                rows.append([generator, method.name, what, *cells])
    return markdown(head, rows)


def pair(
    record: TransferRecord,
    told: Callable[[TransferRow], str],
    evaluator: str,
    generator: str,
    method: str,
    mask: str,
    fill: str,
) -> tuple[str, str]:
    """Return what is told of the features and of the image."""
    shown = record.row(
        evaluator, "features", generator=generator, method=method, mask=mask, fill=fill
    )
    plain = record.row(evaluator, "original")
    return ("-" if shown is None else told(shown), "-" if plain is None else told(plain))


def accuracy_of(row: TransferRow) -> str:
    """Return the accuracy, with half the width of its interval."""
    return share(row.accuracy)


def probability_of(row: TransferRow) -> str:
    """Return the mean probability of the class."""
    return share(row.probability, half=False)


def filter_table(record: TransferRecord) -> str:
    """Return how many images each network gets right as they are."""
    rows = []
    for card in record.networks:
        row = record.row(card.name, "original")
        told = "-" if row is None else share(row.accuracy)
        size = f"{card.size[0]} x {card.size[1]}"
        rows.append([card.name, card.family, size, f"{card.right} of {card.count}", told])
    return markdown(["network", "family", "input", "right", "accuracy"], rows)


@final
@dataclass(frozen=True, kw_only=True)
class FamilyMean:
    """The mean over pairs of networks, for one method, mask and fill.

    Args:
        method: The method.
        pairs: ``itself``, ``within a family``, or ``CNN -> transformer`` and the like.
        count: Pairs of networks.
        accuracy: Mean accuracy on the features.
        probability: Mean probability of the class.
        agreement: Mean agreement with the evaluator's own prediction.
        of_original: Mean of accuracy over the evaluator's own accuracy.
        of_self: Mean of accuracy over the generator's accuracy on its own features.
        shuffled: Mean accuracy behind the masks of other images.
        advantage: Mean difference of the two.
        clear: Pairs of networks in which the interval of this difference lies above 0.
    """

    method: str
    pairs: str
    count: int
    accuracy: float
    probability: float
    agreement: float
    of_original: float
    of_self: float
    shuffled: float
    advantage: float
    clear: int


def family_means(record: TransferRecord, mask: str, fill: str) -> tuple[FamilyMean, ...]:
    """Return the means over pairs: a network itself, within each family, and between families."""
    found = []
    family = {network.name: network.family for network in record.networks}
    for method in record.methods:
        groups: dict[str, list[TransferRow]] = {}
        for row in record.rows:
            if (row.method, row.shown, row.mask, row.fill) == (method.name, "features", mask, fill):
                name = named_pair(row.generator, row.evaluator, family)
                groups.setdefault(name, []).append(row)
        found += [mean_of(record, method.name, name, rows) for name, rows in sorted(groups.items())]
    return tuple(found)


def named_pair(generator: str, evaluator: str, family: dict[str, str]) -> str:
    """Return the group of a pair of networks."""
    if generator == evaluator:
        return "itself"
    if family[generator] == family[evaluator]:
        return f"within {family[generator]}"
    return f"{family[generator]} to {family[evaluator]}"


def mean_of(record: TransferRecord, method: str, name: str, rows: list[TransferRow]) -> FamilyMean:
    """Return the mean over rows of the cube; values that are undefined are left out."""
    shuffled = [
        other.accuracy.value
        for row in rows
        if (
            other := record.row(
                row.evaluator,
                "shuffled",
                generator=row.generator,
                method=row.method,
                mask=row.mask,
                fill=row.fill,
            )
        )
    ]
    return FamilyMean(
        method=method,
        pairs=name,
        count=len(rows),
        accuracy=average(row.accuracy.value for row in rows),
        probability=average(row.probability.value for row in rows),
        agreement=average(row.agreement.value for row in rows),
        of_original=average(row.of_original.value for row in rows),
        of_self=average(row.of_self.value for row in rows if row.of_self is not None),
        shuffled=average(iter(shuffled)),
        advantage=average(row.advantage.value for row in rows if row.advantage is not None),
        clear=sum(row.advantage is not None and row.advantage.low > 0 for row in rows),
    )


def average(values: Iterator[float]) -> float:
    """Return the mean of the defined values; NaN if there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def family_table(record: TransferRecord, mask: str, fill: str) -> str:
    """Return the means over pairs of networks as Markdown."""
    head = [
        "method",
        "pairs (generator to evaluator)",
        "pairs",
        "accuracy",
        "probability",
        "agreement",
        "of I",
        "of itself",
        "shuffled",
        "vs. shuffled",
    ]
    rows = []
    for one in family_means(record, mask, fill):
        numbers = [one.accuracy, one.probability, one.agreement, one.of_original, one.of_self]
        told = [percent(value) for value in (*numbers, one.shuffled)]
        rows.append([one.method, one.pairs, f"{one.count}", *told, f"{100 * one.advantage:+.1f}"])
    return markdown(head, rows)


def percent(value: float) -> str:
    """Return a share in per cent."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def control_table(record: TransferRecord, mask: str, fill: str) -> str:
    """Return features beside every control: means over all pairs of different networks."""
    objects = [row for row in record.rows if row.shown == "object" and row.fill == fill]
    head = ["method", "", *CONTROLS, "object", "vs. shuffled clear of 0"]
    rows = []
    for method in record.methods:
        told, clear = [], "-"
        for shown in CONTROLS:
            wanted = (method.name, shown, mask, "" if shown == "alone" else fill)
            cells = [
                row
                for row in record.rows
                if (row.method, row.shown, row.mask, row.fill) == wanted
                and row.generator != row.evaluator
            ]
            told.append(percent(average(row.accuracy.value for row in cells)))
            if shown == "features":
                known = [row.advantage for row in cells if row.advantage is not None]
                clear = f"{sum(one.low > 0 for one in known)} of {len(known)} pairs"
        truth = percent(average(row.accuracy.value for row in objects))
        rows.append([method.name, "accuracy", *told, truth, clear])
    return markdown(head, rows)


def advantage_table(record: TransferRecord, mask: str, fill: str) -> str:
    """Return the paired difference between features and shuffled masks, pair by pair."""
    names = [network.name for network in record.networks]
    rows = []
    for method in record.methods:
        for generator in names:
            cells = []
            for name in names:
                row = record.row(
                    name, "features", generator=generator, method=method.name, mask=mask, fill=fill
                )
                cells.append("-" if row is None else difference(row.advantage))
            rows.append([generator, method.name, *cells])
    return markdown(["maps of", "method", *names], rows)


def transfer_markdown(record: TransferRecord) -> str:
    """Return all tables as one Markdown page: the first fill in full, the others as means."""
    fill = record.fills[0]
    families = list(dict.fromkeys(network.family for network in record.networks))
    parts = [
        "# Harmony across architectures",
        f"{record.data.name}: {record.data.count} images; class explained: {record.target}.",
        EXPLAINED,
        filter_table(record),
        *(f"- {note}" for note in record.notes),
    ]
    for mask in record.masks:
        parts.append(f"## {mask} features, fill {fill}")
        for number, family in enumerate(families, start=1):
            own = [network.name for network in record.networks if network.family == family]
            parts.append(f"Table {number}: maps of {family} networks.")
            parts.append(transfer_table(record, mask, fill, own))
        parts += ["Features less shuffled masks:", advantage_table(record, mask, fill)]
        parts += ["Means over pairs of networks:", family_table(record, mask, fill)]
        parts += ["Controls, different networks:", control_table(record, mask, fill)]
        for other in record.fills[1:]:
            parts += [f"Means on the fill {other}:", family_table(record, mask, other)]
    return "\n\n".join(parts) + "\n"
