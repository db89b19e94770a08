"""The page: for each data set the paper's tables, its claims, and the controls beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reproductions.harmonizing.cube import GRAD_CAM, METHODS, MODIFIED, RELEASED, folder
from reproductions.harmonizing.networks import CONVOLUTIONAL, NETWORKS, TRANSFORMERS
from reproductions.harmonizing.training import EPOCHS, seconds_of
from whence.evaluation import Estimate, Mean
from whence.results.transfer import TransferRecord, TransferWork
from whence.results.transfer_tables import (
    control_table,
    family_table,
    markdown,
    transfer_table,
)

SOFT, HARD = "soft", "25 %"
CHANCE = 0.1
KEPT, SLIGHT, EVEN = 0.75, 10.0, 10.0
"""What is called recognised (share of the accuracy on images), slight and consistent (points)."""

Pair = tuple[str, str]
ACROSS = tuple((g, e) for g in NETWORKS for e in NETWORKS if g != e)
BETWEEN = tuple((g, e) for g, e in ACROSS if (g in CONVOLUTIONAL) != (e in CONVOLUTIONAL))
WITHIN = tuple(pair for pair in ACROSS if pair not in BETWEEN)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the paper on one kind of features.

    Args:
        says: What the paper says.
        mask: Kind of features.
        holds: Whether it was found here.
        found: The numbers.
        control: The same behind masks of other images.
    """

    says: str
    mask: str
    holds: bool
    found: str
    control: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What networks said of each image, read from the work of a study.

    Args:
        record: The study.
        work: Its finished steps.
    """

    record: TransferRecord
    work: TransferWork

    @staticmethod
    def of(dataset: str, record: TransferRecord) -> "Seen":
        """Return what was said in the study of a data set."""
        return Seen(record=record, work=TransferWork(folder=Path(folder(dataset)) / "work"))

    def correct(self, method: str, pair: Pair, shown: str, mask: str) -> torch.Tensor:
        """Return for each image whether the evaluator found its class, ``(n,)``."""
        generator, evaluator = (NETWORKS.index(name) for name in pair)
        step = f"judged-{METHODS.index(method)}-{generator}-{evaluator}"
        arrays = self.work.load(step)
        fill = self.record.fills[0]
        place = arrays["keys"].tolist().index([shown, mask, fill])
        return torch.from_numpy(arrays["values"][place, :, 0])

    def mean(self, method: str, pairs: Iterable[Pair], shown: str, mask: str) -> torch.Tensor:
        """Return for each image the share of pairs in which its class was found, ``(n,)``."""
        return torch.stack([self.correct(method, pair, shown, mask) for pair in pairs]).mean(dim=0)

    def images(self, name: str) -> float:
        """Return a network's accuracy on the images as they are."""
        row = self.record.row(name, "original")
        return 0.0 if row is None else row.accuracy.value


def estimated(values: torch.Tensor) -> Estimate:
    """Return a mean over images with its bootstrap interval."""
    mean = Mean()
    mean.update(torch.arange(len(values)), values)
    return mean.result()


def points(estimate: Estimate, *, sign: bool = False) -> str:
    """Return an estimate in per cent or points."""
    form = "+.1f" if sign else ".1f"
    value, low, high = (100 * v for v in (estimate.mean, estimate.low, estimate.high))
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def claims(seen: Seen) -> list[Claim]:
    """Return the paper's claims, each on soft features and at equal coverage."""
    return [
        claim
        for mask in (SOFT, HARD)
        for claim in (
            recognised(seen, mask),
            slight(seen, mask),
            lower(seen, mask),
            even(seen, mask),
        )
    ]


def recognised(seen: Seen, mask: str) -> Claim:
    """Features of one architecture are recognised by others."""
    own = estimated(seen.mean(MODIFIED, ACROSS, "features", mask))
    other = estimated(seen.mean(MODIFIED, ACROSS, "shuffled", mask))
    images = sum(seen.images(e) for _, e in ACROSS) / len(ACROSS)
    rows = [
        seen.record.row(
            e, "features", generator=g, method=MODIFIED, mask=mask, fill=seen.record.fills[0]
        )
        for g, e in ACROSS
    ]
    gains = [row.advantage for row in rows if row is not None and row.advantage is not None]
    above = sum(row is not None and row.accuracy.low > CHANCE for row in rows)
    clear = sum(gain.low > 0 for gain in gains)
    return Claim(
        says="Features made on one network are recognised by others",
        mask=mask,
        holds=above == len(rows) and own.mean >= KEPT * images,
        found=f"{points(own)} of {100 * images:.1f} on images; {above} of {len(rows)} pairs above "
        f"chance",
        control=f"{points(other)}; the gain is clear of 0 in {clear} of {len(rows)} pairs",
    )


def slight(seen: Seen, mask: str) -> Claim:
    """There are slight drops between convolutional networks and transformers."""
    drops, others = [], []
    for shown, kept in (("features", drops), ("shuffled", others)):
        kept.append(
            estimated(
                seen.mean(MODIFIED, WITHIN, shown, mask) - seen.mean(MODIFIED, BETWEEN, shown, mask)
            )
        )
    drop = drops[0]
    return Claim(
        says="There are slight drops between CNNs and transformers",
        mask=mask,
        holds=drop.low > 0 and 100 * drop.mean <= SLIGHT,
        found=f"within families less between them: {points(drop, sign=True)}",
        control=points(others[0], sign=True),
    )


def lower(seen: Seen, mask: str) -> Claim:
    """Accuracy is lower with maps of Grad-CAM."""
    drop, other = (
        estimated(
            seen.mean(MODIFIED, ACROSS, shown, mask) - seen.mean(GRAD_CAM, ACROSS, shown, mask)
        )
        for shown in ("features", "shuffled")
    )
    return Claim(
        says="Accuracy is lower with Grad-CAM",
        mask=mask,
        holds=drop.low > 0,
        found=f"modified Soundness Saliency less Grad-CAM: {points(drop, sign=True)}",
        control=points(other, sign=True),
    )


def even(seen: Seen, mask: str) -> Claim:
    """The accuracy with Grad-CAM is lower consistently across networks."""
    told = {}
    for shown in ("features", "shuffled"):
        told[shown] = [spread(seen, method, shown, mask) for method in (GRAD_CAM, MODIFIED)]
    own, beside = told["features"]
    return Claim(
        says="The drop with Grad-CAM is consistent across networks",
        mask=mask,
        holds=own <= EVEN,
        found=f"accuracy of images, over evaluators of one generator: deviation {own:.1f} points "
        f"(Soundness Saliency: {beside:.1f})",
        control=f"{told['shuffled'][0]:.1f} ({told['shuffled'][1]:.1f})",
    )


def spread(seen: Seen, method: str, shown: str, mask: str) -> float:
    """Return how far evaluators differ in what share of their accuracy they keep, in points."""
    found = []
    for generator in NETWORKS:
        others = [e for e in NETWORKS if e != generator]
        shares = [
            float(seen.correct(method, (generator, e), shown, mask).mean()) / seen.images(e)
            for e in others
        ]
        found.append(float(torch.tensor(shares).std()))
    return 100 * sum(found) / len(found)


def claim_table(found: Sequence[Claim]) -> str:
    """Return the claims as a table."""
    head = ["claim", "features", "here", "found", "the same behind masks of other images"]
    rows = [
        [one.says, one.mask, "reproduced" if one.holds else "not", one.found, one.control]
        for one in found
    ]
    return markdown(head, rows)


def network_table(dataset: str, record: TransferRecord) -> str:
    """Return the networks, how they were trained, and what they get right."""
    rows = []
    for card in record.networks:
        row = record.row(card.name, "original")
        told = "-" if row is None else str(row.accuracy)
        rows.append(
            [
                card.name,
                card.family,
                f"{card.model.parameters}",
                f"{EPOCHS[dataset, card.name]}",
                f"{seconds_of(dataset, card.name):.0f}",
                told,
            ]
        )
    return markdown(["network", "family", "weights", "epochs", "CPU seconds", "accuracy"], rows)


def blank_line(record: TransferRecord) -> str:
    """Say how much masks cover, and how many show nothing."""
    parts = []
    for method in record.methods:
        covers = sum(method.coverage.values()) / len(method.coverage)
        parts.append(f"{method.name} {100 * covers:.0f} % ({sum(method.blank.values())} blank)")
    return f"Mean of the soft masks, and maps that show nothing: {', '.join(parts)}."


def section(dataset: str, record: TransferRecord, picture: str) -> str:
    """Return the page's section about one data set."""
    fill = record.fills[0]
    parts = [
        f"## {dataset}",
        f"{record.data.count} test images; the class explained is the generator's prediction.",
        network_table(dataset, record),
        "### The paper's claims",
        claim_table(claims(Seen.of(dataset, record))),
        f"![Accuracy of every network on the features of every network]({picture})",
    ]
    for mask in (SOFT, HARD):
        name = "Soft features" if mask == SOFT else f"Hard features, {mask} of the pixels"
        parts += [
            f"### {name}, black elsewhere",
            "As Table 1: maps of convolutional networks.",
            transfer_table(record, mask, fill, CONVOLUTIONAL),
            "As Table 2: maps of transformers.",
            transfer_table(record, mask, fill, TRANSFORMERS),
            "Means over pairs of networks:",
            family_table(record, mask, fill),
            "Controls, pairs of different networks:",
            control_table(record, mask, fill),
        ]
    parts += ["### Other coverages and fills", other_table(record), blank_line(record)]
    return "\n\n".join(parts)


def other_table(record: TransferRecord) -> str:
    """Return features and shuffled masks of different networks for each coverage and fill."""
    rows = []
    for mask in record.masks:
        for fill in record.fills:
            cells = [mask, fill]
            for method in (MODIFIED, RELEASED, GRAD_CAM):
                pair = []
                for shown in ("features", "shuffled"):
                    found = [
                        row.accuracy.value
                        for row in record.rows
                        if (row.method, row.shown, row.mask, row.fill)
                        == (method, shown, mask, fill)
                        and row.generator != row.evaluator
                    ]
                    pair.append(100 * sum(found) / len(found))
                cells.append(f"{pair[0]:.1f} ({pair[1]:.1f})")
            rows.append(cells)
    names = [f"{name} (shuffled)" for name in (MODIFIED, RELEASED, GRAD_CAM)]
    return markdown(["features", "fill", *names], rows)
