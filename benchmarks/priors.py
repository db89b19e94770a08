"""What a prior costs: a training step with it beside a plain step, and beside eight references.

python -m benchmarks.priors
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, paired, table
from whence.attribution import ExpectedGradients, InputXGradient, References
from whence.core import Method
from whence.priors import GiniSparsity, MeanMap, Prior, prior_loss

IMAGES, SIDE, CLASSES = 64, 32, 10
GOAL, FASTER = 2.2, 1 / 3


class Block(nn.Module):
    """Two convolutions and a shortcut, without norms and biases."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.short = (
            nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 else nn.Identity()
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return the block's output."""
        inner: Tensor = self.second(functional.relu(self.first(values)))
        return functional.relu(inner + self.short(values))


def vgg() -> nn.Module:
    """Return a VGG of six convolutions, 0.3 million weights."""
    layers: list[nn.Module] = []
    before = 3
    for width in (32, 64, 128):
        for channels in (width, width):
            layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, CLASSES, bias=False))


def resnet() -> nn.Module:
    """Return a residual network of six blocks."""
    blocks = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.ReLU(),
        *(Block(*shape) for shape in blocks),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, CLASSES, bias=False),
    )


def flops(step: Callable[[], object]) -> int:
    """Return the floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def compared(name: str, model: nn.Module) -> tuple[list[Row], str]:
    """Return the rows of a model, and its operations in a line."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)

    def plain() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    def step(method: Method) -> Callable[[], None]:
        prior = Prior(method=method, penalty=MeanMap(penalty=GiniSparsity()))

        def run() -> None:
            optimiser.zero_grad()
            prior_loss(model, images, labels, prior=prior).total.backward()
            optimiser.step()

        return run

    ours, bank = step(InputXGradient()), References(images=images)
    drawn = step(ExpectedGradients(references=bank, samples=8, shared=False))
    called = f"{name}, a step with an X-Gradient prior"
    rows = [
        paired(ours, plain, name=called, against="a plain step", goal=GOAL),
        paired(ours, drawn, name=called, against="with EG(8)", goal=FASTER, rounds=3),
    ]
    spent = [flops(one) for one in (plain, ours, drawn)]
    line = (
        f"{name}: a step with an X-Gradient prior has {spent[1] / spent[0]:.2f} plain steps' "
        f"operations, with EG(8) {spent[2] / spent[0]:.1f}"
    )
    return rows, line


def main() -> int:
    """Print the table, and the operations, which do not depend on the machine."""
    rows: list[Row] = []
    counted: list[str] = []
    for name, model in (("VGG", vgg()), ("ResNet", resnet())):
        measured, line = compared(name, model)
        rows += measured
        counted.append(line)
    print(table(rows))
    print("\n".join(counted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
