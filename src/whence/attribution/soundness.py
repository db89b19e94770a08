r"""Soundness Saliency: the smallest smooth mask through which the network still sees the class."""

from dataclasses import dataclass, field
from typing import Literal, final, get_args

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.cam import enlarged
from whence.attribution.classes import classes_of, logits_in_parts, of_a_class
from whence.attribution.expected import References
from whence.attribution.gradient import observing, owned, recording, sum_dtype
from whence.attribution.stepwise import start_of
from whence.core import Baseline, Images, ModelScalar, ScalarFn, Zero, check_logits, logits_of
from whence.errors import SettingError

__all__ = ["Objective", "SoundnessSaliency", "data_term", "total_variation"]

Objective = Literal["double-softmax", "likelihood", "weighted", "distribution"]
"""What the network must still say through the mask."""


@final
@dataclass(frozen=True, kw_only=True)
class SoundnessSaliency:
    r"""A mask, learnt for each image, through which the network still sees the class.

    .. math:: \min_M\; \ell\big(f(M \odot x + (1 - M) \odot \bar x)\big)
              + \lambda_a \operatorname{mean}(M) + \lambda_v \frac{s}{S}\, \mathrm{TV}(M)

    with one mask in [0, 1] for all colours, :math:`M = \mathrm{up}_s(\sigma(w))`, that starts at
    one half and is enlarged ``s`` times; a side of :math:`S` pixels; and fills :math:`\bar x`
    drawn anew in each step. The loss is, for probabilities :math:`p` of the masked image and
    class :math:`i`,

    * ``double-softmax``, the original's released code: the cross-entropy of the mean of ``p``
      over the draws as if it were logits; its range has length 1 for any number of classes;
    * ``likelihood``: the mean of :math:`-\log p_i`;
    * ``weighted``, the modified form: that, times the probability of the class on the whole
      image, so that a class which the network does not see gets an empty mask;
    * ``distribution``: the cross-entropy between the probabilities of all classes, before and
      after.

    Not exact: a local minimum, found by Adam. Adam does not feel the size of a gradient, so that
    where only the area counts all pixels fall along one curve: 0.271 after 20 steps, 0.036 after
    100, 0.0033 after 500; with too few steps a veil remains. The defaults are the release's, in
    units that do not depend on the image's size: for 224 pixels a weight of 2e-5 on the sum of
    the mask, and 0.01 on its variation. The values add up to nothing in particular.
    Cost: ``steps`` times ``draws`` passes, or ``steps`` with a fill that is not drawn.

    Args:
        objective: The loss.
        fill: What is seen where the mask is zero: :class:`References`, or any baseline.
        steps: Steps of Adam.
        draws: Fills per step.
        scale: Pixels per value of the mask, along each side; for a vision transformer, a divisor
            of the patch.
        area: The cost of a mask that shows everything.
        variation: The cost of the mask's roughness.
        rate: Step size of Adam.
        seed: Seed of the draws.
        batch_size: Masked images per internal batch; chosen by memory if None.

    Raises:
        SettingError: If what is explained is not the logit of a class.

    References:
        Gupta et al. (2022), "New Definitions and Evaluations for Saliency Methods: Staying
        Intrinsic, Complete and Sound", section 4; Kadir, Addluri and Sonntag (2023),
        "Harmonizing Feature Attributions Across Deep Learning Architectures", for the modified
        form.
    """

    objective: Objective = "double-softmax"
    fill: Baseline = field(default_factory=Zero)
    steps: int = 2000
    draws: int = 10
    scale: int = 4
    area: float = 1.0
    variation: float = 0.56
    rate: float = 0.05
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        if self.objective not in get_args(Objective):
            msg = f"objective is one of {', '.join(get_args(Objective))}; got {self.objective!r}."
            raise SettingError(msg)
        if min(self.steps, self.draws, self.scale) < 1:
            msg = (
                f"steps, draws and scale must be at least 1; got {self.steps}, {self.draws} and "
                f"{self.scale}."
            )
            raise SettingError(msg)
        if min(self.area, self.variation) < 0 or not self.rate > 0:
            msg = (
                f"area and variation are at least 0 and rate is above 0; got {self.area}, "
                f"{self.variation} and {self.rate}."
            )
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one mask per image, ``(b, 1, h, w)``, with values in [0, 1]."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the masks with their cost."""
        f = of_a_class(f, "SoundnessSaliency")
        with observing():
            images = owned(images)
            logits = logits_in_parts(f, images, self.batch_size)
            classes = classes_of(f, logits)
            explained = f.target(logits)
        with recording():
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            parts = []
            for start, stop in pace.spans(len(images), width=self.times):
                rows = slice(start, stop)
                parts.append(self.learnt(f, images[rows], logits[rows], classes[rows], pace))
        return Account(
            values=torch.cat(parts).to(images.dtype),
            passes=self.steps * self.times + FORWARD,
            explained=explained,
        )

    @property
    def times(self) -> int:
        """Fills per step: one, if it is always the same."""
        return self.draws if isinstance(self.fill, References) else 1

    def learnt(
        self, f: ModelScalar, images: Images, logits: Tensor, classes: Tensor, pace: Pace
    ) -> Tensor:
        """Return the masks of some images after all steps."""
        size = [-(-side // self.scale) for side in images.shape[2:]]
        weights = torch.zeros(
            (len(images), 1, *size),
            dtype=sum_dtype(images),
            device=images.device,
            requires_grad=True,
        )
        adam = torch.optim.Adam([weights], lr=self.rate)
        generator = torch.Generator().manual_seed(self.seed)
        whole = logits.to(weights.dtype).softmax(dim=1)
        for _ in range(self.steps):
            mask = self.mask(weights, images)
            seen = masked(images, mask.to(images.dtype), self.fills(images, generator))
            count = len(seen) * len(images)
            with pace.watching(count):
                output = check_logits(logits_of(f.model(seen.flatten(0, 1))), count)
            scores = output.to(weights.dtype).reshape(len(seen), len(images), -1)
            loss = data_term(self.objective, scores, classes, whole) + self.penalty(mask)
            (weights.grad,) = torch.autograd.grad(loss.sum(), [weights])
            adam.step()
        return self.mask(weights, images).detach()

    def mask(self, weights: Tensor, images: Images) -> Tensor:
        """Return the masks that weights stand for, as large as the images."""
        return enlarged(weights.sigmoid(), images)

    def fills(self, images: Images, generator: torch.Generator) -> Tensor:
        """Return the fills of a step, ``(draws, b or 1, c, h, w)``; all images get the same."""
        if not isinstance(self.fill, References):
            return start_of(self.fill, images)[None]
        which = torch.randint(len(self.fill.images), (self.draws,), generator=generator)
        return self.fill.rows(images, which)[:, None]

    def penalty(self, mask: Tensor) -> Tensor:
        """Return the cost of each mask's area and roughness, ``(b,)``."""
        side = float((mask.shape[2] * mask.shape[3]) ** 0.5)
        rough = self.variation * self.scale / side * total_variation(mask)
        return self.area * mask.mean(dim=(1, 2, 3)) + rough


def masked(images: Images, mask: Tensor, fills: Tensor) -> Tensor:
    """Return images where the mask is 1, and fills where it is 0, ``(draws, b, c, h, w)``."""
    return mask * images + (1 - mask) * fills


def total_variation(mask: Tensor) -> Tensor:
    """Return the sum of squared differences to the pixels below and to the right, ``(b,)``."""
    here = mask[:, :, :-1, :-1]
    down, right = mask[:, :, 1:, :-1] - here, mask[:, :, :-1, 1:] - here
    return (down.square() + right.square()).sum(dim=(1, 2, 3))


def data_term(objective: Objective, scores: Tensor, classes: Tensor, whole: Tensor) -> Tensor:
    """Return the loss of each image, ``(b,)``.

    Args:
        objective: Which loss.
        scores: Logits of the masked images, ``(draws, b, k)``.
        classes: The explained class of each image, ``(b,)``.
        whole: Probabilities of the whole images, ``(b, k)``, which are held fixed.
    """
    logarithms = scores.log_softmax(dim=2)
    if objective == "double-softmax":
        chance = logarithms.exp().mean(dim=0)
        return functional.cross_entropy(chance, classes, reduction="none")
    if objective == "distribution":
        return -(whole * logarithms).sum(dim=2).mean(dim=0)
    rows = torch.arange(len(classes), device=classes.device)
    loss = -logarithms[:, rows, classes].mean(dim=0)
    return loss * whole[rows, classes] if objective == "weighted" else loss
