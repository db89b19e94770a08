r"""Randomisation: does an attribution depend on what the network has learned?

If a map stays the same while the weights are drawn anew, it does not explain them.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whence.core import (
    Attributions,
    Images,
    Method,
    ModelScalar,
    Scalars,
    Target,
    check_finite_images,
    check_images,
    logits_from,
)
from whence.errors import SettingError
from whence.evaluation.agreement import Pairwise, Spearman
from whence.evaluation.metric import MetricCard
from whence.network import Network
from whence.network.export import check_model, unwrapped

__all__ = ["Cascade", "ParameterRandomisation"]

ORDERS: Final = ("top-down", "bottom-up", "independent")
TOGETHER: Final = 2**22
"""Values of maps that are kept until they are compared at once."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Cascade:
    """How alike the maps stay while a network is randomised layer by layer.

    Args:
        layers: The layer randomised at each step.
        correlations: Likeness to the original map after each step, ``(s, b)``; NaN where it is
            undefined, such as the correlation with a map that has become constant.
    """

    layers: tuple[str, ...]
    correlations: Tensor

    @property
    def score(self) -> Scalars:
        """The mean over each image's steps that are defined; NaN if none is."""
        return self.correlations.nanmean(dim=0)

    @property
    def undefined(self) -> Tensor:
        """How many steps of each image are undefined, and left out of its score, ``(b,)``."""
        return self.correlations.isnan().sum(dim=0)


@final
@dataclass(frozen=True, kw_only=True)
class ParameterRandomisation:
    r"""Likeness to the original map while parameters are drawn anew, layer by layer.

    Every parameter in the graph's order counts: weights, biases, norms, tokens and positions.
    Each is replaced by normal noise of the same root mean square, so that signals keep their
    size; a parameter that is zero everywhere holds nothing learned and stays. Running statistics
    of batch norms stay too. The model itself is not touched: a copy is randomised.

    A method that draws anew at each call forgets best of all, so that this cannot rank methods:
    it finds those that ignore the weights. The size of the forward signals survives, and a right
    map changes in part only (Binder et al. 2023).

    Args:
        seed: Seed of the noise, drawn on the CPU.
        agreement: How two maps are compared.
        order: ``top-down`` from the output, or ``bottom-up`` from the images, what was
            randomised before staying so; or ``independent``, one layer at a time while the
            others keep their weights.

    References:
        Adebayo et al. (2018), "Sanity Checks for Saliency Maps" (cascading and independent
        randomisation); Hedstroem et al. (2024), "Sanity Checks Revisited" (bottom-up).
    """

    seed: int = 0
    agreement: Pairwise = field(default_factory=Spearman)
    order: str = "top-down"

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=-1.0,
        high=1.0,
        chance="0 for maps that forget the weights at once; 1 for maps that ignore them",
        reference="Adebayo et al. (2018), Sanity Checks for Saliency Maps",
    )

    def __post_init__(self) -> None:
        """Check the order."""
        check_order(self.order)

    def __call__(self, model: nn.Module, images: Images, target: Target, method: Method) -> Cascade:
        """Return the likeness after each step; costs one run of ``method`` per layer.

        Args:
            model: The model, in eval mode.
            images: ``(b, c, h, w)``.
            target: What is explained. Name the classes; do not let them follow the predictions.
            method: The method that is judged.
        """
        f, original, layers = prepared(model, images, target, method)
        names, maps, found = list[str](), list[Tensor](), list[Tensor]()
        for layer in randomised(layers, order=self.order, seed=self.seed):
            names.append(layer)
            maps.append(method(f, images).detach())
            if len(maps) * original.numel() >= TOGETHER or len(names) == len(layers):
                found.append(self.agreement(original.repeat(len(maps), 1, 1, 1), torch.cat(maps)))
                maps.clear()
        return Cascade(
            layers=tuple(names), correlations=torch.cat(found).view(len(names), len(original))
        )


Layers: TypeAlias = dict[str, list[nn.Parameter]]
"""The parameters of each layer, from the output to the images."""


def prepared(
    model: nn.Module, images: Images, target: Target, method: Method
) -> tuple[ModelScalar, Attributions, Layers]:
    """Return a copy of a model to explain, its maps, and its layers, whose values may be changed.

    Reading a model as a network takes longer than a hundred maps of a small one. So a method is
    shown the copied model itself first; one that needs the graph refuses that, and gets it.

    Args:
        model: The model, in eval mode; it is not touched.
        images: ``(b, c, h, w)``.
        target: What is explained.
        method: Makes the maps.
    """
    copied = copy.deepcopy(unwrapped(model))
    check_model(copied, check_images(images))
    check_finite_images(images)
    f = ModelScalar(copied, target)
    original = None
    with suppress(Exception):  # whatever it says, the network's answer counts
        original = method(f, images).detach()
    if original is None:
        f = ModelScalar(Network.read(copied, images), target)
        original = method(f, images).detach()
    return f, original, layers_of(copied, images)


def randomised(layers: Layers, *, order: str, seed: int) -> Iterator[str]:
    """Yield the name of each layer when its parameters have just been drawn anew.

    Args:
        layers: The layers of a copy of our own, whose parameters are overwritten.
        order: ``top-down``, ``bottom-up`` or ``independent``.
        seed: Seed of the noise.

    Raises:
        SettingError: If there is no parameter on the way from the images to the logits.
    """
    if not layers:
        msg = "The model has no parameters on the way from images to logits to randomise."
        raise SettingError(msg)
    generator = torch.Generator().manual_seed(seed)
    names = list(layers)
    for layer in reversed(names) if order == "bottom-up" else names:
        before = [parameter.detach().clone() for parameter in layers[layer]]
        for parameter in layers[layer]:
            redraw(parameter, generator)
        yield layer
        if order == "independent":
            restore(layers[layer], before)


@torch.no_grad()
def restore(parameters: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Give parameters of our own the values that they had."""
    for parameter, values in zip(parameters, before, strict=True):
        parameter.copy_(values)


def check_order(order: str) -> None:
    """Refuse an order that does not exist."""
    if order not in ORDERS:
        msg = f"order must be one of {', '.join(ORDERS)}; got {order!r}."
        raise SettingError(msg)


def layers_of(model: nn.Module, images: Images) -> Layers:
    """Return the parameters of each layer, by their first use, from the output to the images.

    The model is run once with one image, and every operation is asked what it takes. What does
    not reach the logits is left out.
    """
    held: dict[str, Tensor] = {
        name: nn.Parameter(p.detach(), requires_grad=p.is_floating_point())
        for name, p in model.named_parameters()
    }
    uses = Uses(names={id(p): name for name, p in held.items()})
    with torch.inference_mode(mode=False), torch.enable_grad(), uses:
        logits = logits_from(lambda some: functional_call(model, held, (some,)), images[:1])
    order = [name for name in uses.seen if held[name].requires_grad]
    if logits.requires_grad:  # a model that switches gradients off says nothing of its parameters
        reached = torch.autograd.grad(
            logits.sum(), [held[name] for name in order], allow_unused=True
        )
        used: zip[tuple[str, Tensor | None]] = zip(order, reached, strict=True)
        order = [name for name, gradient in used if gradient is not None]
    own = dict(model.named_parameters())
    layers: Layers = {}
    for name in reversed(order):
        layers.setdefault(name.rpartition(".")[0] or name, []).append(own[name])
    return layers


@final
class Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which of some tensors are used, in the order of their first use."""

    def __init__(self, *, names: Mapping[int, str]) -> None:
        """Take the tensors' names, by their identity."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.seen: dict[str, None] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Note what the operation takes, and run it."""
        del types
        for value in tree_leaves((args, kwargs)):
            if id(value) in self.names:
                self.seen[self.names[id(value)]] = None
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def redraw(parameter: Tensor, generator: torch.Generator) -> None:
    """Replace a parameter of our own by normal noise of the same root mean square."""
    size = math.sqrt(float(parameter.double().square().mean()))
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    parameter.copy_(size * noise)
