r"""Infidelity: how wrong a map is about what perturbations of the image do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch import Tensor

from whence.core import Images, ScalarFn, Scalars, Zero, check_images
from whence.errors import SettingError, ShapeError
from whence.evaluation.faithfulness import check_settings
from whence.evaluation.metric import MetricCard, pixel_map
from whence.evaluation.robustness import generator_of
from whence.evaluation.steps import Fill, answers, layered, swept

__all__ = ["AddedNoise", "Infidelity", "Perturbation", "RemovedSquares"]

Change: TypeAlias = Callable[[Tensor], Callable[[slice], tuple[Tensor, Tensor]]]
"""Takes numbers of draws ``(k,)``, and returns what changes some images by each of them.

That gives ``(g * k, c, h, w)``, those of one image beside one another, and what the map foretells
of each fall, ``(g, k)``.
"""


@runtime_checkable
class Perturbation(Protocol):
    """What is done to images, and what a map is multiplied by to foretell its effect."""

    def on(self, images: Images, values: Tensor) -> Change:
        """Return what makes changed images, and what maps of theirs foretell."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class RemovedSquares:
    """Squares at random places are removed: for maps of contributions, which add up.

    The map foretells the fall by its sum over the square. Gradients are no contributions: judge
    them times the image, or by :class:`AddedNoise`.

    Args:
        largest: The longest side of a square, as a share of the image's shorter side; sides are
            drawn evenly from a pixel to that.
        fill: What replaces a square.
        seed: Seed of places and sides, the same for all images of one size.
    """

    largest: float = 1 / 3
    fill: Fill = field(default_factory=Zero)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the side."""
        if not 0 < self.largest <= 1:
            msg = f"largest is a share of the shorter side, over 0 to 1; got {self.largest}."
            raise SettingError(msg)

    def on(self, images: Images, values: Tensor) -> Change:
        """Return images without squares, and the map's sum over each square."""
        seen, flat = layered(images, self.fill), values.double().sum(dim=1).flatten(1)
        height, width = images.shape[2:]
        longest = max(1, round(self.largest * min(height, width)))

        def square(number: int) -> tuple[int, int, int]:
            generator = generator_of(self.seed, number)
            side = int(torch.randint(1, longest + 1, (), generator=generator))
            top = int(torch.randint(height - side + 1, (), generator=generator))
            left = int(torch.randint(width - side + 1, (), generator=generator))
            return side, top, left

        def change(numbers: Tensor) -> Callable[[slice], tuple[Tensor, Tensor]]:
            squares = torch.tensor([square(number) for number in numbers.tolist()])
            side, top, left = squares.to(images.device)[:, :, None].unbind(dim=1)
            row, column = (torch.arange(n, device=images.device) for n in (height, width))
            down = (row >= top) & (row < top + side)
            along = (column >= left) & (column < left + side)
            gone = (down[:, :, None] & along[:, None, :])[:, None]
            weights = gone.flatten(1).double().T

            def changed(span: slice) -> tuple[Tensor, Tensor]:
                some = flat[span]
                stays = (~gone).expand(len(some), *gone.shape)
                return seen(span, stays), some @ weights

            return changed

        return change


@final
@dataclass(frozen=True, kw_only=True)
class AddedNoise:
    """Gaussian noise is subtracted: for maps of sensitivities, such as gradients.

    The map foretells the fall by its product with the noise. For a map of one value per pixel of
    a coloured image, all channels of a pixel get the same noise.

    Args:
        sigma: Standard deviation, as a fraction of each image's range; 0.2 in the paper.
        seed: Seed of the draws, the same for all images of one size.
    """

    sigma: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that there is noise."""
        if not 0 < self.sigma < float("inf"):
            msg = f"sigma is a fraction of the image's range over 0; got {self.sigma}."
            raise SettingError(msg)

    def on(self, images: Images, values: Tensor) -> Change:
        """Return noisy images, and the map's product with the noise."""
        low, high = images.flatten(1).aminmax(dim=1)
        size = (self.sigma * (high - low)).view(-1, 1, 1, 1, 1)
        shape, flat = (values.shape[1], *images.shape[2:]), values.double().flatten(1)

        def change(numbers: Tensor) -> Callable[[slice], tuple[Tensor, Tensor]]:
            noise = torch.stack(
                [torch.randn(shape, generator=generator_of(self.seed, k)) for k in numbers.tolist()]
            ).to(images)
            weights = noise.flatten(1).double().T

            def changed(span: slice) -> tuple[Tensor, Tensor]:
                noisy = images[span].unsqueeze(1) - size[span] * noise
                return noisy.flatten(0, 1), flat[span] @ weights * size[span].flatten(1).double()

            return changed

        return change


@final
@dataclass(frozen=True, kw_only=True)
class Infidelity:
    r"""The mean squared error of the fall of the value that a map foretells.

    .. math:: \mathbb E_I \big[(\beta\, I \cdot a - (f(x) - f(x - I)))^2\big]

    over perturbations ``I``. With ``scaled`` the factor :math:`\beta = \mathbb E[(I \cdot a)
    (f(x) - f(x - I))] / \mathbb E[(I \cdot a)^2]` is the best for each image, so that maps are
    not judged by their units; without, :math:`\beta = 1`, and small maps score better than wrong
    ones. ``relative`` divides by the mean squared fall: 1 is then what a map of zeros gets, and
    numbers of networks can be compared. A Monte Carlo estimate; a scaled map of zeros keeps
    :math:`\beta = 0`. NaN for a relative one where no perturbation changes the value.

    Args:
        perturbation: What is done: :class:`RemovedSquares` for contributions,
            :class:`AddedNoise` for sensitivities. The kind must be the map's.
        scaled: Whether the map is multiplied by the best factor.
        relative: Whether to divide by the mean squared fall.
        samples: Draws; the cost is half a pass for each, and one for the image.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.

    References:
        Yeh et al. (2019), "On the (In)fidelity and Sensitivity of Explanations", Definition 2.1
        and section 2.3; the scaling is that of the released code.
    """

    perturbation: Perturbation = field(default_factory=RemovedSquares)
    scaled: bool = True
    relative: bool = False
    samples: int = 200
    batch_size: int = 64

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=0.0,
        high=torch.inf,
        chance="that of random values; a map of zeros gets the mean squared fall",
        reference="Yeh et al. (2019), On the (In)fidelity and Sensitivity, Definition 2.1",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(1, self.batch_size)
        if self.samples < 1:
            msg = f"samples must be at least 1, better 200; got {self.samples}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one error per image, in double precision.

        Raises:
            NumericsError: If an attribution is NaN or infinite.
            ShapeError: If the attributions do not fit the images.
        """
        pixel_map(values)
        check_images(images)
        fits = values.shape[1] in (1, images.shape[1]) and values.shape[2:] == images.shape[2:]
        if len(values) != len(images) or not fits:
            msg = (
                f"Attributions must be one map per image, of the image's size; got "
                f"{tuple(values.shape)} for images {tuple(images.shape)}."
            )
            raise ShapeError(msg)
        change = self.perturbation.on(images, values)
        told = values.new_empty(len(images), self.samples, dtype=torch.float64)

        def changed(numbers: Tensor) -> Callable[[slice], Images]:
            make = change(numbers)

            def one(span: slice) -> Images:
                made, told[span, numbers] = make(span)
                return made

            return one

        seen = swept(f, images, self.samples, changed, self.batch_size).double()
        whole = answers(f, images, 1, lambda rows, _: images[rows], self.batch_size)
        return self.error(told, whole - seen)

    def error(self, told: Tensor, falls: Tensor) -> Scalars:
        """Return the mean squared error of what was told of the falls, both ``(b, s)``."""
        if self.scaled:
            size = told.square().sum(dim=1, keepdim=True)
            best = (told * falls).sum(dim=1, keepdim=True) / torch.where(size > 0, size, 1.0)
            told = best * told
        found = (told - falls).square().mean(dim=1)
        if not self.relative:
            return found
        changed = falls.square().mean(dim=1)
        return found / torch.where(changed > 0, changed, torch.nan)
