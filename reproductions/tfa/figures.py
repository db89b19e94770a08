"""The figures: charts of what was measured, and galleries of maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reproductions.tfa.experiments import FRACTIONS
from reproductions.tfa.pictures import Picture, gallery
from reproductions.tfa.plots import Chart, Line, bars, lines, sheet
from reproductions.tfa.stability import SAMPLES, SIGMAS
from reproductions.tfa.tables import groups_of, mean, of_kind, pooled

__all__ = ["CHARTS", "GALLERIES", "figures"]

COLOURS = {
    "tfa": "#d55e00",
    "influence-lrp": "#e0a000",
    "shared-evidence": "#0072b2",
    "shared-evidence, neutral": "#6fb7e6",
    "2: saliency": "#8a4fa0",
    "2: LRP": "#009e73",
    "2: Grad-CAM": "#8bc34a",
    "random pixels": "#9aa1ab",
}
CURVES = (
    "tfa",
    "shared-evidence",
    "2: saliency",
    "2: LRP",
    "2: Grad-CAM",
    "2: input x gradient",
    "random pixels",
)
EXTRA = {"2: input x gradient": "#c2185b"}

CHARTS = ("shortcut.svg", "insertion.svg", "smoothing.svg")
GALLERIES = {
    "shortcut": "shortcut-images.svg",
    "harmful": "harmful-examples.svg",
    "object": "objects.svg",
}
"""Galleries of the drawn shapes; those of photographs stay in the build folder."""

SAID = {
    "shortcut": "The shortcut: a query that fell for it, and one without it for the same image",
    "harmful": "Harmful examples: a misled query and the mislabelled image behind it",
    "object": "Correct queries and the training image with the highest score",
}


def figures(rows: Sequence[dict[str, Any]], out: Path) -> dict[str, str]:
    """Return the figures by file name; those that show photographs are written to ``out``."""
    groups = groups_of(of_kind(rows, "maps"))
    found = {}
    if groups:
        found["insertion.svg"] = insertion(groups)
        bars_of = shortcut(groups)
        if bars_of:
            found["shortcut.svg"] = bars_of
    ablated = of_kind(rows, "ablation")
    if ablated:
        found["smoothing.svg"] = smoothing(ablated)
    for file in sorted(out.glob("*.pictures.pt")):
        pictures: list[Picture] = torch.load(file, weights_only=False)
        for kind, name in GALLERIES.items():
            chosen = picked(pictures, kind)
            if not chosen:
                continue
            page = gallery(SAID[kind], chosen)
            if file.name.startswith("shapes-GELU"):
                found[name] = page
            else:
                (out / f"{file.name.split('.')[0]}-{name}").write_text(page, encoding="utf-8")
    return found


def picked(pictures: Sequence[Picture], kind: str) -> list[Picture]:
    """Return the first pictures of a kind; after each for a shortcut, the clean query's."""
    if kind == "shortcut":
        return [p for p in pictures if p.kind in ("shortcut", "contrast")][:4]
    return [p for p in pictures if p.kind == kind][:3]


def shortcut(groups: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """T1 and T2 as bars for each kind of data that has a shortcut; nothing if none has."""
    upper: list[Chart] = []
    lower: list[Chart] = []
    for title, rows in groups.items():
        if not pooled(rows, "tfa", "T1 rank"):
            continue
        for measure, charts in (("T1 rank", upper), ("T2 rank", lower)):
            values = {name: mean(pooled(rows, name, measure)) for name in COLOURS}
            colours = dict(COLOURS)
            cam = [r["facts"].get("Grad-CAM of the test image: rank accuracy") for r in rows]
            if measure == "T1 rank" and all(c is not None for c in cam):
                values = {CAM: mean(cam), **values}
                colours[CAM] = "#1c2026"
            charts.append(bars(f"{measure.split()[0]}: {short(title)}", values, colours))
    if not upper:
        return ""
    key = {CAM: "#1c2026", **COLOURS}
    title = (
        "Shortcut on the training image (T1, rank accuracy), and its fall for a clean query (T2)"
    )
    return sheet(title, [upper, lower], key)


CAM = "Grad-CAM on the test image"


def short(title: str) -> str:
    """Return a title that fits above a chart."""
    return title.replace("with squares, ResNet-20", "with squares")


def insertion(groups: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """T4: the score with only the highest pixels, and without them."""
    charts: list[list[Chart]] = [[], []]
    for title, rows in groups.items():
        for end, row in (("kept", charts[0]), ("gone", charts[1])):
            drawn = []
            for name in CURVES:
                own = [c for r in rows for c in r["curves"].get(name, {}).get(end, [])]
                if own:
                    means = [mean([curve[k] for curve in own]) for k in range(len(FRACTIONS))]
                    colour = {**COLOURS, **EXTRA}[name]
                    points = list(zip(FRACTIONS, means, strict=True))
                    drawn.append(Line(points=points, colour=colour))
            row.append(lines(short(title), drawn, FRACTIONS, f"pixels {end}"))
    key = {name: {**COLOURS, **EXTRA}[name] for name in CURVES}
    title = "Score of the training image with only its highest pixels (above), without them (below)"
    return sheet(title, charts, key)


def smoothing(rows: Sequence[dict[str, Any]]) -> str:
    """The ablation: insertion less deletion over sigma, a shade for each noise count."""
    shades = {
        "tfa": dict(zip(SAMPLES, ("#f2b48a", "#e58345", "#b34700"), strict=True)),
        "2: saliency": dict(zip(SAMPLES, ("#c9aed6", "#a06fb5", "#6a2f85"), strict=True)),
    }
    charts = []
    for row in rows:
        found = row["ablation"]
        drawn = []
        for kind, own in shades.items():
            for samples, colour in own.items():
                names = [f"{kind}, n = {samples}, sigma = {sigma}" for sigma in SIGMAS]
                points = [
                    (sigma, mean(found[name]["T4 gap"]))
                    for sigma, name in zip(SIGMAS, names, strict=True)
                ]
                drawn.append(Line(points=points, colour=colour))
        for name in ("tfa", "2: saliency", "shared-evidence"):
            level = mean(found[name]["T4 gap"])
            points = [(sigma, level) for sigma in SIGMAS]
            drawn.append(Line(points=points, colour=COLOURS[name], dashed=True))
        title = row["cell"].removeprefix("ablation: ").split(", seed")[0]
        charts.append(lines(short(title), drawn, SIGMAS, "sigma"))
    key = {f"tfa, n = {n}": c for n, c in shades["tfa"].items()}
    key |= {f"two-step saliency, n = {n}": c for n, c in shades["2: saliency"].items()}
    plain = ("tfa", "2: saliency", "shared-evidence")
    key |= {f"{n} without noise (dashed)": COLOURS[n] for n in plain}
    return sheet("Noise count and sigma of the smoothed map: T4, higher is better", [charts], key)
