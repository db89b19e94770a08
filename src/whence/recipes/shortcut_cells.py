"""Cells: what a network sees at each place of an image, and how that speaks for the label."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from whence.core import Batch, Images, Margin
from whence.errors import DataError, SettingError, UnsupportedOperation
from whence.network import Cut, Network
from whence.network.cut import bottlenecks
from whence.network.layout import plane_of

__all__ = ["Cells", "Look", "clusters", "look_of", "nearest"]

SIDE = 12
"""Cells on the shorter side that are enough to tell places of an image apart."""

ROUNDS = 12
"""Rounds of k-means."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """What some images show, cell by cell.

    Args:
        labels: Labels of the images, ``(n,)``.
        features: What the network sees in each cell, ``(n, cells, k)``.
        evidence: How each cell speaks for the label, ``(n, cells)``, see :meth:`Look.evidence`;
            zeros if it was not asked for.
    """

    labels: Tensor
    features: Tensor
    evidence: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Where in the network to look: fine enough to tell places apart, and where it decides.

    Args:
        network: The network.
        fine: The deepest map with cells enough: what a cell looks like.
        deep: Later maps: how a place speaks for a class.
        centres: The mean activation of each later map, ``(1, k, 1, 1)``.
    """

    network: Network
    fine: Cut
    deep: tuple[Cut, ...]
    centres: tuple[Tensor, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.fine.plane.height, self.fine.plane.width

    def features(self, images: Images) -> Tensor:
        """Return what the network sees in each cell, ``(b, cells, k)``."""
        with torch.no_grad():
            maps = self.fine.maps(self.fine.head(images)[0])
        return maps.flatten(2).transpose(1, 2).float().cpu()

    def centred(self, images: Images) -> "Look":
        """Return where to look, with the mean activation of some images as nothing special."""
        with torch.no_grad():
            maps = [cut.maps(cut.head(images)[0]) for cut in self.deep]
        return replace(self, centres=tuple(m.mean(dim=(0, 2, 3), keepdim=True) for m in maps))

    def evidence(self, images: Images, labels: Tensor) -> Tensor:
        r"""Return how each cell speaks for the label, ``(b, cells)``.

        .. math:: e_t = \sum_\ell \frac{1}{s_\ell} \sum_k
                  (A^\ell_{kt} - \bar A^\ell_k) \frac{\partial m_y}{\partial A^\ell_{kt}}

        with the margin (log-odds) of the label, the maps :math:`A^\ell` behind the fine one
        enlarged to its cells, their means :math:`\bar A^\ell` over images and places as what
        "nothing in particular" looks like, and :math:`s_\ell` the mean of the absolute values,
        so that no map outweighs the others.
        """
        target = Margin(labels.to(images.device))
        total = torch.zeros(len(images), *self.grid)
        for cut, centre in zip(self.deep, self.centres, strict=True):
            with torch.no_grad():
                activation, *others = cut.head(images)
            leaf = activation.detach().requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(target(cut.tail(leaf, *others)).sum(), leaf)
            values = ((cut.maps(activation) - centre) * cut.maps(slope)).sum(dim=1, keepdim=True)
            shown = functional.interpolate(
                values.detach().float().cpu(), size=self.grid, mode="bilinear", align_corners=False
            )[:, 0]
            scale = shown.abs().mean()
            total += shown / scale if scale > 0 else shown
        return total.flatten(1)

    def cells(self, batches: Iterator[Batch], *, evidence: bool) -> Cells:
        """Return the cells of those images that have labels.

        Args:
            batches: The images.
            evidence: Whether to find how they speak for the labels, which costs the way from the
                later maps to the logits and back.

        Raises:
            DataError: If there are none.
        """
        device = self.network.example.device
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in batches:
            known = batch.labels >= 0
            images, labels = batch.images[known].to(device), batch.labels[known]
            if len(images):
                seen = self.features(images)
                speaks = self.evidence(images, labels) if evidence else torch.zeros(seen.shape[:2])
                parts.append((labels, seen, speaks))
        if not parts:
            msg = "Shortcuts are looked for in labelled images, and there are none."
            raise DataError(msg)
        labels, features, spoken = (torch.cat(each) for each in zip(*parts, strict=True))
        return Cells(labels=labels, features=features, evidence=spoken)


def look_of(network: Network, side: int = SIDE) -> Look:
    """Return where to look in a network.

    Args:
        network: The network.
        side: Cells wanted on the shorter side of an image.

    Raises:
        UnsupportedOperation: If the network has no feature map that all predictions pass through.
    """
    size = (network.example.shape[2], network.example.shape[3])
    try:
        last = network.cut()
    except SettingError as error:
        raise UnsupportedOperation(str(error)) from error
    places = []
    for node in bottlenecks(network.module.graph):
        plane = plane_of(node, size)
        if plane is not None:
            places.append((node.name, min(plane.height, plane.width)))
        if node.name == last.node:
            break
    most = max(cells for _, cells in places)
    fine = max(at for at, (_, cells) in enumerate(places) if cells >= min(side, most))
    behind = [name for name, _ in places[fine + 1 :]]
    chosen = [behind[len(behind) // 2 - 1], last.node] if len(behind) > 1 else [last.node]
    names = list(dict.fromkeys(chosen))
    return Look(
        network=network,
        fine=network.cut(places[fine][0]),
        deep=tuple(last if name == last.node else network.cut(name) for name in names),
    )


def clusters(points: Tensor, count: int, seed: int) -> Tensor:
    """Return centres of a k-means clustering, ``(count, d)``.

    Args:
        points: ``(n, d)``.
        count: How many; at most as many as there are points.
        seed: Of the first centres (k-means++).
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(count, len(points))
    first = torch.randint(len(points), (1,), generator=generator)
    centres = points[first]
    far = (points - centres).square().sum(dim=1)
    for _ in range(count - 1):
        if not bool(far.sum() > 0):
            break
        new = points[torch.multinomial(far, 1, generator=generator)]
        centres = torch.cat([centres, new])
        far = torch.minimum(far, (points - new).square().sum(dim=1))
    for _ in range(ROUNDS):
        own = nearest(points, centres)
        sizes = torch.bincount(own, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, own, points)
        centres = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp(min=1), centres)
    return centres


def nearest(points: Tensor, centres: Tensor, chunk: int = 16384) -> Tensor:
    """Return which centre each point is nearest to, ``(n,)``."""
    return torch.cat([torch.cdist(p, centres).argmin(dim=1) for p in torch.split(points, chunk)])
