r"""Completeness and soundness: can a mask keep a class's probability, and not invent it?"""

from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import Tensor

from whence.core import Images, ScalarFn, Scalars, Zero
from whence.errors import SettingError
from whence.evaluation.faithfulness import Curve, Insertion, check_settings
from whence.evaluation.metric import MetricCard
from whence.evaluation.steps import Fill

__all__ = ["Completeness", "Soundness"]

REFERENCE = "Gupta et al. (2022), Staying Intrinsic, Complete and Sound, section 3"
CHANCE = "that of random_order(images); a constant map's depends on the order of equal pixels"


@final
@dataclass(frozen=True, kw_only=True)
class Completeness:
    r"""How much of a class's probability the highest pixels of a map keep.

    .. math:: \min\Big(1,\; \frac{\max(\epsilon, A)}{p}\Big)

    with the probability ``p`` of the whole image, and the mean ``A`` of the probabilities while
    the highest pixels are put onto the fill, without its empty start. A map that keeps all of it
    has 1. Demand it for every class: a map that shows nothing for any class but one is sound
    without effort. Cost: half a pass for each step, and one for the image.

    Args:
        steps: Equal steps from the fill to the image; the paper takes 28.
        fill: What the image starts from; in the paper zero in the model's units.
        least: The :math:`\epsilon` below which probabilities count as alike.
        batch_size: Changed images per forward pass.
        seed: Seed of the order of equal pixels.

    Raises:
        SettingError: If the function's values are no probabilities.

    References:
        Gupta et al. (2022), "New Definitions and Evaluations for Saliency Methods: Staying
        Intrinsic, Complete and Sound", section 3; settings of the released code.
    """

    steps: int = 28
    fill: Fill = field(default_factory=Zero)
    least: float = 0.1
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher", low=0.0, high=1.0, chance=CHANCE, reference=REFERENCE
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self.steps, self.batch_size)
        check_least(self.least)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one share per image.

        Args:
            f: The probability of a class, such as ``ModelScalar(model, Custom(lambda z:
                z.softmax(1)[:, 3]))``.
            images: Preprocessed images ``(b, c, h, w)``.
            values: The map of that class for each image.
        """
        kept, whole = seen(self, f, images, values)
        return (kept.clamp(min=self.least) / whole).clamp(max=1.0)


@final
@dataclass(frozen=True, kw_only=True)
class Soundness:
    r"""How little a map can raise a class's probability above that of the whole image.

    .. math:: \min\Big(1,\; \frac{\max(\beta, p)}{A}\Big)

    with ``p`` and ``A`` as in :class:`Completeness`. A map through which the network sees a class
    that it does not see in the image has little. The paper reports the least over all classes of
    each image. Cost: half a pass for each step, and one for the image.

    Args:
        steps: Equal steps from the fill to the image; the paper takes 28.
        fill: What the image starts from; in the paper zero in the model's units.
        least: The :math:`\beta` below which probabilities count as alike.
        batch_size: Changed images per forward pass.
        seed: Seed of the order of equal pixels.

    Raises:
        SettingError: If the function's values are no probabilities.

    References:
        Gupta et al. (2022), section 3; settings of the released code.
    """

    steps: int = 28
    fill: Fill = field(default_factory=Zero)
    least: float = 0.1
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher", low=0.0, high=1.0, chance=CHANCE, reference=REFERENCE
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self.steps, self.batch_size)
        check_least(self.least)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one share per image; see :class:`Completeness` for ``f``."""
        kept, whole = seen(self, f, images, values)
        return (whole.clamp(min=self.least) / kept).clamp(max=1.0)


def seen(
    metric: Completeness | Soundness, f: ScalarFn, images: Images, values: Tensor
) -> tuple[Scalars, Scalars]:
    """Return the mean probability along the insertion curve, and that of the whole image."""
    insertion = Insertion(
        steps=metric.steps, fill=metric.fill, batch_size=metric.batch_size, seed=metric.seed
    )
    curve: Curve = insertion.curve(f, images, values)
    chance = curve.values
    slack = 1e-6
    if chance.min() < -slack or chance.max() > 1 + slack:
        msg = (
            f"Completeness and soundness compare probabilities, from 0 to 1; the function's "
            f"values reach from {float(chance.min()):.3g} to {float(chance.max()):.3g}. Explain "
            f"a probability: Custom(lambda logits: logits.softmax(1)[:, 3])."
        )
        raise SettingError(msg)
    return chance[:, 1:].mean(dim=1), chance[:, -1]


def check_least(least: float) -> None:
    """Refuse a bound that is no probability above 0."""
    if not 0 < least <= 1:
        msg = f"least is a probability above 0, usually 0.1; got {least}."
        raise SettingError(msg)
