r"""Soundness Saliency: the smallest smooth mask through which the network still sees the class."""

from dataclasses import dataclass, field
from typing import Literal, final, get_args

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.cam import enlarged
from whence.attribution.classes import classes_of, logits_in_parts, of_a_class, slope_of
from whence.attribution.expected import References
from whence.attribution.gradient import observing, owned, recording, sum_dtype
from whence.attribution.stepwise import start_of
from whence.core import (
    Baseline,
    Images,
    Logits,
    ModelScalar,
    RandomBaseline,
    ScalarFn,
    Zero,
    logits_from,
)
from whence.errors import SettingError, TargetError

__all__ = ["Objective", "Roughness", "SoundnessSaliency", "data_term", "total_variation"]

Objective = Literal["double-softmax", "distance", "likelihood", "weighted", "distribution"]
"""What the network must still say through the mask."""

Roughness = Literal["squared", "absolute"]
"""How a difference between neighbouring values of the mask counts."""


@final
@dataclass(frozen=True, kw_only=True)
class SoundnessSaliency:
    r"""A mask, learnt for each image, through which the network still sees the class.

    .. math:: \min_M\; \ell\big(f(M \odot x + (1 - M) \odot \bar x)\big)
              + \lambda_a \operatorname{mean}(M) + \lambda_v \frac{s}{S}\, \mathrm{TV}(M)
              + \lambda_e \operatorname{mean}(H(M))

    with one mask in [0, 1] for all colours, :math:`M = \mathrm{up}_s(\sigma(w))`, that starts at
    one half and is enlarged ``s`` times; a side of :math:`S` pixels; and fills :math:`\bar x`
    drawn anew in each step; and the entropy :math:`H` of a coin. The loss is, for
    probabilities :math:`p` of the masked image, among all classes or some, and class :math:`i`,

    * ``double-softmax``, the original's released code: the cross-entropy of the mean of ``p``
      over the draws as if it were logits; its range has length 1 for any number of classes;
    * ``distance``, the release's other choice: one less the mean of :math:`p_i`;
    * ``likelihood``: the mean of :math:`-\log p_i`;
    * ``weighted``, the modified form: that, times the probability of the class on the whole
      image, so that a class which the network does not see gets an empty mask;
    * ``distribution``: the cross-entropy between the probabilities of all classes, before and
      after.

    Not exact: a local minimum, found by Adam. Adam does not feel the size of a gradient, so that
    where only the area counts all pixels fall along one curve: 0.271 after 20 steps, 0.036 after
    100, 0.0033 after 500; with too few steps a veil remains. The defaults are the release's, in
    units that do not depend on the image's size: for 224 pixels a weight of 2e-5 on the sum of
    the mask, and 0.01 on its variation; the released runs draw their fills from a bank of 100 to
    1000 training images, :class:`References`. The published modified form keeps the original's
    settings, as far as is known. The values add up to nothing in particular. Cost: ``steps``
    times ``draws`` passes, or ``steps`` with a fill that is not drawn.

    Args:
        objective: The loss.
        fill: What is seen where the mask is zero: :class:`References`, or any baseline; noise,
            uniform colours and shuffled pixels are drawn anew in each step too.
        steps: Steps of Adam.
        draws: Fills per step.
        scale: Pixels per value of the mask, along each side; for a vision transformer, a divisor
            of the patch.
        area: The cost of a mask that shows everything.
        variation: The cost of the mask's roughness.
        roughness: ``squared`` differences of neighbours; or ``absolute`` ones, which do not fall
            when the mask is enlarged, so that the factor :math:`s` is left out.
        entropy: The cost of values that are neither 0 nor 1; the release leaves it out.
        labels: The classes among which probabilities are taken: a tuple, or text, ``"0,3,7"``;
            all if None. The explained ones must be among them.
        rate: Step size of Adam.
        seed: Seed of the draws.
        batch_size: Masked images per internal batch; chosen by memory if None.

    Raises:
        SettingError: If what is explained is not the logit of a class, or not one of the labels.
        TargetError: If a label does not exist.

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
    roughness: Roughness = "squared"
    entropy: float = 0.0
    labels: tuple[int, ...] | str | None = None
    rate: float = 0.05
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        for value, options in ((self.objective, Objective), (self.roughness, Roughness)):
            if value not in get_args(options):
                msg = f"Choose one of {', '.join(get_args(options))}; got {value!r}."
                raise SettingError(msg)
        self.among()
        if min(self.steps, self.draws, self.scale) < 1:
            msg = (
                f"steps, draws and scale must be at least 1; got {self.steps}, {self.draws} and "
                f"{self.scale}."
            )
            raise SettingError(msg)
        if min(self.area, self.variation, self.entropy) < 0 or not self.rate > 0:
            msg = (
                f"area, variation and entropy are at least 0 and rate is above 0; got "
                f"{self.area}, {self.variation}, {self.entropy} and {self.rate}."
            )
            raise SettingError(msg)

    def among(self) -> tuple[int, ...] | None:
        """Return the classes among which probabilities are taken; None for all.

        Raises:
            SettingError: If they are not two classes or more, or one is named twice.
        """
        if self.labels is None:
            return None
        given = self.labels.split(",") if isinstance(self.labels, str) else self.labels
        try:
            labels = tuple(int(label) for label in given)
        except ValueError:
            labels = ()
        if len(set(labels)) != len(labels) or len(labels) < 2:  # noqa: PLR2004 - one and another
            msg = f"labels are two different classes or more, '0,3,7'; got {self.labels!r}."
            raise SettingError(msg)
        return labels

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one mask per image, ``(b, 1, h, w)``, with values in [0, 1]."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the masks with their cost."""
        f = of_a_class(f, "SoundnessSaliency")
        with observing():
            images = owned(images)
            logits = logits_in_parts(f, images, self.batch_size)
            explained = f.target(logits)
            classes = self.places(classes_of(f, logits), logits)
            logits = self.compared(logits)
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
        return self.draws if isinstance(self.fill, References | RandomBaseline) else 1

    def compared(self, logits: Tensor) -> Tensor:
        """Return the logits ``(b, l)`` among which probabilities are taken."""
        labels = self.among()
        return logits if labels is None else logits[:, list(labels)]

    def places(self, classes: Tensor, logits: Logits) -> Tensor:
        """Return where classes stand among the labels."""
        labels = self.among()
        if labels is None:
            return classes
        wrong = next((label for label in labels if not 0 <= label < logits.shape[1]), None)
        if wrong is not None:
            msg = (
                f"labels hold class {wrong}, but the model's output has shape "
                f"{tuple(logits.shape)}, so classes run from 0 to {logits.shape[1] - 1}."
            )
            raise TargetError(msg)
        same = classes[:, None] == torch.tensor(labels, device=classes.device)
        if not same.any(dim=1).all():
            first = int(classes[~same.any(dim=1)][0])
            msg = f"Class {first} is explained, but it is not among the labels {labels}. Add it."
            raise SettingError(msg)
        return same.int().argmax(dim=1)

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
                output = logits_from(f.model, seen.flatten(0, 1))
            scores = self.compared(output).to(weights.dtype).reshape(len(seen), len(images), -1)
            loss = data_term(self.objective, scores, classes, whole) + self.penalty(mask)
            weights.grad = slope_of(loss, weights, seen)
            adam.step()
        return self.mask(weights, images).detach()

    def mask(self, weights: Tensor, images: Images) -> Tensor:
        """Return the masks that weights stand for, as large as the images."""
        return enlarged(weights.sigmoid(), images)

    def fills(self, images: Images, generator: torch.Generator) -> Tensor:
        """Return the fills of a step, ``(draws, b or 1, c, h, w)``; all images get the same."""
        if isinstance(self.fill, References):
            which = torch.randint(len(self.fill.images), (self.draws,), generator=generator)
            return self.fill.rows(images, which)[:, None]
        if isinstance(self.fill, RandomBaseline):
            return torch.stack([self.fill.draw(images, generator) for _ in range(self.draws)])
        return start_of(self.fill, images)[None]

    def penalty(self, mask: Tensor) -> Tensor:
        """Return the cost of each mask's area, roughness and entropy, ``(b,)``."""
        side = float((mask.shape[2] * mask.shape[3]) ** 0.5)
        factor = self.scale if self.roughness == "squared" else 1
        rough = self.variation * factor / side * total_variation(mask, self.roughness)
        cost = self.area * mask.mean(dim=(1, 2, 3)) + rough
        return cost + self.entropy * entropy_of(mask) if self.entropy else cost


def masked(images: Images, mask: Tensor, fills: Tensor) -> Tensor:
    """Return images where the mask is 1, and fills where it is 0, ``(draws, b, c, h, w)``."""
    return mask * images + (1 - mask) * fills


def total_variation(mask: Tensor, roughness: Roughness = "squared") -> Tensor:
    """Return the sum of differences to the pixels below and to the right, ``(b,)``.

    Args:
        mask: Masks ``(b, 1, h, w)``.
        roughness: Whether a difference counts by its square or its absolute value.
    """
    here = mask[:, :, :-1, :-1]
    down, right = mask[:, :, 1:, :-1] - here, mask[:, :, :-1, 1:] - here
    if roughness == "absolute":
        return (down.abs() + right.abs()).sum(dim=(1, 2, 3))
    return (down.square() + right.square()).sum(dim=(1, 2, 3))


def entropy_of(mask: Tensor) -> Tensor:
    """Return the mean over pixels of the entropy of a coin with the mask's chance, ``(b,)``."""
    chance = mask.clamp(min=1e-6, max=1 - 1e-6)
    coin = chance * chance.log() + (1 - chance) * (1 - chance).log()
    return -coin.mean(dim=(1, 2, 3))


def data_term(objective: Objective, scores: Tensor, classes: Tensor, whole: Tensor) -> Tensor:
    """Return the loss of each image, ``(b,)``.

    Args:
        objective: Which loss.
        scores: Logits of the masked images, ``(draws, b, k)``, of the classes compared.
        classes: Where the explained class of each image stands among these, ``(b,)``.
        whole: Probabilities of the whole images, ``(b, k)``, which are held fixed.
    """
    logarithms = scores.log_softmax(dim=2)
    chance = logarithms.exp().mean(dim=0)
    if objective == "double-softmax":
        return functional.cross_entropy(chance, classes, reduction="none")
    if objective == "distribution":
        return -(whole * logarithms).sum(dim=2).mean(dim=0)
    rows = torch.arange(len(classes), device=classes.device)
    if objective == "distance":
        return (chance[rows, classes] - 1).abs()
    loss = -logarithms[:, rows, classes].mean(dim=0)
    return loss * whole[rows, classes] if objective == "weighted" else loss
