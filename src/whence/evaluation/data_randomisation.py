"""Data randomisation: does a map depend on the labels that the network learned?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from whence.core import (
    Batch,
    ImageData,
    Images,
    Method,
    ModelScalar,
    Target,
    fingerprint_data,
    fingerprint_tensor,
)
from whence.errors import DataError, SettingError
from whence.evaluation.agreement import Pairwise, Spearman
from whence.evaluation.metric import MetricCard
from whence.evaluation.similarity import Similarities
from whence.network import Network

__all__ = ["DataRandomisation", "PermutedLabels", "permuted_labels"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DataRandomisation:
    """How alike maps are to those of a network that was trained on permuted labels.

    A method whose maps stay the same shows the images, not what was learned of their classes.
    Train the second network, of the same architecture, on :func:`permuted_labels` until it knows
    them by heart; one that has learned nothing says little.

    Cost: one run of the method on each network.

    Args:
        permuted: The network that was trained on permuted labels, in eval mode. A metric without
            one is a name for what is still to be trained, and refuses to measure.
        agreement: How two maps are compared.

    References:
        Adebayo et al. (2018), "Sanity Checks for Saliency Maps", section 3.2.
    """

    permuted: nn.Module | None = field(default=None, repr=False, metadata={"text": False})
    agreement: Pairwise = field(default_factory=Spearman)

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=-1.0,
        high=1.0,
        chance="1 for maps that ignore the network; 0 for unrelated maps",
        reference="Adebayo et al. (2018), Sanity Checks for Saliency Maps, section 3.2",
    )

    def __call__(
        self, model: nn.Module, images: Images, target: Target, method: Method
    ) -> Similarities:
        """Return the similarity of the two networks' maps, one stage.

        Args:
            model: The network that was trained on the true labels, in eval mode.
            images: ``(b, c, h, w)``.
            target: What is explained of both; name the classes.
            method: The method that is judged.

        Raises:
            SettingError: If there is no second network.
        """
        if self.permuted is None:
            msg = (
                "Data randomisation needs a network of the same architecture that was trained on "
                "permuted labels: DataRandomisation(permuted=...); see permuted_labels()."
            )
            raise SettingError(msg)
        first, second = (
            method(ModelScalar(Network.read(one, images), target), images).detach()
            for one in (model, self.permuted)
        )
        values = self.agreement(first, second)
        return Similarities(stages=("permuted labels",), values=values[None])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PermutedLabels:
    """A dataset with the labels of its images permuted; make it with :func:`permuted_labels`.

    Args:
        data: The dataset.
        labels: The new label of each image, -1 where there is none.
    """

    data: ImageData
    labels: Tensor

    @property
    def title(self) -> str:
        """What to call the dataset in a report."""
        return f"{self.data.title}, labels permuted"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.data.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image found unusable so far."""
        return self.data.skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.data)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.data.name(index)

    def label(self, index: int) -> int | None:
        """Return the permuted label of an image."""
        label = int(self.labels[index])
        return None if label < 0 else label

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, with permuted labels."""
        for batch in self.data.batches(size, indices):
            labels = self.labels[batch.indices.cpu()].to(batch.labels)
            yield Batch(indices=batch.indices, images=batch.images, labels=labels)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the dataset's fingerprint and the new labels."""
        return fingerprint_data(
            [(f"{self.data.fingerprint()}{fingerprint_tensor(self.labels)}", 0)]
        )


def permuted_labels(data: ImageData, seed: int = 0) -> PermutedLabels:
    """Return the dataset with its labels in random order, so that images say nothing of them.

    How often each class occurs stays. Images without a label keep none.

    Raises:
        DataError: If fewer than two classes occur, which leaves nothing to permute.
    """
    found = [data.label(k) for k in range(len(data))]
    labels = torch.tensor([-1 if k is None else k for k in found], dtype=torch.long)
    places = (labels >= 0).nonzero()[:, 0]
    if len(set(labels[places].tolist())) < 2:  # noqa: PLR2004 - two kinds of labels
        msg = "Permuting labels needs images of two classes or more; there are fewer."
        raise DataError(msg)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    labels[places] = labels[places[order]]
    return PermutedLabels(data=data, labels=labels)
