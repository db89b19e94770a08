"""Running a method on images, with the figures that say whether to trust the result."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from whence.attribution.account import FORWARD, Account, Loss
from whence.attribution.batching import Pace
from whence.attribution.gradient import accounted, evaluate
from whence.attribution.path import relative_gap
from whence.core import (
    Attributions,
    Images,
    Method,
    ModelScalar,
    ScalarFn,
    Scalars,
    check_count,
    check_finite_images,
    check_images,
)
from whence.display import card, facts, table
from whence.errors import NumericsError, SettingError, ShapeError
from whence.network import Network

__all__ = ["Attribution", "attribute"]

TOLERANCE = 0.01
"""The relative gap above which a result says which operations are to blame."""

SHOWN = 5
"""How many of them, those with the largest share."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """Attributions of a batch, never rescaled.

    Args:
        values: One value per pixel, ``(b, a, h, w)``; ``a`` is the image's channels, or 1.
        explained: The explained value ``f(images)``, ``(b,)``.
        total: The sum of each image's values, ``(b,)``, added up in double precision.
        gap: How far ``total`` is from what an exact method's values add up to, relative to that
            (0.01 is one per cent), ``(b,)``; None for methods without such a law.
        cost: Passes (a forward and an input-backward) per image; NaN if the method does not say.
        method: The method, with its settings.
        absorbed: What biases took of the explained value, for methods that share it out layer by
            layer, ``(b,)``; None for the others.
        found: Whether a method that searches found what it searched for, ``(b,)``; None for the
            others.
        losses: The operations that kept most of what was to be shared out, or added to it, where
            the gap of an image is above one per cent, for methods that work operation by
            operation; of the image ``worst``.
        worst: The image with the largest gap, if that is above one per cent.
    """

    values: Attributions
    explained: Scalars
    total: Scalars
    gap: Scalars | None
    cost: float
    method: Method
    absorbed: Scalars | None = None
    found: Tensor | None = None
    losses: tuple[Loss, ...] = ()
    worst: int | None = None

    @property
    def warning(self) -> str:
        """What to know of the largest gap, in words; empty if no image's is above one per cent."""
        if self.worst is None or self.gap is None:
            return ""
        text = f"the values miss their sum by {100 * float(self.gap[self.worst]):.1f} %"
        named = [str(loss) for loss in self.losses if abs(loss.share) > TOLERANCE / SHOWN]
        text = f"image {self.worst}: {text}" + (f": {'; '.join(named)}" if named else "")
        if self.absorbed is None:
            return text
        share = float(self.absorbed[self.worst] / self.explained[self.worst])
        if abs(share) < float(self.gap[self.worst]) / 2:
            return text
        return f"{text}. Biases took {100 * share:.1f} %; bias=ignore gives that to the inputs"

    @property
    def conservation(self) -> Scalars | None:
        """The part of the explained value that arrived at the pixels, ``(b,)``; 1 if all did.

        None for methods that do not share it out layer by layer.
        """
        return None if self.absorbed is None else self.total / self.explained

    @property
    def blank(self) -> Tensor:
        """Whether an image's map is zero everywhere: nothing speaks for the value; ``(b,)``."""
        return (self.values == 0).flatten(1).all(dim=1)

    def _repr_html_(self) -> str:
        """Show in a notebook what the values add up to."""
        gaps = [None] * len(self.total) if self.gap is None else self.gap.tolist()
        sums = zip(self.explained.tolist(), self.total.tolist(), gaps, strict=True)
        rows = [
            (image, explained, total, "" if gap is None else f"{gap:.2%}")
            for image, (explained, total, gap) in enumerate(sums)
        ]
        told = {"method": self.method, "passes": f"{self.cost:.4g}", "": self.warning}
        head = ("image", "explained", "total", "gap")
        return card("Attribution", facts(told), table(head, rows))


def attribute(method: Method, f: ScalarFn, images: Images) -> Attribution:
    """Explain ``f`` on images by a method.

    Args:
        method: Any method, such as ``IntegratedGradients(steps=64)``.
        f: What to explain, such as ``ModelScalar(model, logit(3))``.
        images: Preprocessed images ``(b, c, h, w)``.

    Returns:
        The attributions with their sum, completeness gap and cost. Beyond the method's own cost,
        ``f`` is evaluated once where the method did not, and the baseline where it has one.

    Raises:
        SettingError: If ``f`` is not a function that a method can explain.
        ShapeError: If the images, or the values that the method returned, have another shape.
        NumericsError: If an image or an attribution is NaN or infinite, with the place where it
            began.
        TargetError: If the target's classes are not one per image, or do not exist.
    """
    images = check_images(images)
    if not isinstance(f, ScalarFn):
        msg = (
            f"A method explains a scalar function of images, with f.at(rows); got "
            f"{type(f).__name__}. Make one from a model: ModelScalar(model, logit(3))."
        )
        raise SettingError(msg)
    check_finite_images(images)
    if isinstance(f, ModelScalar):
        check_count(f.target, len(images))
    account = accounted(method, f, images)
    values, explained, cost = account.values, account.explained, account.passes
    if values.ndim != images.ndim or len(values) != len(images):
        msg = (
            f"The method must return values of shape (b, c, h, w) or (b, 1, h, w) for images of "
            f"shape {tuple(images.shape)}; {type(method).__name__} returned {tuple(values.shape)}."
        )
        raise ShapeError(msg)
    if explained is None:
        explained = evaluate(f, images, Pace(f=f, images=images))
        cost += FORWARD
    if not (values.isfinite().all() and explained.isfinite().all()):
        raise NumericsError(origin(f, images, explained, values))
    gap = None if account.reference is None else relative_gap(values, account.reference)
    worst = None if gap is None else largest_gap(gap)
    losses, spent = ((), 0.0) if worst is None else losses_of(account, worst)
    cost += spent
    return Attribution(
        values=values,
        explained=explained,
        total=values.flatten(1).sum(dim=1, dtype=torch.float64),
        gap=gap,
        cost=cost,
        method=method,
        absorbed=account.absorbed,
        found=account.found,
        losses=losses,
        worst=worst,
    )


def largest_gap(gap: Scalars) -> int | None:
    """Return the image with the largest gap, if that is above the tolerance."""
    row = int(gap.argmax())
    return row if float(gap[row]) > TOLERANCE else None


def losses_of(account: Account, row: int) -> tuple[tuple[Loss, ...], float]:
    """Return the operations that kept most of an image's relevance, and passes per image.

    If the biases' ledger explains the gap it costs nothing; otherwise one image is traced.
    """
    if account.reference is None:
        return (), 0.0
    whole = float(account.reference[row])
    taken = 0.0 if account.absorbed is None else float(account.absorbed[row])
    total = float(account.values[row].sum(dtype=torch.float64))
    if whole and account.taken and abs(whole - total - taken) <= TOLERANCE * abs(whole):
        losses = [
            Loss(operation=name, path=path, share=float(rows[row]) / whole)
            for name, path, rows in account.taken
        ]
        return tuple(sorted(losses, key=lambda loss: -abs(loss.share))[:SHOWN]), 0.0
    if account.trace is None:
        return (), 0.0
    return account.trace(row)[:SHOWN], 1 / len(account.values)


def origin(f: ScalarFn, images: Images, explained: Scalars, values: Tensor) -> str:
    """Say where NaN or infinity began: weights, the explained value, or the gradient."""
    model = getattr(f, "model", None)
    module = getattr(model, "module", model)
    if isinstance(module, nn.Module):
        for name, weight in module.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                return (
                    f"NaN or infinity in the model's weight {name!r}; the images are finite. "
                    f"Load an earlier checkpoint."
                )
    if not explained.isfinite().all():
        return (
            f"The explained value is NaN or infinite, {bad_rows(explained)}; images and weights "
            f"are finite. The network overflows on the way ({images.dtype}){place_in(f, images)}: "
            f"evaluate it in single or double precision, or explain a logit instead of a "
            f"probability."
        )
    return (
        f"The attributions are NaN or infinite, {bad_rows(values)}; images, weights and the "
        f"explained values are finite, so it began in the gradient ({images.dtype})"
        f"{place_in(f, images)}. Look for a "
        f"square root, a logarithm or a division at zero in the network, or for an overflow in "
        f"half precision."
    )


def place_in(f: ScalarFn, images: Images) -> str:
    """Say in which operation it began, where the function shows its network."""
    if not (isinstance(f, ModelScalar) and isinstance(f.model, Network)):
        return "; Network.read(model, images) tells in which operation"
    place = f.model.first_not_finite(images, f.target)
    return f" in {place}" if place else ""


def bad_rows(values: Tensor) -> str:
    """Say in how many images, and which is the first."""
    bad = (~values.isfinite()).reshape(len(values), -1).any(dim=1).nonzero()[:, 0]
    return f"in {len(bad)} of {len(values)} images, first in image {int(bad[0])}"
