"""Random logit: does the map of another class differ?"""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from whence.core import (
    Images,
    Logit,
    LogProbability,
    Margin,
    Method,
    ModelScalar,
    Target,
    check_images,
    logits_from,
)
from whence.errors import SettingError, TargetError
from whence.evaluation.agreement import Pairwise
from whence.evaluation.metric import MetricCard
from whence.evaluation.similarity import Similarities
from whence.evaluation.ssim import SSIM
from whence.network import Network

__all__ = ["RandomLogit"]


@final
@dataclass(frozen=True, kw_only=True)
class RandomLogit:
    """How alike a map is to the maps of other classes of the same image.

    A method whose maps are the same for every class explains no class. The other classes are
    ``draws`` random steps further on in the list of classes, the same steps for every image, so
    that nothing depends on the batch. Logits of trained networks go up and down together, so
    some likeness is right: read it beside the controls.

    Cost: ``draws + 1`` runs of the method.

    Args:
        draws: Other classes for each image; as many as there are, if there are fewer.
        seed: Seed of the classes.
        agreement: How two maps are compared; in the paper by their structural similarity.

    References:
        Sixt, Granz and Landgraf (2020), "When Explanations Lie: Why Many Modified BP
        Attributions Fail", section 5 (random logit).
    """

    draws: int = 1
    seed: int = 0
    agreement: Pairwise = field(default_factory=SSIM)

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=-1.0,
        high=1.0,
        chance="1 for maps that ignore the class; that of maps of different images for the rest",
        reference="Sixt, Granz and Landgraf (2020), arXiv:1912.09818, section 5",
    )

    def __post_init__(self) -> None:
        """Check the number of classes."""
        if self.draws < 1:
            msg = f"draws is a number of other classes, 1 or more; got {self.draws}."
            raise SettingError(msg)

    def __call__(
        self, model: nn.Module | Network, images: Images, target: Target, method: Method
    ) -> Similarities:
        """Return the similarity to the map of each other class.

        Args:
            model: The model in eval mode, or a network.
            images: ``(b, c, h, w)``.
            target: A logit, log-probability or margin of one class per image, or of one for all.
            method: The method that is judged.

        Raises:
            TargetError: If the target is of another kind, or the model has one class only.
        """
        network = model if isinstance(model, Network) else Network.read(model, check_images(images))
        with torch.no_grad():
            count = logits_from(network, images[:1]).shape[1]
        if count < 2:  # noqa: PLR2004 - another class than the first
            msg = f"A random logit needs at least two classes; the model has {count}."
            raise TargetError(msg)
        moved(target, 1, count)  # refuses other targets before any work
        original = method(ModelScalar(network, target), images).detach()
        generator = torch.Generator().manual_seed(self.seed)
        steps = (1 + torch.randperm(count - 1, generator=generator))[: self.draws].tolist()
        found: list[Tensor] = []
        for step in steps:
            other = ModelScalar(network, moved(target, step, count))
            values = method(other, images).detach()
            found.append(self.agreement(original, values))
        return Similarities(stages=tuple(f"class + {k}" for k in steps), values=torch.stack(found))


def moved(target: Target, step: int, count: int) -> Target:
    """Return the target of the class so many steps further on, or say that it names none."""
    if isinstance(target, (Logit, LogProbability)):
        return type(target)((target.classes + step) % count)
    if isinstance(target, Margin):
        return Margin((target.labels + step) % count)
    msg = (
        f"A random logit needs a target that names a class, so that another can take its place: "
        f"logit(k), log_probability(k) or margin(k); got {type(target).__name__}."
    )
    raise TargetError(msg)
