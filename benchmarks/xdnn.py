"""What an X-DNN saves: an explanation beside a pass and beside Captum, a step with a prior.

``python -m benchmarks.xdnn``

Every ratio is taken in one run: the work and its reference in turn, the median over the pairs of
the ratio of their CPU times, which other work on the machine changes least.
"""

import argparse
import copy
import ctypes
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import final

import numpy as np
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attribution.cell import flops_of
from benchmarks.measure import Row, paired
from whence.adapters.torchvision import open_torchvision
from whence.attribution import ExpectedGradients, InputXGradient, References, XGradient
from whence.convert import x_dnn
from whence.core import Method, ModelScalar, logit
from whence.network import Network
from whence.priors import GiniSparsity, MeanMap, Prior, prior_loss

CLASSES, STEPS, DRAWS = 10, 50, 8
BINARY = 64
"""Steps whose weights single precision holds exactly."""

PAGE = Path(__file__).parent / "results" / "xdnn.md"

MALLOPT = {-1: 2**31 - 1, -4: 0}
"""M_TRIM_THRESHOLD and M_MMAP_MAX of glibc: nothing is given back to the system."""

ONE_PASS, FASTER, STEP, THRICE = 1.1, 45.0, 2.2, 3.0
SINGLE, DOUBLE = 5e-3, 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class Line:
    """A figure of the page.

    Args:
        network: The network that it was taken on.
        what: What was measured, and against what.
        figure: The figure; of a ratio the median over the pairs, in CPU time.
        spread: Its lowest and highest ratio in wall time, and the operations' ratio.
        goal: What it should be at most, or at least.
        least: Whether the goal is a lower bound.
    """

    network: str
    what: str
    figure: float
    spread: str
    goal: float
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.figure >= self.goal if self.least else self.figure <= self.goal

    @property
    def cells(self) -> tuple[str, ...]:
        """The figure as a row of a table."""
        goal = f"{'at least' if self.least else 'at most'} {self.goal:g}"
        return (
            self.network,
            self.what,
            f"{self.figure:.3g}",
            goal,
            "yes" if self.met else "**no**",
            self.spread,
        )


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


def resnet18(images: Tensor) -> nn.Module:
    """Return torchvision's ResNet-18 with batch norms and biases, converted."""
    plain: nn.Module = open_torchvision().models.resnet18(weights=None, num_classes=CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights: sizes change, which is no matter here
        return x_dnn(plain.eval(), images).model


def subjects() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield the networks with their images, the same every time."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(64, 3, 32, 32, generator=generator)
    large = torch.randn(16, 3, 64, 64, generator=generator)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield "VGG, 64 images of 32 px", vgg().eval(), small
        yield "ResNet, 64 images of 32 px", resnet().eval(), small
        yield "ResNet-18, converted, 16 of 64 px", resnet18(large), large


def one_pass(model: nn.Module, images: Tensor, classes: Tensor) -> Callable[[], Tensor]:
    """Return a forward and the gradient for the input."""

    def run() -> Tensor:
        source = images.clone().requires_grad_()
        picked = model(source).gather(1, classes[:, None])
        return torch.autograd.grad(picked.sum(), source)[0]

    return run


def captum(
    model: nn.Module, images: Tensor, classes: Tensor, steps: int, rule: str = "gausslegendre"
) -> Callable[[], Tensor]:
    """Return Captum's integrated gradients from zero, one step of all images at a time."""
    theirs = CaptumIntegratedGradients(model)

    def run() -> Tensor:
        found: Tensor = theirs.attribute(
            images,
            target=classes,
            n_steps=steps,
            method=rule,
            internal_batch_size=len(images),
        )
        return found.detach()

    return run


def explained(name: str, model: nn.Module, images: Tensor, rounds: int) -> Iterator[Line]:
    """Yield what an explanation costs beside a pass and beside Captum, and how far they differ."""
    network = Network.read(model, images)
    classes = model(images).argmax(dim=1)
    scalar, method = ModelScalar(network, logit(classes)), XGradient(batch_size=len(images))

    def ours() -> Tensor:
        return method(scalar, images)

    ours()  # proves the network's homogeneity, once
    row = paired(ours, one_pass(model, images, classes), name="", against="", rounds=rounds)
    counted = flops_of(ours) / flops_of(one_pass(model, images, classes))
    yield line(name, "X-Gradient, in passes", row, counted, ONE_PASS)
    theirs = captum(model, images, classes, STEPS)
    row = paired(theirs, ours, name="", against="", rounds=min(rounds, 3))
    what = f"Captum's IG of {STEPS} steps, in X-Gradients"
    yield line(name, what, row, flops_of(theirs) / flops_of(ours), FASTER, least=True)
    yield from differences(name, network, model, images, classes)


def differences(
    name: str, network: Network, model: nn.Module, images: Tensor, classes: Tensor
) -> Iterator[Line]:
    """Yield how far X-Gradient is from Captum's integrated gradients, in both precisions."""
    shown, target = images[:8], classes[:8]
    found = XGradient()(ModelScalar(network, logit(target)), shown)
    path = captum(model, shown, target, STEPS)()
    called = "mean difference to Captum's IG, relative to its mean size"
    yield difference(name, f"{called}, float32", path, found, SINGLE)
    exact, shown = copy.deepcopy(model).double(), shown.double()
    found = XGradient()(ModelScalar(Network.read(exact, shown), logit(target)), shown)
    path = captum(exact, shown, target, STEPS)() / weights_of(STEPS)
    what = f"{called}, float64, over the sum of its weights, 1 {weights_of(STEPS) - 1:+.1e}"
    yield difference(name, what, path, found, DOUBLE)
    path = captum(exact, shown, target, BINARY, "riemann_middle")()
    yield difference(
        name, f"the same with the midpoint rule of {BINARY} steps", path, found, DOUBLE
    )


def weights_of(steps: int) -> float:
    """Return the sum of Captum's weights of the Gauss-Legendre rule, which should be 1."""
    _, weights = np.polynomial.legendre.leggauss(steps)
    return float(torch.tensor(weights / 2).float().double().sum())


def difference(name: str, what: str, path: Tensor, found: Tensor, goal: float) -> Line:
    """Return how far maps are from each other."""
    figure = float((path - found).abs().mean() / path.abs().mean())
    largest = float((path - found).abs().max() / path.abs().max())
    return Line(network=name, what=what, figure=figure, spread=f"largest {largest:.1e}", goal=goal)


def step(model: nn.Module, images: Tensor, method: Method | None) -> Callable[[], None]:
    """Return a step of training, with a prior on this method's maps or plain."""
    labels = torch.arange(len(images)) % CLASSES
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)
    penalty = MeanMap(penalty=GiniSparsity())
    prior = None if method is None else Prior(method=method, penalty=penalty)

    def run() -> None:
        optimiser.zero_grad()
        if prior is None:
            functional.cross_entropy(model(images), labels).backward()
        else:
            prior_loss(model, images, labels, prior=prior).total.backward()
        optimiser.step()

    return run


def trained(
    name: str, model: nn.Module, images: Tensor, rounds: int, words: str = ""
) -> Iterator[Line]:
    """Yield what a step with a prior costs beside a plain step."""
    plain, ours = step(model, images, None), step(model, images, InputXGradient())
    row = paired(ours, plain, name="", against="", rounds=rounds)
    what = f"a step with an X-Gradient prior, in plain steps{words}"
    yield line(name, what, row, flops_of(ours) / flops_of(plain), STEP)


def drawn(name: str, model: nn.Module, images: Tensor, rounds: int) -> Iterator[Line]:
    """Yield what a step with references costs beside a step with X-Gradient."""
    bank = References(images=images)
    theirs = step(model, images, ExpectedGradients(references=bank, samples=DRAWS, shared=False))
    ours = step(model, images, InputXGradient())
    row = paired(theirs, ours, name="", against="", rounds=min(rounds, 3))
    what = f"the same step with EG({DRAWS}), in steps with X-Gradient"
    yield line(name, what, row, flops_of(theirs) / flops_of(ours), THRICE, least=True)


def keep_memory() -> None:
    """Tell the C library to keep freed memory from now on, if it can be told."""
    library = ctypes.CDLL(None)
    for setting, value in MALLOPT.items():
        if hasattr(library, "mallopt"):
            library.mallopt(setting, value)


def line(
    name: str, what: str, row: Row, counted: float, goal: float, *, least: bool = False
) -> Line:
    """Return a ratio as a line."""
    spread = f"wall {row.low:.2f} to {row.high:.2f}; operations {counted:.2f}"
    return Line(network=name, what=what, figure=row.cpu, spread=spread, goal=goal, least=least)


TITLES = ("network", "what", "figure", "goal", "reached", "spread")

HEAD = """# What an X-DNN saves

Written by `python -m benchmarks.xdnn` (`make bench-xdnn`): {about}; {seconds:.0f} s.

Ratios are medians of CPU time over pairs, the two measured in turn in one run; *spread* has the
lowest and the highest ratio in wall time, and the ratio of the operations (convolutions and matrix
products), which does not depend on the machine. One pass is a forward and the gradient for the
input, of the eager model on the same batch. X-Gradient runs on the network that was read, its
homogeneity proven before the clock starts: the proof is made once for a network.

Captum's `IntegratedGradients` has its own default rule, Gauss-Legendre, and {steps} steps, with
`internal_batch_size` of the batch: that is faster, and takes a fraction of the memory, than as it
comes, all steps of all images in one batch. In double precision it is off by {wrong:.1e} on every
network, because its weights are rounded to single precision; so it is divided by their sum, and
compared with the midpoint rule of {binary} steps, whose weights single precision holds.

The prior is Gini sparsity of the mean map; EG({draws}) draws {draws} references for every image and
step. A step with a prior holds twice as much; where the C library gives memory back after every
step, as glibc does by default, up to a third of its time goes into getting it again. It keeps it
with `MALLOC_TRIM_THRESHOLD_`, as other allocators do; both are shown. Other work on the machine
counts against the step with the prior, which moves more memory.
"""


def page(lines: Sequence[Line], about: str, seconds: float) -> str:
    """Return the lines as a page."""
    more = {"wrong": abs(weights_of(STEPS) - 1), "binary": BINARY}
    head = HEAD.format(about=about, seconds=seconds, steps=STEPS, draws=DRAWS, **more)
    rows = [f"| {' | '.join(one.cells)} |" for one in lines]
    return "\n".join([head, f"| {' | '.join(TITLES)} |", "|--|--|--:|--|--|--|", *rows, ""])


def main() -> int:
    """Measure, print as it comes, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.xdnn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="pairs of what takes a few passes")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    began, found = time.monotonic(), list[Line]()
    networks, rounds = list(subjects()), arguments.rounds

    def told(lines: Iterator[Line]) -> None:
        for one in lines:
            found.append(one)
            print(" | ".join(one.cells), flush=True)

    for name, model, images in networks:  # as long as the C library is as it is by default
        told(trained(name, model, images, rounds, ", memory given back in between"))
    keep_memory()
    for name, model, images in networks:
        for part in (explained, trained, drawn):
            told(part(name, model, images, rounds))
    about = (
        f"{platform.machine()}, {arguments.threads} thread{'s' * (arguments.threads > 1)}, "
        f"torch {torch.__version__}, captum {version('captum')}"
    )
    arguments.out.write_text(page(found, about, time.monotonic() - began))
    missed = sum(not one.met for one in found)
    print(f"{len(found) - missed} of {len(found)} goals reached; {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
