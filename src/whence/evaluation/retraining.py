"""Remove and retrain: which pixels a map takes away before a network is trained again."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.core import Images, TensorData
from whence.errors import SettingError
from whence.evaluation.faithfulness import places_of
from whence.evaluation.metric import MetricCard
from whence.evaluation.steps import Fill, filled

__all__ = ["Retraining"]


@final
@dataclass(frozen=True, kw_only=True)
class OneColour:
    """One colour for all images, in the model's units; as a fill it tells nothing of an image."""

    values: tuple[float, ...]

    def __call__(self, images: Images) -> Images:
        """Return it, spread over all images."""
        return images.new_tensor(self.values).view(1, -1, 1, 1).expand_as(images)


@final
@dataclass(frozen=True, kw_only=True)
class Retraining:
    """ROAR, or KAR where pixels are kept instead: accuracy of networks that never see some pixels.

    If a map names the pixels that hold the information, a network that never sees them does
    worse. The value is the mean accuracy over the shares, on test images without their pixels.

    Args:
        shares: Shares of the pixels that are replaced, over 0 and under 1.
        order: ``remove`` replaces the most relevant pixels (ROAR: a lower accuracy than that of
            random ones is better), ``keep`` the least relevant (KAR: a higher one).
        fill: What replaces a pixel; the mean colour of the training images if None, as in the
            paper. Another network may learn from a fill that depends on the image: the mean of
            an image (``mean``) still tells of the pixels that are gone.
        seeds: Networks per share; the cost is a training for each seed and share, of each method
            and each control.
        batch_size: Test images per forward pass.

    References:
        Hooker et al. (2019), "A Benchmark for Interpretability Methods in Deep Neural Networks".
    """

    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    order: str = "remove"
    fill: Fill | None = None
    seeds: int = 3
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.shares or min(self.shares) <= 0 or max(self.shares) >= 1:
            msg = f"shares are over 0 and under 1; got {self.shares}."
            raise SettingError(msg)
        if self.order not in ("remove", "keep"):
            msg = f"order must be remove (ROAR) or keep (KAR); got {self.order!r}."
            raise SettingError(msg)
        for name, value in (("seeds", self.seeds), ("batch_size", self.batch_size)):
            if value < 1:
                msg = f"{name} must be at least 1; got {value}."
                raise SettingError(msg)

    @property
    def card(self) -> MetricCard:
        """Direction, range, chance and reference; the direction is that of the order."""
        return MetricCard(
            better="lower" if self.order == "remove" else "higher",
            low=0.0,
            high=1.0,
            chance="the accuracy without as many random pixels",
            reference=(
                "Hooker et al. (2019), A Benchmark for Interpretability Methods in Deep Neural "
                "Networks"
            ),
        )

    def settled(self, train: TensorData) -> "Retraining":
        """Return the settings with the fill that these training images give."""
        if self.fill is not None:
            return self
        colour = train.images.double().mean(dim=(0, 2, 3))
        return replace(self, fill=OneColour(values=tuple(colour.tolist())))

    def masked(self, data: TensorData, values: Tensor, share: float) -> TensorData:
        """Return the data with a share of each image's pixels replaced.

        Pixels with equal attributions are replaced in one fixed random order. Without a fill, the
        colour is that of the data given; :meth:`settled` fixes it for training and test images.

        Raises:
            ShapeError: If there is not one map of the image's size for each image.
        """
        fill = self.settled(data).fill or OneColour(values=())
        signed = values if self.order == "remove" else -values
        parts: list[Tensor] = []
        for rows in torch.split(torch.arange(len(data.images)), self.batch_size):
            images = data.images[rows]
            places = places_of(images, signed[rows], 0)
            count = round(share * places.shape[1])
            stays = (places >= count).view(len(images), 1, *images.shape[2:])
            every = torch.arange(len(images), device=images.device)
            parts.append(filled(images, fill)(every, stays))
        return TensorData(images=torch.cat(parts), labels=data.labels, classes=data.classes)
