"""Part c: accuracy as the contrast falls, a flat line against a falling one."""

from collections.abc import Mapping, Sequence
from html import escape

from reproductions.xdnn.accuracy import architectures, mean_and_error, of_seeds
from reproductions.xdnn.kept import Row, markdown
from reproductions.xdnn.networks import RESNET, RESNET20, VGG, VIT
from reproductions.xdnn.pictures import DATASETS
from reproductions.xdnn.training import CONVERTED, LONGER, REGULAR, TUNED
from whence.recipes.measure import CONTRASTS

WIDTH, HEIGHT, GAP, LEFT, TOP = 300, 230, 62, 52, 46
COLOURS = {VGG: "#0072b2", RESNET: "#d55e00", VIT: "#009e73", RESNET20: "#8a4fa0"}
INK, FAINT = "#1c2026", "#c9ced6"

Curve = tuple[float, ...]


def report(rows: Mapping[str, Row], picture: str) -> str:
    """Return the table and the figure."""
    lines = [
        [f"{dataset}, {architecture}", variant, *(f"{100 * value:.1f}" for value in curve)]
        for dataset in DATASETS
        for architecture in architectures(dataset)
        for variant in (REGULAR, LONGER, CONVERTED, TUNED)
        if (curve := curve_of(rows, dataset, architecture, variant))
    ]
    head = ["network", "variant", *(f"{factor:g}" for factor in CONTRASTS)]
    flat = all(
        max(row["contrast"]) == min(row["contrast"])
        for row in rows.values()
        if row["proven"] and row["images"]
    )
    said = "is the same at every contrast" if flat else "differs with the contrast"
    return (
        f"Accuracy in per cent on images multiplied by a factor in the model's units, towards the "
        f"mean colour; at most 1 000 test images. The accuracy of every X-DNN {said}.\n\n"
        f"![Accuracy over contrast: X-DNNs are flat, regular networks fall]({picture})\n\n"
        f"{markdown(head, lines)}\n\n"
        f"The paper's figure shows the same of AlexNet on ImageNet: top-1 55.5 at every contrast "
        f"for the X-DNN; 56.6 at full contrast, and falling, for the regular network."
    )


def curve_of(
    rows: Mapping[str, Row], dataset: str, architecture: str, variant: str
) -> Curve | None:
    """Return the mean curve of a network over its seeds, if it was measured."""
    found = of_seeds(rows, dataset, architecture, variant)
    if not found:
        return None
    points = zip(*(row["contrast"] for row in found), strict=True)
    return tuple(mean_and_error(list(values))[0] for values in points)


def figure(rows: Mapping[str, Row]) -> str:
    """Return the figure as SVG: a panel for each dataset, a colour for each architecture."""
    width = LEFT + len(DATASETS) * (WIDTH + GAP) + 60
    box = f'viewBox="0 0 {width} {TOP + HEIGHT + 62}"'
    style = f'font-family="sans-serif" font-size="12" fill="{INK}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {style}>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for number, dataset in enumerate(DATASETS):
        parts += panel(rows, dataset, LEFT + number * (WIDTH + GAP))
    parts += key(LEFT + len(DATASETS) * (WIDTH + GAP) - GAP + 14)
    return "\n".join([*parts, "</svg>", ""])


def panel(rows: Mapping[str, Row], dataset: str, left: int) -> list[str]:
    """Return one panel: axes, and two lines for each architecture."""
    bottom = TOP + HEIGHT
    parts = [text(left, TOP - 16, dataset, weight="bold")]
    for value in range(0, 101, 20):
        y = bottom - HEIGHT * value / 100
        parts.append(line([(left, y), (left + WIDTH, y)], FAINT, 0.7))
        parts.append(text(left - 8, y + 4, f"{value}", anchor="end"))
    parts += [
        text(across(left, factor), bottom + 18, f"{factor:g}", anchor="middle")
        for factor in CONTRASTS[::3]
    ]
    parts.append(text(left + WIDTH / 2, bottom + 38, "contrast", anchor="middle"))
    for architecture in architectures(dataset):
        regular = LONGER if architecture == RESNET20 else REGULAR
        for variant, dashes in ((regular, "5 4"), (TUNED, "")):
            curve = curve_of(rows, dataset, architecture, variant)
            if curve is not None:
                places = [
                    (across(left, factor), bottom - HEIGHT * value)
                    for factor, value in zip(CONTRASTS, curve, strict=True)
                ]
                parts.append(line(places, COLOURS[architecture], 2.2, dashes))
    if dataset == DATASETS[0]:
        parts.append(text(left - 40, TOP - 34, "accuracy, per cent"))
    return parts


def key(left: float) -> list[str]:
    """Return the key: colours are architectures, dashes are regular networks."""
    parts = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        y = TOP + 8 + 20 * number
        parts += [line([(left, y), (left + 16, y)], colour, 2.2), text(left + 22, y + 4, name)]
    for number, (name, dashes) in enumerate((("X-DNN", ""), ("regular", "5 4"))):
        y = TOP + 108 + 20 * number
        parts += [line([(left, y), (left + 16, y)], INK, 2.2, dashes), text(left + 22, y + 4, name)]
    return parts


def across(left: float, factor: float) -> float:
    """Return the place of a contrast: full contrast on the left."""
    return left + WIDTH * (CONTRASTS[0] - factor) / (CONTRASTS[0] - CONTRASTS[-1])


def line(places: Sequence[tuple[float, float]], colour: str, width: float, dashes: str = "") -> str:
    """Return a line through places."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{style}/>'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    """Return words at a place."""
    style = f'text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
