"""Which maps can be trusted? Four methods on a network that took a shortcut, beside controls.

Half of the training images of one class carry a red patch. The network has learnt to look at it,
so on test images with the patch a faithful map must find it, and its mask says whether it does.
"""

import torch
from torch import Tensor

import whence
from whence.core import ImageData
from whence.recipes import planted_digits, train_network

PATCH = 0.5


def masks_of(data: ImageData) -> Tensor:
    """Return where the images have the patch: red, and neither green nor blue."""
    (batch,) = data.batches(len(data))
    red, green, blue = batch.images.unbind(dim=1)
    return ((red - torch.maximum(green, blue)) > PATCH).float()[:, None]


def main() -> None:
    """Train, judge, and print what can be claimed."""
    digits = planted_digits(probes=40)
    model = train_network(digits, epochs=4)
    masks = masks_of(digits.test)
    record = whence.evaluate(
        model,
        digits.test,
        methods=("gradient", "input-x-gradient", "integrated-gradients:steps=8", "grad-cam"),
        metrics=("deletion:steps=8", "relevance-rank"),
        masks=masks,
        count=len(digits.test),
        batch_size=100,
    )
    network = record.networks[0].name
    for metric in ("deletion:steps=8", "relevance-rank"):
        print(f"\n{metric}")
        for method in record.methods:
            score = record.score(network, metric, method.name)
            if score.estimate is not None:
                mean, low, high = score.estimate.mean, score.estimate.low, score.estimate.high
                print(f"{method.name:30} {mean:.3f} [{low:.3f}, {high:.3f}] {score.verdict}")
    found = record.score(network, "relevance-rank", "integrated-gradients:steps=8")
    print(f"\njudged on {found.values.size - sum(found.undefined.values())} images with the patch")
    assert found.verdict == "better"


if __name__ == "__main__":
    main()
