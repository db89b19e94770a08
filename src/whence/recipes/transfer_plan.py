"""What a study of harmony asks, what networks say of the images as they are, and what it found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.core import Baseline
from whence.errors import DataError, SettingError
from whence.evaluation.transfer import Judgement, TransferCell, Verdict
from whence.evaluation.transfer_masks import Bank, Showing
from whence.recipes.transfer_methods import BANK, StudiedMethod, fill_named
from whence.recipes.transfer_networks import TransferNetwork

__all__ = ["Found", "Originals", "Plan", "judged_originals"]

TARGETS = ("predicted", "label")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is studied; see :func:`whence.recipes.transfer.transfer`."""

    methods: tuple[StudiedMethod, ...]
    fills: tuple[str, ...]
    coverages: tuple[float, ...]
    target: str
    masks: Tensor | None
    count: int | None
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.target not in TARGETS:
            msg = f"target is one of {', '.join(TARGETS)}; got {self.target!r}."
            raise SettingError(msg)
        if self.batch_size < 1 or (self.count is not None and self.count < 2):  # noqa: PLR2004 - one and another
            msg = (
                f"A study needs two images or more, and batches of one or more; got "
                f"{self.count} and {self.batch_size}."
            )
            raise SettingError(msg)
        if len(set(self.fills)) < len(self.fills):
            msg = f"Each fill is given once; got {', '.join(self.fills)}."
            raise SettingError(msg)

    def showing(self, bank: Tensor) -> Showing:
        """Return what is shown, with a bank in pixels."""
        fills: dict[str, Baseline | Bank] = {
            name: Bank(images=bank) if name == BANK else fill_named(name) for name in self.fills
        }
        return Showing(coverages=self.coverages, fills=fills, seed=self.seed)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Originals:
    """What a network says of the images as they are, in the order of their numbers."""

    indices: Tensor
    labels: Tensor
    predictions: Tensor
    columns: Tensor

    def at(self, indices: Tensor) -> "Originals":
        """Return the rows of these images."""
        places = torch.searchsorted(self.indices, indices)
        return Originals(
            indices=self.indices[places],
            labels=self.labels[places],
            predictions=self.predictions[places],
            columns=self.columns[places],
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a study found.

    Args:
        verdicts: What each cell of the cube comes to.
        families: The kind of each network.
        maps: Soft masks, and which of them show nothing, by method and network.
        count: Images.
        seconds: How long each stage took, this time.
    """

    verdicts: Mapping[TransferCell, Verdict]
    families: Mapping[str, str]
    maps: Mapping[tuple[str, str], tuple[Tensor, Tensor]]
    count: int
    seconds: Mapping[str, float]


def judged_originals(
    one: TransferNetwork, places: Sequence[int], batch_size: int
) -> dict[str, NDArray[Any]]:
    """Return what a network says of the images as they are, as arrays.

    Args:
        one: The network, with its data.
        places: The numbers of the images.
        batch_size: Images at a time.

    Raises:
        DataError: An image without a label, or no usable image.
    """
    parts: dict[str, list[Tensor]] = {}
    for batch in one.data.batches(batch_size, places):
        if (batch.labels < 0).any():
            first = int(batch.indices[batch.labels < 0][0])
            msg = (
                f"Image {one.data.name(first)} has no label, and whether a network recognises "
                f"it cannot be said. Give labelled images."
            )
            raise DataError(msg)
        pixels = one.normalisation.to_pixels(batch.images.to(one.device))
        said = Judgement.of(one.model, one.normalisation, pixels, batch.labels)
        rows = {
            "indices": batch.indices,
            "labels": batch.labels,
            "predictions": said.predictions,
            "columns": said.columns(),
        }
        for name, row in rows.items():
            parts.setdefault(name, []).append(row)
    joined = {name: torch.cat(rows) for name, rows in parts.items()}
    if not joined:
        msg = f"{one.data.title} holds no usable image for {one.name}."
        raise DataError(msg)
    order = joined["indices"].argsort()
    return {name: rows[order].numpy() for name, rows in joined.items()}
