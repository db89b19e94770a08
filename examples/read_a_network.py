"""A model is read once, as a graph; tables, proofs and faster copies come from the graph.

The model is left as it was, and the graph holds its own parameters: training it later shows.
"""

import torch
from torch import nn

import whence


def block(channels: int, *, bias: bool) -> nn.Module:
    """Return a convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=bias), nn.BatchNorm2d(channels), nn.ReLU()
    )


model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), block(8, bias=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(8, 10),
).eval()  # fmt: skip
images = torch.rand(2, 3, 16, 16)

network = whence.Network.read(model, images)
print(network.describe(), "\n")

# Any number of images, the same logits to the bit.
more = torch.rand(7, 3, 16, 16)
assert torch.equal(network(more), model(more))

# Does scaling the image scale the logits? If not: what breaks it, and the cure.
verdict = network.homogeneity()
print(verdict, "\n")
assert not verdict.holds

without = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(8, 10, bias=False),
).eval()  # fmt: skip
proven = whence.Network.read(without, images)
print(proven.homogeneity())
assert torch.allclose(proven(3 * more), 3 * proven(more), rtol=1e-4, atol=1e-5)

# On such a network one pass of input times gradient is a complete attribution.
result = whence.explain(proven, more, method="input-x-gradient")
assert torch.allclose(result.conservation, torch.ones(7).double(), atol=1e-4)

# Batch norms folded into the convolutions before them: fewer operations, the same function.
folded = network.folded()
print(len(network.describe().rows), "operations,", len(folded.describe().rows), "after folding")
assert torch.allclose(folded(more), model(more), atol=1e-5)
