r"""Imputation: pixels that are gone are guessed from those beside them, as ROAD does."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from whence.core import Images
from whence.errors import NumericsError, SettingError

__all__ = ["NoisyLinear"]

ROUNDS = 40
"""Steps of the solver at most, for each pixel of the image's sides."""

LEAST = 1e-300
"""The squared size of a rest that counts as none, over the smallest number of double precision."""

LOOK = 8
"""Steps between two looks at who has come to the tolerance."""

FEWER = 0.75
"""The share of the images below which the others go on alone."""


@final
@dataclass(frozen=True, kw_only=True)
class NoisyLinear:
    r"""Each missing pixel is the weighted mean of its eight neighbours, plus a little noise.

    .. math:: x_i \sum_{j \in N(i)} w_j = \sum_{j \in N(i)} w_j x_j

    for all missing pixels at once, with :math:`w = 1/6` beside and :math:`1/12` across a corner,
    over the neighbours that lie in the image. So the mask's shape, from which a network could tell
    the class, hardly shows. The system is symmetric and positive, and is solved for a whole batch
    on its device by conjugate gradients, to the ``tolerance``.

    Constant images are reproduced, and linear ramps in holes that do not touch the border. Where
    nothing is left of an image, all its pixels are its mean colour.

    Args:
        noise: Standard deviation of the noise, as a fraction of each image's range of values.
        tolerance: Of the residual, relative to the right-hand side.
        seed: Seed of the noise; one draw for all images, made on the CPU.

    References:
        Rong et al. (2022), "A Consistent and Efficient Evaluation Strategy for Attribution
        Methods", which calls it noisy linear imputation.
    """

    noise: float = 0.01
    tolerance: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.noise < 0 or not self.tolerance > 0:
            msg = (
                f"NoisyLinear needs noise of 0 or more and a tolerance above 0; got {self.noise} "
                f"and {self.tolerance}."
            )
            raise SettingError(msg)

    def impute(self, images: Images, gone: Bool[Tensor, "b 1 h w"]) -> Images:
        """Return the images with the pixels that are gone imputed.

        Raises:
            NumericsError: If the solver does not reach the tolerance.
        """
        lost = gone.flatten(1).all(dim=1).view(-1, 1, 1, 1)
        guessed = self.solved(images.double(), gone & ~lost).to(images)
        guessed = torch.where(lost, images.mean(dim=(2, 3), keepdim=True), guessed)
        if not self.noise:
            return torch.where(gone, guessed, images)
        low, high = images.flatten(1).aminmax(dim=1)
        drawn = torch.randn(
            images.shape[1:],
            generator=torch.Generator().manual_seed(self.seed),
            dtype=torch.float64,
        ).to(images)
        span = (high - low).view(-1, 1, 1, 1)
        return torch.where(gone, guessed + self.noise * span * drawn, images)

    def solved(self, images: Images, gone: Bool[Tensor, "b 1 h w"]) -> Images:
        """Return the solution of the system at the missing pixels, zero elsewhere."""
        inside = flattened(torch.ones_like(images[:1]))
        missing = flattened(gone.to(images).expand_as(images))
        known = flattened(images) * (1 - missing)
        weight = Neighbours(inside, images.shape)(inside)
        around = Neighbours(known, images.shape)
        wanted = missing * around(known)
        # The mean of what is left is nearer to the solution than zero is.
        left = (~gone).sum(dim=(2, 3), keepdim=True)
        colours = unflattened(known, images.shape).sum(dim=(2, 3), keepdim=True) / left
        start = missing * flattened(colours.expand_as(images))
        rest = wanted - missing * (weight * start - around(start))
        enough = (self.tolerance**2 * squares(wanted)).clamp(min=LEAST)
        found = descended(start, rest, missing * weight, missing, enough, images.shape)
        if found is None:
            msg = (
                f"The imputation did not come to a tolerance of {self.tolerance:g}. Look for "
                f"values that are not finite in the images, or raise the tolerance."
            )
            raise NumericsError(msg)
        return unflattened(found, images.shape)


@final
class Neighbours:
    """The weighted sum of each pixel's neighbours, of images with borders of zeros as rows.

    The weights are the product of 1, 2, 1 along the rows and along the columns, over 12, without
    what falls to the pixel itself. In one stretch of memory both are sums of shifted stretches;
    the borders keep images and their rows apart. It has room for two results more, so that the
    solver's steps ask for no memory.
    """

    def __init__(self, rows: Tensor, shape: torch.Size) -> None:
        """Make room for as many images as there are rows."""
        wide, size = shape[3] + 2, rows.numel()
        guard = wide + 1
        room, sums = rows.new_zeros(size + 2 * guard), rows.new_zeros(size + 2 * guard)
        self.rows = room[guard : guard + size].view_as(rows)
        self.before, self.here, self.behind = room[:-2], room[1:-1], room[2:]
        self.sums = sums[1:-1]
        self.above, self.beside, self.below = (
            sums[start : start + size] for start in (1, guard, guard + wide)
        )
        self.found, self.moved, self.spare = (torch.empty_like(rows) for _ in range(3))
        self.flat = self.found.view(-1)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the sums for these rows."""
        self.rows.copy_(rows)
        return self.nine().sub_(self.rows, alpha=4).div_(12)

    def nine(self) -> Tensor:
        """Return 12 times the sums, and 4 times the pixel itself, for ``rows``; kept till again."""
        torch.add(self.before, self.behind, out=self.sums).add_(self.here, alpha=2)
        torch.add(self.above, self.below, out=self.flat).add_(self.beside, alpha=2)
        return self.found


def descended(
    x: Tensor, rest: Tensor, own: Tensor, missing: Tensor, enough: Tensor, shape: torch.Size
) -> Tensor | None:
    """Return the solutions by conjugate gradients, or None if they take too many steps.

    Images that have come to the tolerance are taken out, so that the others go on alone.

    Args:
        x: Where to start, an image in each row.
        rest: What the start leaves of the right-hand sides.
        own: The weight of each missing pixel in its own equation; 0 elsewhere.
        missing: 1 where a pixel is missing.
        enough: The squared size of a rest at which to stop, ``(b, 1)``.
        shape: Of the images.
    """
    found, which = torch.empty_like(x), torch.arange(len(x), device=x.device)
    # The pixel itself is in the nine as well: 4 / 12 of it.
    own, others = own + missing / 3, missing / -12
    tiny = torch.finfo(x.dtype).tiny
    size = squares(rest).clamp_(min=tiny)
    near = Neighbours(x, shape)
    near.rows.copy_(rest)
    for step in range(ROUNDS * sum(shape[2:])):
        if step % LOOK == 0:
            going = (size > enough)[:, 0]
            count = int(going.sum())
            if not count:
                return found.index_copy_(0, which, x)
            if count <= FEWER * len(which):
                found[which[~going]] = x[~going]
                which, x, rest, own, others, size, enough, way = (
                    t[going] for t in (which, x, rest, own, others, size, enough, near.rows)
                )
                near = Neighbours(x, shape)
                near.rows.copy_(way)
        way = near.rows
        moved = torch.mul(own, way, out=near.moved).addcmul_(others, near.nine())
        far = size / torch.mul(way, moved, out=near.spare).sum(dim=1, keepdim=True).clamp_(min=tiny)
        x, rest = x.addcmul_(way, far), rest.addcmul_(moved, far, value=-1)
        new = torch.mul(rest, rest, out=near.spare).sum(dim=1, keepdim=True).clamp_(min=tiny)
        torch.addcmul(rest, way, new / size, out=way)
        size = new
    return None


def flattened(images: Images) -> Float[Tensor, "b n"]:
    """Return images with a border of zeros, one in each row."""
    return functional.pad(images, (1, 1, 1, 1)).flatten(1)


def unflattened(rows: Tensor, shape: torch.Size) -> Images:
    """Return the images of rows, without the borders."""
    return rows.view(-1, shape[1], shape[2] + 2, shape[3] + 2)[:, :, 1:-1, 1:-1]


def squares(rows: Tensor) -> Float[Tensor, "b 1"]:
    """Return the sum of each row's squares."""
    return rows.square().sum(dim=1, keepdim=True)
