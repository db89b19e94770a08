"""A network cut in two: Grad-CAM in five lines, and the same from the catalogue.

``network.cut()`` finds the last feature map that every pixel influences and returns what comes
before it, ``head``, and what comes after, ``tail``. Anything that needs a layer is built on it.
"""

import torch
from torch.nn import functional

import whence
from whence.adapters import LoadedModel
from whence.core import ImageData
from whence.recipes import planted_digits, train_network


def trained_on_digits() -> tuple[LoadedModel, ImageData]:
    """Return a small network, trained for a second, and test images of digits."""
    digits = planted_digits(probes=0)
    return train_network(digits, epochs=3), digits.test


def main() -> None:
    """Cut the network, weigh its feature maps, and compare."""
    model, data = trained_on_digits()
    (batch,) = data.batches(8, range(8))
    network = whence.Network.read(model.module, batch.images)
    cut = network.cut()
    print(f"cut at {cut.node}, module {cut.path or 'forward'}")

    with torch.no_grad():
        activation, *others = cut.head(batch.images)
    activation.requires_grad_()
    logit = cut.tail(activation, *others).amax(dim=1)
    (slope,) = torch.autograd.grad(logit.sum(), activation)
    weights = slope.mean(dim=(2, 3), keepdim=True)
    by_hand = (weights * activation).sum(dim=1, keepdim=True).relu()
    by_hand = functional.interpolate(by_hand, size=batch.images.shape[2:], mode="bilinear")

    result = whence.explain(network, batch.images, method="grad-cam")
    assert torch.allclose(result.values, by_hand, atol=1e-6)
    print(f"Grad-CAM by hand and from the catalogue agree; {result.cost} passes per image")


if __name__ == "__main__":
    main()
