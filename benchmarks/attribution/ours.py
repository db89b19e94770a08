"""The rows as whence computes them."""

from collections.abc import Callable, Mapping

from benchmarks.attribution.setup import Setup, Work
from whence.attribution import (
    LRP,
    DeepLift,
    GradCAM,
    Gradient,
    GradientSHAP,
    GuidedBackpropagation,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
)
from whence.core import Method

__all__ = ["OPTIONS", "OURS", "WINDOW"]

WINDOW = 56
"""Side of an occluded window in pixels: sixteen windows in an image."""

OURS: Mapping[str, Callable[[int], Method]] = {
    "gradient": lambda _: Gradient(),
    "input-x-gradient": lambda _: InputXGradient(),
    "integrated-gradients": lambda n: IntegratedGradients(steps=n),
    "smoothgrad": lambda n: SmoothGrad(samples=n),
    "gradient-shap": lambda n: GradientSHAP(samples=n),
    "guided-backpropagation": lambda _: GuidedBackpropagation(),
    "lrp-epsilon": lambda _: LRP(composite="epsilon"),
    "lrp-epsilon-plus": lambda _: LRP(composite="epsilon-plus"),
    "lrp-epsilon-plus-flat": lambda _: LRP(composite="epsilon-plus-flat"),
    "lrp-gamma": lambda _: LRP(composite="gamma"),
    "deeplift": lambda _: DeepLift(),
    "grad-cam": lambda _: GradCAM(),
    "guided-grad-cam": lambda _: GuidedGradCAM(),
    "occlusion": lambda _: Occlusion(window=WINDOW, stride=WINDOW),
}
"""Each row's method, for a number of steps."""


def ours(row: str) -> Callable[[Setup], Work]:
    """Return what runs a row on the network as it was read."""

    def work(setup: Setup) -> Work:
        method, f = OURS[row](setup.steps), setup.f(setup.network)
        return lambda: method(f, setup.images)

    return work


def tuned(row: str) -> Callable[[Setup], Work]:
    """Return what runs a row on the tuned network."""

    def work(setup: Setup) -> Work:
        method, f = OURS[row](setup.steps), setup.f(setup.tuned)
        return lambda: method(f, setup.images)

    return work


def folded(setup: Setup) -> Work:
    """Return a gradient of the folded network."""
    f = setup.f(setup.network.folded())
    return lambda: Gradient()(f, setup.images)


def flat(setup: Setup) -> Work:
    """Return a gradient of the folded and frozen network in the usual memory layout."""
    f = setup.f(setup.network.tuned(channels_last=False))
    return lambda: Gradient()(f, setup.images)


def lowered(setup: Setup) -> Work:
    """Return a gradient of the tuned network in bfloat16."""
    f = setup.f(setup.lowered)
    return lambda: Gradient()(f, setup.images)


OPTIONS: Mapping[str, Callable[[Setup], Work]] = {
    "as read": ours("gradient"),
    "folded": folded,
    "folded, frozen": flat,
    "tuned: folded, frozen, channels last": tuned("gradient"),
    "tuned, bfloat16": lowered,
}
"""A gradient of the same network, read and tuned in several ways."""
