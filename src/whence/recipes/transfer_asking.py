"""What a network is shown of another network's maps, and what it says of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.evaluation.transfer import Judgement
from whence.evaluation.transfer_masks import (
    OBJECT,
    Showing,
    features,
    resampled_masks,
    strangers,
    zoom_between,
)
from whence.recipes.transfer_networks import TransferNetwork
from whence.recipes.transfer_plan import Originals, Plan

__all__ = ["Asking", "packed"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Asking:
    """Shows networks what maps leave of the images, and the controls.

    Args:
        plan: What is studied.
        kept: The numbers of the images that every network can see, ascending.
    """

    plan: Plan
    kept: Tensor

    def asked(
        self,
        generator: TransferNetwork,
        evaluator: TransferNetwork,
        masks: Tensor,
        said: Originals,
    ) -> dict[tuple[str, str, str], Tensor]:
        """Return what a network says of all that is shown of another network's maps."""
        others = masks[strangers(len(self.kept), seed=self.plan.seed)]
        zoom = generator.zoom_to(evaluator)
        found: dict[tuple[str, str, str], list[Tensor]] = {}
        for rows, pixels, showing in self.pictures(evaluator):
            size = (pixels.shape[2], pixels.shape[3])
            own, other = (
                resampled_masks(each[rows].to(pixels), size, zoom) for each in (masks, others)
            )
            for *key, images in showing(pixels, self.kept[rows], own, other):
                judged = self.said(evaluator, images, said, rows)
                found.setdefault((key[0], key[1], key[2]), []).append(judged)
        return {key: torch.cat(parts) for key, parts in found.items()}

    def objects(
        self, evaluator: TransferNetwork, said: Originals
    ) -> dict[tuple[str, str, str], Tensor]:
        """Return what a network says of the objects alone, on every fill."""
        found: dict[tuple[str, str, str], list[Tensor]] = {}
        masks = self.plan.masks
        for rows, pixels, showing in self.pictures(evaluator):
            if masks is None:
                continue
            size = (pixels.shape[2], pixels.shape[3])
            zoom = zoom_between(1.0, evaluator.share)
            own = resampled_masks(masks[self.kept[rows]].to(pixels), size, zoom)
            for name, behind in showing.behind(pixels, self.kept[rows]).items():
                images = features(pixels, own, behind)
                judged = self.said(evaluator, images, said, rows)
                found.setdefault((OBJECT, "", name), []).append(judged)
        return {key: torch.cat(parts) for key, parts in found.items()}

    def pictures(self, evaluator: TransferNetwork) -> Iterator[tuple[Tensor, Tensor, Showing]]:
        """Yield places among the kept images, their pixels, and what is to be shown of them."""
        units = evaluator.normalisation
        showing = self.plan.showing(units.to_pixels(evaluator.filling(self.kept.tolist())))
        for batch in evaluator.data.batches(self.plan.batch_size, self.kept.tolist()):
            rows = torch.searchsorted(self.kept, batch.indices)
            yield rows, units.to_pixels(batch.images.to(evaluator.device)), showing

    def said(
        self, evaluator: TransferNetwork, pixels: Tensor, said: Originals, rows: Tensor
    ) -> Tensor:
        """Return what a network says of pictures, as columns."""
        return Judgement.of(
            evaluator.model,
            evaluator.normalisation,
            pixels,
            said.labels[rows],
            said.predictions[rows],
        ).columns()


def packed(said: Mapping[tuple[str, str, str], Tensor]) -> dict[str, NDArray[Any]]:
    """Return what a network said as two arrays: what was shown, and the columns."""
    return {
        "keys": np.array(list(said), dtype=np.str_),
        "values": np.stack([values.numpy() for values in said.values()]),
    }
