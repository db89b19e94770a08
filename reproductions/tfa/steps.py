"""The true change of a query's margin after one training step: what a score only approximates."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from whence.core import Margin

__all__ = ["OneStep"]

LENGTH, RATE = 0.02, 0.01
"""How far a step of fixed length moves all weights, and the rate of a step of plain SGD."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OneStep:
    """How much the query's margin rises when one step is taken on a training image.

    Nothing is linearised: the loss's gradient is taken, the weights are moved, and the query is
    classified again, in float64. A function of training images, like the score it stands beside.
    A step of fixed length goes along the gradient's direction, which is what a cosine speaks of;
    one of plain SGD goes as far as the gradient is long.

    Args:
        model: The network in float64; see :meth:`of`.
        query: The query, ``(1, c, h, w)``.
        asked: The label asked about.
        labels: Labels of the training images, ``(b,)``.
        plain: Whether the step is one of plain SGD.
        before: The query's margin before the step.
    """

    model: nn.Module
    query: Tensor
    asked: int
    labels: Tensor
    plain: bool
    before: float

    @classmethod
    def of(
        cls, model: nn.Module, query: Tensor, asked: int, labels: Tensor, *, plain: bool
    ) -> "OneStep":
        """Return the function for a network and a query ``(1, c, h, w)``."""
        exact = deepcopy(model).double().eval()
        with torch.no_grad():
            before = float(Margin(torch.tensor([asked]))(exact(query.double())))
        return cls(
            model=exact,
            query=query.double(),
            asked=asked,
            labels=labels,
            plain=plain,
            before=before,
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Return one change per image, over the step's length or rate."""
        found = [
            self.after(image[None], label) - self.before
            for image, label in zip(images.double(), self.labels, strict=True)
        ]
        size = RATE if self.plain else LENGTH
        return torch.tensor(found, dtype=images.dtype) / size

    def at(self, rows: Tensor) -> "OneStep":
        """Return the function of these rows of the batch."""
        return replace(self, labels=self.labels[rows])

    def after(self, image: Tensor, label: Tensor) -> float:
        """Return the query's margin after a step on one image."""
        weights = {k: v.detach() for k, v in self.model.state_dict().items()}
        moved = dict(self.model.named_parameters())
        with torch.enable_grad():
            logits = self.model(image)
            if self.plain:
                aim = -functional.cross_entropy(logits, label[None])
            else:
                aim = Margin(label[None])(logits).sum()
            slopes = torch.autograd.grad(aim, list(moved.values()))
        length = torch.stack([s.square().sum() for s in slopes]).sum().sqrt()
        size = RATE if self.plain else LENGTH / max(float(length), 1e-300)
        with torch.no_grad():
            for name, slope in zip(moved, slopes, strict=True):
                weights[name] = weights[name] + size * slope
            logits = functional_call(self.model, weights, (self.query,))
        return float(Margin(torch.tensor([self.asked]))(cast("Tensor", logits)))
