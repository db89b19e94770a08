"""The tables, in Markdown."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["report"]

MEASURES = (
    "T1 rank",
    "T1 mass",
    "T1 hit",
    "T2 rank",
    "T2 mass",
    "T3 rank",
    "T3 mass",
    "T4 gap",
    "T5 rank",
    "T5 mass",
    "T6",
)
"""Higher is better in all of them."""

JUDGED = ("T1 rank", "T2 rank", "T3 rank", "T4 gap", "T5 rank", "T6")
"""Those that no sharpening of a map changes, one for each experiment."""

CHOSEN = (
    "The best of the two-step maps is chosen anew for each line, after the fact, which favours it. "
    "Intervals: bootstrap over pairs of query and training image."
)

COUNTED = (
    "Better / no difference / worse, over all kinds of data and the rank accuracy of T1, T2, T3 "
    "and T5, T4 and T6 where they were measured; by whether the 95 % interval of the paired "
    "difference holds 0."
)

PRICE = (
    "CPU time of the maps of 16 training images for one query, in training steps (forward and full "
    "backward) of the same batch; the re-use of what knows no query is not counted."
)

OURS = ("shared-evidence", "shared-evidence, neutral")

INTRODUCTION = """# Training-feature maps: T1 to T7

Made by `python -m reproductions.tfa`; every number below was printed by it.

Rows that begin with `2:` are the two-step baseline: retrieve by Grad-Cos, then an ordinary
attribution of the retrieved image for its own label, which knows no query. `tfa` is the paper's
map. Re-initialised rows are made on the network with other weights.

- **T1**: the shortcut on training images that carry it (shapes: the planted square; scenes: the
  background), for queries that fell for it: rank accuracy, mass over area share, pointing game.
- **T2**: by how much T1 falls for a query of the same class without the shortcut, same training
  images; a map that ignores the query gets 0.
- **T3**: the object on the training images, for correct queries: rank accuracy, mass over area.
- **T4**: the cosine of the training image in its highest pixels alone, less that without them;
  pixels are replaced by the image's own in another order and by noise. No map was made with
  these fills (occlusion blurs; input x gradient is in effect made with zero).
- **T5**: on mislabelled images behind an error: the object that misled.
- **T6**: correlation of what a map says of rectangles with the change when they are hidden, by
  their pixels in another order.

Mass and hit reward sharp maps (the square of any map has more mass in the same place); rank
accuracy, T4 and the sign of T2 do not.
"""


def mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers."""
    own = [v for v in values if v == v]  # noqa: PLR0124 - NaN is not itself
    return sum(own) / len(own) if own else float("nan")


def names_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the maps of some cells, in order."""
    found: dict[str, None] = {}
    for row in rows:
        found.update(dict.fromkeys(n for n in row["rows"] if not n.startswith("tfa-smoothed")))
    return list(found)


def pooled(rows: Sequence[dict[str, Any]], name: str, measure: str) -> list[float]:
    """Return the values of a map over several cells."""
    return [v for row in rows for v in row["rows"].get(name, {}).get(measure, [])]


def table(title: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of some cells: the mean over all pairs of query and training image."""
    measures = [m for m in MEASURES if any(pooled(rows, n, m) for n in names_of(rows))]
    lines = ["", f"## {title}", ""]
    facts = {
        key: [r["facts"][key] for r in rows if key in r["facts"]]
        for r in rows
        for key in r["facts"]
    }
    lines += [f"- {key}: {', '.join(f'{v:.3f}' for v in values)}" for key, values in facts.items()]
    counts = [f"{m}: {len(pooled(rows, OURS[0], m))}" for m in measures]
    lines += [f"- pairs: {', '.join(counts)}", ""]
    lines += [f"| map | {' | '.join(measures)} |", "|--|" + "--|" * len(measures)]
    for name in names_of(rows):
        cells = []
        for measure in measures:
            every = {n: mean(pooled(rows, n, measure)) for n in names_of(rows)}
            own = every[name]
            best = max(v for v in every.values() if v == v)  # noqa: PLR0124
            text = "" if own != own else f"{own:.3f}"  # noqa: PLR0124
            cells.append(f"**{text}**" if own == best else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def against(title: str, rows: Sequence[dict[str, Any]], ours: str) -> list[str]:
    """Return one line for each experiment: ours less the best two-step map, with an interval."""
    names = [n for n in names_of(rows) if n.startswith("2: ")]
    lines = []
    for measure in JUDGED:
        own = torch.tensor(pooled(rows, ours, measure), dtype=torch.float64)
        if not len(own):
            continue
        best = max(names, key=lambda n, m=measure: mean(pooled(rows, n, m)))
        other = torch.tensor(pooled(rows, best, measure), dtype=torch.float64)
        gap = (own - other)[(own - other).isfinite()]
        low, high = interval(gap)
        verdict = "better" if low > 0 else "worse" if high < 0 else "no difference"
        lines.append(
            f"| {title} | {measure} | {float(own.nanmean()):.3f} | {best[3:]} "
            f"{float(other.nanmean()):.3f} | {float(gap.mean()):+.3f} [{low:+.3f}, {high:+.3f}] | "
            f"{verdict} |"
        )
    return lines


def tally(groups: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return how often each training-feature map is better and worse than each two-step map."""
    every = [n for rows in groups.values() for n in names_of(rows)]
    names = list(dict.fromkeys(every))
    others = [n for n in names if n.startswith("2: ")]
    ours = [n for n in names if not n.startswith("2: ") and "re-" not in n and "random" not in n]
    lines = ["## Each map against each two-step map", "", COUNTED, ""]
    lines += [f"| map | {' | '.join(n[3:] for n in others)} |", "|--|" + "--|" * len(others)]
    for name in ours:
        cells = []
        for other in others:
            found = [
                verdict(rows, name, other, measure)
                for rows in groups.values()
                for measure in JUDGED
            ]
            better, same, worse = (found.count(k) for k in (1, 0, -1))
            cells.append(f"{better} / {same} / {worse}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def verdict(rows: Sequence[dict[str, Any]], ours: str, other: str, measure: str) -> int | None:
    """Return 1 if ours is better, -1 if it is worse, 0 if neither, None if it was not measured."""
    pair = [torch.tensor(pooled(rows, n, measure), dtype=torch.float64) for n in (ours, other)]
    if not len(pair[0]) or not len(pair[1]):
        return None
    gap = (pair[0] - pair[1])[(pair[0] - pair[1]).isfinite()]
    low, high = interval(gap)
    return int(low > 0) - int(high < 0)


def interval(values: Tensor) -> tuple[float, float]:
    """Return the ends of the 95 % bootstrap interval of the mean."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(values), (2000, len(values)), generator=generator)
    means = values[draws].mean(dim=1)
    ends = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def groups_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the cells by what they share but the seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["cell"].split(", seed")[0], []).append(row)
    return found


def prices(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of costs."""
    if not rows:
        return []
    titles = [row["cell"].removeprefix("cost: ").split(", seed")[0] for row in rows]
    lines = ["", "## Cost", "", PRICE, ""]
    lines += [f"| map | {' | '.join(titles)} |", "|--|" + "--|" * len(rows)]
    for name in rows[0]["cost"]:
        own = " | ".join(f"{row['cost'][name]:.1f}" for row in rows)
        lines.append(f"| {name} | {own} |")
    return lines


def report(every: Sequence[dict[str, Any]]) -> str:
    """Return all tables."""
    rows = [row for row in every if "rows" in row]
    lines = [INTRODUCTION]
    groups = groups_of(rows)
    lines += tally(groups)
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
    for title, own in groups.items():
        seeds = f", {len(own)} seeds" if len(own) > 1 else ""
        lines += table(f"{title}{seeds}", own)
    smoothed = sorted({n for row in rows for n in row["rows"] if n.startswith("tfa-smoothed")})
    if smoothed:
        lines += ["", "## T7 and the ablation of the paper's smoothed map", ""]
        lines += ["Rank correlation between two seeds of the noise, and T4.", ""]
        lines += ["| map | rank correlation | T4 gap |", "|--|--|--|"]
        for name in smoothed:
            both = [mean(pooled(rows, name, m)) for m in ("T7", "T4 gap")]
            lines.append(f"| {name} | {both[0]:.3f} | {both[1]:+.3f} |")
    lines += prices([row for row in every if "cost" in row])
    spent = sum(row["cpu"] for row in rows)
    lines += ["", f"{len(rows)} networks, {spent / 60:.0f} minutes of one core.", ""]
    return "\n".join(lines)
