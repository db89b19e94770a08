"""The manual's gallery: figures for a paper, each in a line or two.

    python examples/gallery.py                  the digits, with a planted shortcut
    python examples/gallery.py WEIGHTS          photographs, with a MobileNetV2's weights

Figures are written into the folder ``gallery``. The photographs are scikit-image's own: the
astronaut and the rocket are in the public domain, the cat and the coffee CC0.
"""

import sys
from pathlib import Path

import torch
from skimage import data

import whence
from whence.adapters import load_model
from whence.core import Margin
from whence.display import method_figure, training_figure
from whence.influence import influence
from whence.recipes import planted_digits, train_network
from whence.training_features import training_features

OUT = Path("gallery")
METHODS = ("input-x-gradient", "integrated-gradients", "grad-cam")


def of_digits() -> None:
    """Maps, training features, insertion curves and ranks on a network that took a shortcut."""
    digits = planted_digits(seed=0)
    model = train_network(digits, epochs=4, seed=0)
    images = next(digits.test.batches(6, digits.probes[:6])).images
    explained = whence.explain(model, images)
    explained.figure().save(OUT / "maps.png")

    network = whence.Network.read(model.module, images)
    shown = Margin(explained.predictions)
    scores = influence(network, digits.train, images, shown)
    best = [*scores.proponents(4).indices[0].tolist(), *scores.opponents(3).indices[0].tolist()]
    panels = training_features(scores, 0, digits.train, best).panels
    figure = training_figure(explained.record.panels[0], panels[:4], panels[4:])
    figure.save(OUT / "training-features.png")

    judged = whence.evaluate(
        model,
        digits.test,
        methods=("gradient", *METHODS),
        metrics=("insertion", "deletion", "srg", "gini"),
        controls=("centre-map",),
        count=32,
    )
    name = judged.networks[0].name
    judged.curve_figure(name, "insertion").save(OUT / "insertion.svg")
    judged.rank_figure(name).save(OUT / "ranks.svg")


def of_photographs(weights: str) -> None:
    """Four methods on four photographs; each row has its own scale."""
    factory = Path(__file__).with_name("mobilenet_v2_tf.py")
    model = load_model(f"{factory}:mobilenet_v2_tf", weights=weights)
    pictures = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    images = torch.stack([model.preprocessing.tensor(picture) for picture in pictures])
    rows, windows = {}, {"window": 32, "stride": 16}
    for method in (*METHODS, "occlusion"):
        settings = windows if method == "occlusion" else None
        found = whence.explain(model, images, method=method, settings=settings).record
        rows[method] = [one.values for one in found.maps]
    titles = [found.model.classes[k] for k in found.predictions]
    method_figure(found.pictures, rows, titles=titles).save(OUT / "methods.png", dpi=100)


def main() -> None:
    """Draw the figures."""
    OUT.mkdir(exist_ok=True)
    of_photographs(sys.argv[1]) if len(sys.argv) > 1 else of_digits()
    print(*sorted(path.as_posix() for path in OUT.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
