"""Does one network see what the map of another shows, and more than any mask would have left?

Two small networks learn the digits; each is shown the features of the other's maps, and the same
images behind the masks of other images.
"""

import torch
from torch import nn

import whence
from whence.adapters import declared_preprocessing, load_data
from whence.core import TensorData

SIDE = 8


def digits(split: str) -> TensorData:
    """Return scikit-learn's digits in pixels from 0 to 1."""
    how = declared_preprocessing(
        {"size": SIDE, "channels": 1, "mean": 0.0, "std": 1.0}, "the example"
    )
    parts = list(load_data("digits", how, split=split).batches(500))
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.labels for part in parts])
    return TensorData(images=images, labels=labels, title=f"digits ({split})")


def trained(model: nn.Module, data: TensorData) -> nn.Module:
    """Return a network after a short training."""
    assert data.labels is not None
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        rows = torch.randint(len(data), (128,), generator=generator)
        loss = nn.functional.cross_entropy(model(data.images[rows]), data.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


train, test = digits("train"), digits("test")
with torch.random.fork_rng():
    torch.manual_seed(0)
    convolutional = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * SIDE**2, 10),
    )
    dense = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 64), nn.ReLU(), nn.Linear(64, 10))

record = whence.transfer(
    {"conv": trained(convolutional, train), "dense": trained(dense, train)},
    test,
    bank=train,
    methods={"SS": "ss-modified:steps=60,draws=2,scale=1,rate=0.1", "IG": "integrated-gradients"},
    fills=("zero",),
    coverages=(0.25,),
    count=100,
    out="harmony",
)
for row in record.rows:
    if row.shown == "features" and row.mask == "25 %" and row.generator != row.evaluator:
        print(f"{row.method} of {row.generator:5} seen by {row.evaluator:5}: {row.accuracy}")
        print(f"    less that behind masks of other images: {row.advantage}")

shown = record.row("dense", "features", generator="conv", method="SS", mask="25 %", fill="zero")
assert shown is not None
assert shown.advantage is not None
assert shown.advantage.low > 0
print("written: harmony/report.html")
