"""A network explains itself in one pass: draws the pictures of the tutorial of that name.

A network with biases becomes an X-DNN and is fine-tuned. Input times gradient then is integrated
gradients from zero, and what the network predicts does not depend on the contrast.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

import whence
from whence.adapters import declared_preprocessing, load_data
from whence.convert import ROUTES, RefitLayers, x_dnn
from whence.display import enlarge, grey, jpeg_bytes, overlay, png_bytes, stretch_map
from whence.priors import fit

scaled = declared_preprocessing({"size": 32, "mean": 0.3, "std": 0.37}, "digits")
train, held = (load_data("digits", scaled, split=split) for split in ("train", "test"))
optimiser, seed = partial(torch.optim.AdamW, lr=2e-3), torch.Generator().manual_seed(0)
layers: list[nn.Module] = []
with torch.random.fork_rng():
    torch.manual_seed(0)
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    start = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 10)).eval()
plain = fit(start, train, epochs=8, optimiser=optimiser, generator=seed).model
images = next(train.batches(256)).images
converted = x_dnn(plain, images, routes=(*ROUTES, RefitLayers())).model
bare = fit(converted, train, epochs=3, optimiser=optimiser, generator=seed).model
test = next(held.batches(len(held)))


def accuracy(model: nn.Module, factor: float) -> float:
    """Return the share predicted right of images of this contrast."""
    with torch.no_grad():
        right = model(factor * test.images).argmax(dim=1) == test.labels
    return float(right.double().mean())


WAYS = {
    "biases: input x gradient": (plain, "input-x-gradient", {}),
    "biases: IG, 64 passes": (plain, "integrated-gradients", {"steps": 64}),
    "X-DNN: X-Gradient, 1 pass": (bare, "x-gradient", {}),
    "X-DNN: IG, 64 passes": (bare, "integrated-gradients", {"steps": 64}),
}
TILE, STEP, TOP, FONT = 144, 168, 24, ImageFont.load_default(13)
shown = [int((test.labels == digit).nonzero()[0]) for digit in (0, 3, 4, 9)]
sheet = Image.new("RGB", (STEP * (1 + len(WAYS)), TOP + STEP * len(shown)), "white")
draw = ImageDraw.Draw(sheet)
colours = (255 * (0.3 + 0.37 * test.images[shown])).round().permute(0, 2, 3, 1)
pictures = [enlarge(one, TILE) for one in colours.clamp(0, 255).byte().numpy()]
for row, picture in enumerate(pictures):
    sheet.paste(Image.fromarray(picture), (0, TOP + STEP * row))
for column, (title, (model, method, settings)) in enumerate(WAYS.items(), start=1):
    draw.text((STEP * column, 4), title, "black", FONT)
    found = whence.explain(model, test.images[shown], method=method, settings=settings)
    cells = np.asarray(found.values).reshape(len(shown), 3, 8, 4, 8, 4).sum(axis=(1, 3, 5))
    for row, (picture, values) in enumerate(zip(pictures, cells, strict=True)):
        smooth = stretch_map(values, TILE, TILE)
        tile = overlay(grey(picture), smooth, float(np.abs(values).max()))
        sheet.paste(Image.fromarray(tile), (STEP * column, TOP + STEP * row))
Path("one-pass.jpg").write_bytes(jpeg_bytes(np.asarray(sheet)))

chart = Image.new("RGB", (560, 300), "white")
draw = ImageDraw.Draw(chart)
for level in (0, 25, 50, 75, 100):
    draw.line([(60, 260 - 2.4 * level), (540, 260 - 2.4 * level)], "lightgrey")
    draw.text((20, 252 - 2.4 * level), f"{level} %", "black", FONT)
CURVES = {"biases": (plain, "#c05000", (300, 150)), "X-DNN": (bare, "#2060c0", (90, 32))}
for title, (model, ink, at) in CURVES.items():
    curve = [(60 + 480 * k, 260 - 240 * accuracy(model, k)) for k in np.linspace(0.05, 1, 20)]
    draw.line(curve, ink, 3)
    draw.text(at, title, ink, FONT)
    print(f"{title:8} accuracy {accuracy(model, 1):.1%}, at a tenth {accuracy(model, 0.1):.1%}")
draw.text((60, 272), "0     factor of images, towards their mean grey     1", "black", FONT)
Path("contrast.png").write_bytes(png_bytes(np.asarray(chart)))
