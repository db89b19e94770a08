"""What is audited: the settings, the model with how to show what it sees, and its predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from whence.adapters import LoadedModel, Preprocessing
from whence.core import ImageData, Method, Progress
from whence.errors import DataError, SettingError
from whence.influence import Checkpoint, Scorer
from whence.network import Network
from whence.recipes.likeness import Picture
from whence.recipes.retrain import Removal
from whence.training_features import TrainingMap

__all__ = ["Settings", "Subject", "Tested", "choose", "predict"]


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an audit, checked."""

    queries: str | tuple[int, ...]
    count: int
    k: int
    scorer: Scorer
    checkpoints: tuple[Checkpoint, ...]
    parameters: str | tuple[str, ...]
    method: Method
    training_map: TrainingMap | None
    batch_size: int | None
    groups: Mapping[str, tuple[int, ...]]
    removal: Removal | None

    def __post_init__(self) -> None:
        """Check ranges and names."""
        if self.count < 1 or self.k < 1:
            msg = f"count and k must be at least 1; got count={self.count}, k={self.k}."
            raise SettingError(msg)
        if isinstance(self.queries, str) and self.queries not in ("wrong", "all"):
            msg = f"queries must be 'wrong', 'all' or places; got {self.queries!r}."
            raise SettingError(msg)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """The model under audit, with how to show what it sees."""

    module: nn.Module
    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None

    @staticmethod
    def of(
        model: nn.Module | LoadedModel,
        train: ImageData,
        preprocessing: Preprocessing | None,
        classes: Sequence[str] | None,
        name: str | None,
    ) -> "Subject":
        """Return the subject for what the user gave."""
        given = tuple(classes) if classes is not None else ()
        if isinstance(model, LoadedModel):
            return Subject(
                module=model.module,
                name=name or model.name,
                classes=given or model.classes,
                preprocessing=preprocessing or model.preprocessing,
            )
        return Subject(
            module=model,
            name=name or type(model).__name__,
            classes=given or train.classes,
            preprocessing=preprocessing,
        )

    def picture(self, image: Tensor) -> Picture:
        """Return an image as the model sees it, for display."""
        if self.preprocessing is not None:
            return self.preprocessing.picture(image)
        low, high = float(image.min()), float(image.max())
        values = (image.double() - low) / ((high - low) or 1.0) * 255
        array = values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        shown: Picture = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]
        return shown


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Tested:
    """Predictions for the test data."""

    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor

    @property
    def accuracy(self) -> float | None:
        """Share of labelled test images that are right; None without labels."""
        known = self.labels >= 0
        if not known.any():
            return None
        return float((self.predictions[known] == self.labels[known]).double().mean())


def predict(
    network: Network, test: ImageData, device: torch.device, batch_size: int, progress: Progress
) -> Tested:
    """Predict the test data, batch by batch.

    Raises:
        DataError: If no image can be used.
    """
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    progress("predicting", 0, len(test))
    for batch in test.batches(batch_size):
        with torch.no_grad():
            logits = network(batch.images.to(device))
        confidences, predictions = logits.softmax(dim=1).max(dim=1)
        parts.append((batch.indices, batch.labels, predictions.cpu(), confidences.cpu()))
        done += len(batch.indices)
        progress("predicting", done, len(test))
    if not parts:
        msg = f"{test.title} holds no usable images."
        raise DataError(msg)
    progress("predicting", len(test), len(test))
    indices, labels, predictions, confidences = (torch.cat(p) for p in zip(*parts, strict=True))
    return Tested(indices=indices, labels=labels, predictions=predictions, confidences=confidences)


def choose(tested: Tested, chosen: str | tuple[int, ...], count: int, total: int) -> list[int]:
    """Return the places of the test images to audit.

    Raises:
        SettingError: If one of those asked for does not exist.
    """
    usable = tested.indices.tolist()
    if not isinstance(chosen, str):
        missing = [i for i in chosen if i not in usable]
        if missing or not chosen:
            msg = (
                f"The test data have no usable image at {missing[:5] or 'no place at all'}; "
                f"places run from 0 to {total - 1}."
            )
            raise SettingError(msg)
        return list(chosen)
    wrong = (tested.predictions != tested.labels) & (tested.labels >= 0)
    if chosen == "wrong" and (tested.labels >= 0).any():
        usable = tested.indices[wrong].tolist() or usable
    step = max(1.0, len(usable) / count)
    return [usable[int(j * step)] for j in range(min(count, len(usable)))]
