"""The page of results, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reproductions.tfa.figures import CHARTS, GALLERIES, SAID
from reproductions.tfa.stability import SAMPLES, SIGMAS
from reproductions.tfa.tables import (
    JUDGED,
    KEPT,
    LOST,
    Rows,
    against,
    beside,
    comparison,
    groups_of,
    interval,
    mean,
    of_kind,
    table,
    tally,
)

__all__ = ["report"]

CHOSEN = (
    "The best of the six two-step maps is chosen anew for each line, after the fact, which favours "
    "it. Intervals: bootstrap over pairs of query and training image."
)

PRICE = (
    "CPU time of the maps of 16 training images for one query, in training steps (forward and full "
    "backward) of the same batch; the re-use of what knows no query is not counted."
)

OURS = ("tfa", "shared-evidence", "shared-evidence, neutral", "shared-evidence, strict")

INTRODUCTION = """# Training-feature maps: T1 to T7

Made by `python -m reproductions.tfa`; every number below was printed by it.

Rows that begin with `2:` are the two-step baseline: retrieve by Grad-Cos, then an ordinary
attribution of the retrieved image for its own label, which knows no query. `tfa` is the map of
Bacha and George (2025). Re-initialised rows are made on the network with other weights; `contrast
alone` is how much a pixel differs from the blurred image, and knows no network at all: where it
is high (the square and the object on drawn shapes), a measure is easy.
`shared-evidence` is the default of `whence`; `neutral` leaves out what the query shares with an
average image of the training image's class, and `strict` gives no weight to what has no evidence
for the label. The floor that tells the default from `strict` was chosen on other seeds (10, 11).

- **T1**: the shortcut on training images that carry it (the planted square; of scenes the
  background), for queries that fell for it: rank accuracy, mass over area share, pointing game.
- **T2**: by how much T1 falls for a query of the same class without the shortcut, same training
  images; a map that ignores the query gets 0. Alike: rank correlation of the maps for both.
- **T3**: the object on the training images, for correct queries: rank accuracy, mass over area.
- **T4**: the cosine of the training image in its highest pixels alone, less that without them;
  pixels are replaced by the image's own in another order and by noise. No map was made with
  these fills (occlusion blurs; input x gradient is in effect made with zero).
- **T5**: on mislabelled images behind an error: the object that misled.
- **T6**: correlation of what a map says of rectangles with the change when they are hidden, by
  their pixels in another order.
- **T7**: rank correlation of maps between networks, checkpoints and draws of noise.
- **step T4, step T6, SGD T6**: T4 and T6 with nothing linearised. The weights are moved along the
  gradient of the changed training image and the query is classified again: a step of fixed length
  (0.02), and one of plain SGD (rate 0.01), which also answers to how long the gradient is.

Mass and hit reward sharp maps (the square of any map has more mass in the same place); rank
accuracy, T4 and the sign of T2 do not.

Data: drawn shapes with masks, a planted square and mislabelled images; lossless CIFAR-10 with the
trained ResNet-20 as it is; the same fine-tuned (four epochs) on 2 000 images with a red square on
nine of ten airplanes and on 4 % of the others, labelled airplanes, and with 40 % of cats labelled
dogs; cats and dogs on reefs and alps with exact masks (the background is the natural shortcut);
Tiny-ImageNet with boxes; pets with trimaps. Small convolutional networks where none is named.
"""


def report(every: Rows) -> str:
    """Return the whole page."""
    groups = groups_of(of_kind(every, "maps"))
    lines = [INTRODUCTION, *verdicts(groups), *tally(groups)]
    for ours in OURS:
        lines += [
            f"## `{ours}` less the best two-step map",
            "",
            CHOSEN,
            "",
            "| data and network | measure | ours | best two-step map | difference | |",
            "|--|--|--|--|--|--|",
        ]
        for title, own in groups.items():
            lines += against(title, own, ours)
        lines.append("")
    lines += apart(groups)
    lines += shown()
    lines += ["## Each kind of data"]
    for title, own in groups.items():
        seeds = f", {len(own)} seeds" if len(own) > 1 else ""
        lines += table(f"{title}{seeds}", own)
    lines += removed(of_kind(every, "removal"))
    lines += painted(of_kind(every, "pixels"))
    lines += stable(of_kind(every, "stability"))
    lines += ablated(of_kind(every, "ablation"))
    lines += prices(of_kind(every, "cost"))
    spent = sum(row["cpu"] for row in every)
    said = (
        f"{len(every)} cells, {spent / 60:.0f} minutes of processor time in all, trainings "
        f"included: about {spent / 120:.0f} minutes on two cores. Networks whose weights were kept "
        f"from a run before were not trained again."
    )
    return "\n".join([*lines, "", said, ""])


def verdicts(groups: Mapping[str, Rows]) -> list[str]:
    """Say plainly where maps beat the best two-step map and where they do not."""
    lines = ["## In short", ""]
    for ours in OURS:
        found: dict[str, list[str]] = {"better": [], "no difference": [], "worse": []}
        for title, rows in groups.items():
            for measure in JUDGED:
                pair = comparison(rows, ours, measure)
                if pair is not None:
                    low, high = interval(pair[3])
                    kind = "better" if low > 0 else "worse" if high < 0 else "no difference"
                    found[kind].append(f"{measure.split()[0]} on {title}")
        counts = {kind: len(names) for kind, names in found.items()}
        lines.append(
            f"- `{ours}` against the best of six two-step maps: better in {counts['better']}, no "
            f"difference in {counts['no difference']}, worse in {counts['worse']}. Better: "
            f"{'; '.join(found['better']) or 'nowhere'}. Worse: "
            f"{'; '.join(found['worse']) or 'nowhere'}."
        )
    for ours in OURS[:2]:
        for measure in (KEPT, LOST):
            verdict = {t: beside(rows, ours, RANDOM, measure) for t, rows in groups.items()}
            said = ", ".join(f"{title} {word}" for title, word in verdict.items() if word)
            lines.append(f"- `{ours}` against random pixels, {measure}: {said}.")
    return [*lines, ""]


RANDOM = "random pixels"


def apart(groups: Mapping[str, Rows]) -> list[str]:
    """Return the two parts of T4 for the paper's map and the default."""
    said = (
        "The two parts of T4. Kept: the score of the highest pixels alone. Lost: by how much the "
        "score falls without them. Both are shares of the whole score, and means over fractions "
        "and fills. Input x gradient picks single pixels of high contrast: taking those away "
        "destroys an image at once, keeping them alone shows little."
    )
    lines = ["## Insertion and deletion apart", "", said]
    for ours in OURS[:2]:
        lines += ["", *grid(["data and network", "", f"`{ours}`", *HEADS], [])]
        for title, rows in groups.items():
            lines += against(title, rows, ours, (KEPT, LOST))
    return [*lines, ""]


HEADS = ("best two-step map", "difference", "")


def shown() -> list[str]:
    """Return the figures of the page."""
    lines = ["## Figures", ""]
    words = {
        "shortcut.svg": "Shortcut and test dependence by map",
        "insertion.svg": "Insertion and deletion of training pixels",
        "smoothing.svg": "Noise count and sigma",
    }
    lines += [f"![{words[name]}]({name})\n" for name in CHARTS]
    lines += [f"![{SAID[kind]}]({name})\n" for kind, name in GALLERIES.items()]
    said = (
        "The same galleries of CIFAR-10, scenes, boxes and pets are written to `build/tfa`: the "
        "photographs may not be handed on."
    )
    return [*lines, said, ""]


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table."""
    lines = [f"| {' | '.join(head)} |", "|--|" + "--|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def removed(rows: Rows) -> list[str]:
    """Return the tables of training without harmful images."""
    if not rows:
        return []
    said = (
        "Misled test images are the queries; the images with the highest summed score for the "
        "wrong label are left out, as many as are mislabelled, and the network is trained again "
        "from the same start. Repaired: the share of other misled test images (more drawn shapes; "
        "of CIFAR-10 every second one) that is then right. The two-step baseline retrieves the "
        "same images; `features` is similarity of the last features."
    )
    lines = ["", "## Harmful images, left out of the training", "", said]
    for row in rows:
        lines += ["", f"### {named(row)}: {row['errors'][0]} queries, {row['errors'][1]} judge", ""]
        cells = [
            [
                name,
                f"{own['left out']}",
                "" if own["left out"] == 0 else f"{own['mislabelled among them']:.2f}",
                f"{own['errors repaired']:.2f}",
                f"{own['accuracy']:.3f}",
            ]
            for name, own in row["removal"].items()
        ]
        head = ["left out", "images", "mislabelled among them", "errors repaired", "accuracy"]
        lines += grid(head, cells)
    return lines


def painted(rows: Rows) -> list[str]:
    """Return the tables of training without the pixels that maps show."""
    if not rows:
        return []
    said = (
        "In every training image of the square's class the highest tenth of a map's pixels is "
        "replaced by the image's own in another order, and the network is trained again. Maps are "
        "for the summed score of 16 queries that fell for the square. Misled: the share of test "
        "images of other classes, with the square, that are taken for the square's class. Any "
        "painting of one class alone is a new mark of it, random pixels too, which misled does not "
        "tell apart and the accuracy pays for: the share of the square is the telling column."
    )
    lines = ["", "## The shortcut's pixels, painted over before the training", "", said]
    for row in rows:
        lines += ["", f"### {named(row)}", ""]
        cells = [
            [
                name,
                f"{own['of the square painted over']:.2f}"
                if "of the square painted over" in own
                else "",
                f"{own['misled by the square']:.3f}",
                f"{own['accuracy']:.3f}",
            ]
            for name, own in row["pixels"].items()
        ]
        lines += grid(["map", "of the square painted over", "misled", "accuracy"], cells)
    return lines


def stable(rows: Rows) -> list[str]:
    """Return T7 over training seeds and checkpoints."""
    if not rows:
        return []
    kinds = list(dict.fromkeys(k for row in rows for k in row["stability"]["tfa"]))
    names = list(dict.fromkeys(n for row in rows for n in row["stability"]))
    said = (
        "Mean rank correlation of a map with that of the same pair in the same network trained "
        "with another seed, or earlier in its training. A map may be stable because it knows no "
        "query: read it beside T2."
    )
    lines = ["", "## T7: other trainings, and earlier checkpoints", "", said]
    for kind in kinds:
        cells = [
            [name, *(f"{mean(row['stability'].get(name, {}).get(kind, [])):.3f}" for row in rows)]
            for name in names
        ]
        lines += ["", f"### {kind}", "", *grid(["map", *(named(row) for row in rows)], cells)]
    return lines


def ablated(rows: Rows) -> list[str]:
    """Return the ablation of noise count and sigma."""
    if not rows:
        return []
    said = (
        "T7: rank correlation between two draws of the noise. T4, and T1 (rank accuracy of the "
        "square), of one draw. The two-step saliency is smoothed alike."
    )
    lines = ["", "## Noise count and sigma of the paper's smoothed map", "", said]
    names = list(dict.fromkeys(n for row in rows for n in row["ablation"]))
    order = [f"n = {n}, sigma = {s}" for n in SAMPLES for s in SIGMAS]
    plain = [n for n in names if "sigma" not in n]
    for row in rows:
        cells = []
        for label in order:
            own = [row["ablation"][f"{kind}, {label}"] for kind in ("tfa", "2: saliency")]
            cells.append(
                [label, *(number(one, m) for one in own for m in ("T7", "T4 gap", "T1 rank"))]
            )
        lines += ["", f"### {named(row)}", ""]
        head = ["", *(f"{k} {m}" for k in ("tfa", "2: saliency") for m in ("T7", "T4", "T1"))]
        lines += grid(head, cells)
        lines += ["", "Without noise:", ""]
        cells = [
            [name, *(number(row["ablation"][name], m) for m in ("T4 gap", "T1 rank"))]
            for name in plain
        ]
        lines += grid(["map", "T4", "T1"], cells)
    return lines


def number(found: Mapping[str, Sequence[float]], measure: str) -> str:
    """Return a mean, or nothing."""
    return f"{mean(found[measure]):.3f}" if found.get(measure) else ""


def prices(rows: Rows) -> list[str]:
    """Return the table of costs."""
    if not rows:
        return []
    lines = ["", "## Cost", "", PRICE, ""]
    cells = [[name, *(f"{row['cost'][name]:.1f}" for row in rows)] for name in rows[0]["cost"]]
    return lines + grid(["map", *(named(row) for row in rows)], cells)


def named(row: Mapping[str, Any]) -> str:
    """Return what a cell is about."""
    return str(row["cell"]).split(": ", 1)[-1]
