r"""Extremal perturbation: the smooth mask of a given area that excites the value most."""

from dataclasses import dataclass, field
from typing import Literal, final, get_args

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.classes import slope_of
from whence.attribution.gradient import check_values, evaluate, owned, recording, sum_dtype
from whence.attribution.smooth_masks import SmoothMasks, area_penalty
from whence.attribution.stepwise import start_of
from whence.core import Baseline, Blur, Images, ScalarFn, Scalars
from whence.errors import SettingError

__all__ = ["ExtremalPerturbation", "Extremes", "SmoothMasks", "area_penalty"]

Variant = Literal["preserve", "delete", "dual"]
"""What the mask is for: to show what suffices, to hide what is needed, or both at once."""

Choice = Literal["smallest", "mean"]
"""Which mask of several areas is the map: the smallest that does it, or the mean of all."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Extremes:
    """The masks that were found for each image.

    Args:
        masks: One per area, ``(b, areas, h, w)``, from 0 to 1.
        scores: ``f`` of the image seen through each mask, or through its complement for
            ``delete``; for ``dual`` the first less the second; ``(b, areas)``.
        sufficient: Whether a mask keeps (or removes) the asked share of the value;
            ``(b, areas)``.
        chosen: The first mask that does, or the last if none does; ``(b,)``.
        full: ``f`` of the whole image; ``(b,)``.
    """

    masks: Tensor
    scores: Tensor
    sufficient: Tensor
    chosen: Tensor
    full: Scalars


@final
@dataclass(frozen=True, kw_only=True)
class ExtremalPerturbation:
    r"""The smooth mask of a given area through which the value is greatest.

    .. math:: m_a = \arg\max_{m}\; f(m \otimes x)
              - \lambda_t \frac{1}{n} \lVert \mathrm{sort}(m) - r_a \rVert^2

    where :math:`r_a` is 1 for the greatest :math:`a n` of ``n`` pixels and 0 for the others, and
    :math:`m \otimes x` shows the fill where the mask is 0. The mask is a smooth maximum,

    .. math:: m(u) = \mathrm{smax}_i\; k(\lVert u - u_i \rVert)\, w_i, \qquad
              k(d) = e^{-2 \max(0,\, d / \sigma - 1/2)^2}

    of weights in [0, 1] on a grid of ``cells``, where smax weighs its arguments by their softmax
    at temperature 1/20. With several areas, the map is the smallest mask for which

    .. math:: f(m \otimes x) \ge f(\bar x) + q\, (f(x) - f(\bar x))

    with ``q`` of ``keep`` and the fill :math:`\bar x`; the greatest mask if none is; the result
    says for which images there was one. ``delete`` looks for the mask whose complement has the
    least value, and turns the condition round; ``dual`` maximises the difference of both values
    and asks for both conditions.

    Not exact: a local maximum, found by gradient ascent with momentum while :math:`\lambda_t`
    grows. Nothing is drawn at random. The weight of the area is in units of ``f``: of a
    probability it leaves little to be found; explain a logit. The settings are the
    release's, with its lengths for 224 pixels as shares of the side. Four things differ from it:
    the area is that of the image, without a margin around it; beyond the border the weights go
    on, and equal pixels share their places in the order, so that an even mask prefers neither
    border nor corner; and images are not mirrored in every other step unless ``mirror`` asks for
    it. The values add up to nothing in particular. Cost: ``steps`` passes for
    each area, twice that for ``dual``.

    Args:
        area: The share of the image to be shown, above 0 and below 1; several as a tuple, or as
            text, ``"0.05,0.1,0.2"``. Shares below about 0.02 are smaller than a single spot.
        variant: ``preserve``, ``delete`` or ``dual``.
        keep: The share of the value to be kept, or removed.
        choice: ``smallest``, or ``mean`` for the mean of the masks of all areas.
        fill: What is seen where the mask is 0. In between, a blur is weaker and other fills are
            blended.
        levels: Steps of a blur's strength.
        cells: Weights along the shorter side of the image; at most one per pixel.
        reach: The kernel's :math:`\sigma`, in parts of that side, of which there are ``cells``.
        weight: :math:`\lambda` at the start.
        growth: Its growth from step to step.
        steps: Steps of the ascent.
        rate: Step size.
        momentum: Share of the last step that is kept; the gradient gets the rest.
        mirror: Mirror the masked image in every other step; for networks to which a mirrored
            image is the same.
        batch_size: Masked images per internal batch; chosen by memory if None.

    References:
        Fong, Patrick and Vedaldi (2019), "Understanding Deep Networks via Extremal Perturbations
        and Smooth Masks", section 3; settings of the released code, TorchRay.
    """

    area: float | tuple[float, ...] | str = 0.1
    variant: Variant = "preserve"
    keep: float = 1.0
    choice: Choice = "smallest"
    fill: Baseline = field(default_factory=Blur)
    levels: int = 8
    cells: int = 32
    reach: float = 3.0
    weight: float = 300.0
    growth: float = 1.0035
    steps: int = 800
    rate: float = 0.01
    momentum: float = 0.9
    mirror: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        for value, options in ((self.variant, Variant), (self.choice, Choice)):
            if value not in get_args(options):
                msg = f"Choose one of {', '.join(get_args(options))}; got {value!r}."
                raise SettingError(msg)
        self.areas()
        if min(self.steps, self.cells) < 1 or self.levels < 2:  # noqa: PLR2004 - none and full
            msg = (
                f"steps and cells must be at least 1 and levels at least 2; got {self.steps}, "
                f"{self.cells} and {self.levels}."
            )
            raise SettingError(msg)
        if not (self.reach > 0 and self.rate > 0 and self.growth > 0 and self.weight >= 0):
            msg = (
                f"reach, rate and growth are above 0 and weight at least 0; got {self.reach}, "
                f"{self.rate}, {self.growth} and {self.weight}."
            )
            raise SettingError(msg)
        if not (0 <= self.momentum < 1 and 0 <= self.keep <= 1):
            msg = (
                f"momentum is at least 0 and below 1, and keep from 0 to 1; got {self.momentum} "
                f"and {self.keep}."
            )
            raise SettingError(msg)

    def areas(self) -> tuple[float, ...]:
        """Return the areas, from the smallest to the greatest.

        Raises:
            SettingError: If there is none, or one is not above 0 and below 1.
        """
        given = self.area.split(",") if isinstance(self.area, str) else self.area
        try:
            several = [given] if isinstance(given, float | int) else given
            areas = tuple(sorted({float(area) for area in several}))
        except ValueError:
            areas = ()
        if not areas or not all(0 < a < 1 for a in areas):
            msg = (
                f"area is a share of the image, above 0 and below 1, or several: 0.1, "
                f"(0.05, 0.1), or '0.05,0.1'; got {self.area!r}."
            )
            raise SettingError(msg)
        return areas

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one mask per image, ``(b, 1, h, w)``, with values in [0, 1]."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the masks with their cost."""
        extremes = self.search(f, images)
        rows = torch.arange(len(images), device=extremes.masks.device)
        one = extremes.masks[rows, extremes.chosen][:, None]
        masks = extremes.masks.mean(dim=1, keepdim=True) if self.choice == "mean" else one
        return Account(
            values=masks.to(images.dtype),
            passes=self.steps * self.width + FORWARD * (self.width + 2),
            explained=extremes.full,
            found=extremes.sufficient[rows, extremes.chosen] if len(self.areas()) > 1 else None,
        )

    @property
    def width(self) -> int:
        """Rows of the batch that each image takes."""
        return len(self.areas()) * (2 if self.variant == "dual" else 1)

    def search(self, f: ScalarFn, images: Images) -> Extremes:
        """Return the masks of all areas, with what each does to the value."""
        with recording():
            images = owned(images)
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            behind = start_of(self.fill, images)
            full, empty = evaluate(f, images, pace), evaluate(f, behind, pace)
            found = []
            for start, stop in pace.spans(len(images), width=self.width):
                rows = torch.arange(start, stop, device=images.device)
                views = Views.of(self, f, images[start:stop], behind[start:stop], rows)
                found.append(self.ascended(views, pace))
        masks, shown, hidden = (torch.cat(parts) for parts in zip(*found, strict=True))
        full, empty = full.to(shown)[:, None], empty.to(shown)[:, None]
        kept = shown >= empty + self.keep * (full - empty)
        gone = hidden <= full - self.keep * (full - empty)
        scores, sufficient = {
            "preserve": (shown, kept),
            "delete": (hidden, gone),
            "dual": (shown - hidden, kept & gone),
        }[self.variant]
        last = sufficient.shape[1] - 1
        first = sufficient.to(torch.int8).argmax(dim=1)
        return Extremes(
            masks=masks,
            scores=scores,
            sufficient=sufficient,
            chosen=torch.where(sufficient.any(dim=1), first, last),
            full=full[:, 0].to(images.dtype),
        )

    def ascended(self, views: "Views", pace: Pace) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masks of some images, and the values seen through them and without them."""
        weights = views.weights()
        sgd = torch.optim.SGD(
            [weights], lr=self.rate, momentum=self.momentum, dampening=self.momentum
        )
        areas = torch.tensor(self.areas(), dtype=torch.float64).repeat(len(views.images))
        cost = self.weight
        for step in range(self.steps):
            masks = views.smooth(weights)
            seen = views.looks(masks)
            shown, hidden = views.values(seen, pace, mirror=self.mirror and step % 2 == 0)
            loss = cost * area_penalty(masks, areas) - shown.flatten() + hidden.flatten()
            weights.grad = slope_of(loss, weights, seen)
            sgd.step()
            with torch.no_grad():
                weights.clamp_(0, 1)
            cost *= self.growth
        with torch.no_grad():
            masks = views.smooth(weights)
            shown, hidden = views.values(views.looks(masks), pace, mirror=False)
        return masks.reshape(len(views.images), -1, *masks.shape[2:]), shown, hidden


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Some images as they are seen through masks, one for each area.

    Args:
        f: The function to explain.
        pyramid: Fills, from the strongest to the image itself, ``(b, levels, c, h, w)``.
        rows: Which images of the batch they are.
        areas: The number of areas.
        variant: Which of a mask and its complement is looked at.
        smooth: From weights to masks.
    """

    f: ScalarFn
    pyramid: Tensor
    rows: Tensor
    areas: int
    variant: Variant
    smooth: SmoothMasks

    @staticmethod
    def of(
        method: ExtremalPerturbation, f: ScalarFn, images: Images, behind: Images, rows: Tensor
    ) -> "Views":
        """Return the views that a method takes of images."""
        height, width = images.shape[2:]
        return Views(
            f=f,
            pyramid=torch.stack(levels_of(method, images, behind), dim=1),
            rows=rows,
            areas=len(method.areas()),
            variant=method.variant,
            smooth=SmoothMasks(
                height=height,
                width=width,
                step=max(1, round(min(height, width) / method.cells)),
                sigma=method.reach * min(height, width) / method.cells,
            ),
        )

    @property
    def images(self) -> Images:
        """The images themselves."""
        return self.pyramid[:, -1]

    def weights(self) -> Tensor:
        """Return the weights with which the ascent starts: everything is shown."""
        return torch.ones(
            (len(self.images) * self.areas, 1, *self.smooth.grid),
            dtype=sum_dtype(self.pyramid),
            device=self.pyramid.device,
            requires_grad=True,
        )

    def looks(self, masks: Tensor) -> Images:
        """Return the images through masks, their complements, or one after the other."""
        looks = {"preserve": [masks], "delete": [1 - masks], "dual": [masks, 1 - masks]}
        return torch.cat([self.seen(m.to(self.pyramid.dtype)) for m in looks[self.variant]])

    def values(self, seen: Images, pace: Pace, *, mirror: bool) -> tuple[Tensor, Tensor]:
        """Return ``f`` seen through masks, and through their complements, ``(b, areas)`` both.

        What the variant does not look at is zero.
        """
        times = len(seen) // (len(self.rows) * self.areas)
        rows = self.rows.repeat_interleave(self.areas).repeat(times)
        with pace.watching(len(rows)):
            values = self.f.at(rows)(seen.flip(dims=(3,)) if mirror else seen.clone())
        check_values(values, len(rows))
        parts = values.to(sum_dtype(seen)).reshape(times, -1, self.areas)
        none = torch.zeros_like(parts[0])
        shown = none if self.variant == "delete" else parts[0]
        return shown, none if self.variant == "preserve" else parts[-1]

    def seen(self, masks: Tensor) -> Images:
        """Return the images through masks ``(b * areas, 1, h, w)``: between two levels."""
        one = self.areas == 1
        pyramid = self.pyramid if one else self.pyramid.repeat_interleave(self.areas, dim=0)
        top = pyramid.shape[1] - 1
        place = masks * top
        below = place.detach().floor().clamp(max=top - 1)
        share = place - below
        index = below.long()[:, None].expand(-1, 1, *pyramid.shape[2:])
        lower, upper = pyramid.gather(1, index)[:, 0], pyramid.gather(1, index + 1)[:, 0]
        return (1 - share) * lower + share * upper


def levels_of(method: ExtremalPerturbation, images: Images, behind: Images) -> list[Images]:
    """Return what is seen where a mask has each of some values, from 0 to 1."""
    if not isinstance(method.fill, Blur):
        return [behind, images]
    shares = (1 - k / (method.levels - 1) for k in range(1, method.levels - 1))
    return [behind, *(Blur(sigma=method.fill.sigma * s)(images) for s in shares), images]
