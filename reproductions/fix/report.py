"""The tables and the page: means and intervals over seeds, with what they say."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

__all__ = ["interval", "page", "table"]

Cell = dict[str, Any]

QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % for 1, 2, ... degrees of freedom."""

COLUMNS = {"against": "the shortcut against the class", "clean": "with the class, or without it"}
TAKEN = "taken in"
TOLD = "tells the class in training images"
EVIDENCE = (
    TOLD,
    "tells the class in audited images",
    "evidence that points to the label",
    "evidence from elsewhere that does",
    "share of the influence",
    "share of the area of these images",
)
JUDGED = ("overlap", "precision", "recall", "rest")


def interval(values: Sequence[float], *, percent: bool = True) -> str:
    """Return a mean with its 95 % interval by Student's t over seeds."""
    factor = 100 if percent else 1
    middle = factor * mean(values)
    if len(values) < 2:
        return f"{middle:.1f}"
    quantile = QUANTILES[min(len(values) - 1, len(QUANTILES)) - 1]
    half = factor * quantile * stdev(values) / len(values) ** 0.5
    return f"{middle:.1f} ± {half:.1f}"


def table(name: str, cells: Sequence[Cell]) -> str:
    """Return the table of one case as markdown."""
    found = [c for c in cells if c["row"] == "found"]
    if not found:
        return f"## {name}\n\nNot run: its data are not at hand.\n"
    planted = any(TAKEN in c for c in cells)
    columns = COLUMNS | ({TAKEN: "taken in by the patch"} if planted else {"both": "both, mean"})
    lines = [
        f"| | {' | '.join(columns.values())} | seeds | CPU s |",
        f"|--|{'--|' * len(columns)}--|--|",
    ]
    for row in dict.fromkeys(c["row"] for c in cells):
        own = [c for c in cells if c["row"] == row and "clean" in c]
        if own:
            for c in own:
                c["both"] = (c["clean"] + c["against"]) / 2
            figures = [interval([c[key] for c in own]) for key in columns]
            seconds = f"{mean(c['cpu'] for c in own):.0f}"
            lines.append(f"| {row} | {' | '.join(figures)} | {len(own)} | {seconds} |")
    judged = "; ".join(f"{key} {interval([c[key] for c in found])}" for key in JUDGED)
    missed = sum(not c["findings"] for c in found)
    return (
        f"## {name}\n\n"
        f"Found in {len(found) - missed} of {len(found)} seeds. Judged by the exact masks, in per "
        f"cent: {judged} (*rest*: how much of all other pixels is proposed as well).\n\n"
        f"{evidence(found)}" + "\n".join(lines) + "\n"
    )


def evidence(found: Sequence[Cell]) -> str:
    """Return what spoke for the appearances that were proposed, if any were."""
    every = [one for c in found for one in c["evidence"] if TOLD in one]
    if not every:
        return ""
    lines = [
        f"- {key}: {interval([one[key] for one in every if key in one])}"
        for key in EVIDENCE
        if any(key in one for one in every)
    ]
    largest = max(one["p"] for one in every)
    return (
        f"What spoke for them, mean over {len(every)} appearances, in per cent; the largest p is "
        f"{largest:g}:\n\n" + "\n".join(lines) + "\n\n"
    )


def page(cells: Sequence[Cell]) -> str:
    """Return the whole page."""
    cases = list(dict.fromkeys(c["case"] for c in cells))
    return "\n".join(
        [INTRODUCTION, *(table(k, [c for c in cells if c["case"] == k]) for k in cases)]
    )


INTRODUCTION = """# Find, fix, verify

`make reproduce-fix` writes this page; `make demo-fix` prints the first two tables from three seeds.
Each figure is a mean in per cent with a 95 % interval over seeds (Student's t). A seed draws the
weights, the order of the images, the halves of the test images and, of CIFAR-10, the class and the
place of the patch.

**Find.** Half of the test images are audited; the loop is told neither that there is a shortcut
nor where. `whence audit` proposes regions. One is accepted by a rule that knows no truth: its
pixels are alike from image to image, it carries at least eight times its share of the area, nine
of ten training images that show it are of one class, and it is the first of its class. If there is
none, `propose_shortcuts` looks for appearances: kinds of image cells that told the class in
training (area under the ROC curve) and do so less in the audited images, beyond chance at p <=
0.01. The exact masks serve to judge the proposal, and nothing else.

**Fix.** All ways take as many steps of AdamW from the same trained network. *Dropped*: without the
training images that show the proposal in their own class. *Prior*: the network becomes an X-DNN,
and `MaskEnergy` keeps input x gradient out of the proposed pixels. *Exchanged*: the proposed
pixels of every training image are those of other images, drawn anew every time
(`recipes/shortcut_exchange.py`); no prior, no conversion.

**Verify.** On the other half of the test images. Planted patch: *against* is accuracy on images of
all other classes with the patch put on, *taken in* how often they are given the patch's class,
*clean* accuracy without a patch. PetScenes64: *against* are images whose background is the other
class's, *clean* those in which both agree. *Trained without the bias*: from scratch, the same pets
on backgrounds drawn from the same photographs whatever the class.

Settings were chosen on seeds 0 and 1, which are not in the tables: the prior's weight of each case
(digits 10, CIFAR-10 10, PetScenes64 3), five epochs, the accepting rule.

Two limits that a reader should know. What is proposed rests on audited images in which the
shortcut does not come with the class: an audit of images with the same bias finds nothing. And a
network that heeds the shortcut alone shows nothing else to compare with, so that the objects are
proposed along with the ground.
"""
