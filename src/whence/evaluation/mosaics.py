r"""Mosaics: images of two classes side by side, so that it is known where the evidence must be."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from whence.core import Attributions, Images, Labels, Scalars, check_images
from whence.errors import DataError
from whence.evaluation.localisation import RelevanceMass
from whence.evaluation.metric import MetricCard

__all__ = ["Focus", "Mosaics", "mosaics"]


@final
@dataclass(frozen=True, kw_only=True)
class Focus:
    """The share of the positive attribution that lies on a mosaic's images of the class.

    No masks of objects are needed: the quadrants are the mask. NaN where nothing is positive.

    References:
        Arias-Duarte, Pares, Garcia-Gasulla and Gimenez-Abalos (2022), "Focus! Rating XAI Methods
        and Finding Biases", section 3.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="0.5",
        reference="Arias-Duarte et al. (2022), Focus! Rating XAI Methods and Finding Biases",
    )

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one share per mosaic, with the masks that :func:`mosaics` made."""
        return RelevanceMass()(values, masks)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Mosaics:
    """Mosaics of two images of a class and two of another.

    Args:
        images: ``(m, c, h, w)``.
        masks: True on the two images of the class, ``(m, 1, h, w)``.
        labels: The class whose map is made, ``(m,)``.
        others: The other class, ``(m,)``.
        places: Which images stand upper left, upper right, lower left and lower right, ``(m, 4)``.
    """

    images: Tensor
    masks: Tensor
    labels: Labels
    others: Labels
    places: Tensor


def mosaics(
    images: Images, labels: Labels, *, count: int, seed: int = 0, shrink: bool = False
) -> Mosaics:
    """Return mosaics of two by two images: two of one class and two of another, at random places.

    Args:
        images: Preprocessed images ``(b, c, h, w)``; sides even, if they are shrunk.
        labels: Their classes ``(b,)``; classes of fewer than two images are left out.
        count: How many mosaics.
        seed: Of the classes, images and places.
        shrink: Average two by two pixels first, so that a mosaic has the size of an image, as
            networks of one size need; otherwise it has twice the rows and columns.

    Raises:
        DataError: If fewer than two classes have two images, or sides to be shrunk are odd.
    """
    check_images(images)
    generator = torch.Generator().manual_seed(seed)
    kinds = [k for k in sorted(set(labels.tolist())) if int((labels == k).sum()) >= 2]  # noqa: PLR2004
    if len(kinds) < 2 or count < 1:  # noqa: PLR2004 - two classes
        msg = (
            f"Mosaics need two classes of two images each, and a count of 1 or more; got "
            f"{len(kinds)} such classes and a count of {count}."
        )
        raise DataError(msg)
    if shrink:
        if images.shape[2] % 2 or images.shape[3] % 2:
            msg = f"Images of odd sides cannot be halved; got {tuple(images.shape[2:])}."
            raise DataError(msg)
        images = functional.avg_pool2d(images, 2)
    pairs, places, own = list[list[int]](), list[Tensor](), list[Tensor]()
    for _ in range(count):
        pair = [kinds[k] for k in torch.randperm(len(kinds), generator=generator)[:2]]
        members = [drawn_two(labels, k, generator) for k in pair]
        order = torch.randperm(4, generator=generator)
        pairs.append(pair)
        places.append(torch.cat(members)[order])
        own.append(order < 2)  # noqa: PLR2004 - the first two are of the class
    chosen, mine = torch.stack(places), torch.stack(own)
    height, width = images.shape[2:]
    masks = mine.view(-1, 4, 1, 1, 1).expand(-1, 4, 1, height, width)
    classes = torch.tensor(pairs, device=labels.device)
    return Mosaics(
        images=tiled(images[chosen.to(images.device)]),
        masks=tiled(masks).to(images.device),
        labels=classes[:, 0],
        others=classes[:, 1],
        places=chosen,
    )


def drawn_two(labels: Labels, kind: int, generator: torch.Generator) -> Tensor:
    """Return the places of two images of a class."""
    members = (labels == kind).nonzero()[:, 0].cpu()
    return members[torch.randperm(len(members), generator=generator)[:2]]


def tiled(parts: Tensor) -> Tensor:
    """Return four parts of each mosaic, ``(m, 4, c, h, w)``, as one image of two by two."""
    rows = [torch.cat([parts[:, k], parts[:, k + 1]], dim=3) for k in (0, 2)]
    return torch.cat(rows, dim=2)
