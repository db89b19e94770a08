"""Passes: going over the training images that a curvature is made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Batch, ImageData, Progress, silent
from whence.curvature.draws import Draws
from whence.errors import DataError, NumericsError, SettingError
from whence.gradients import ExampleGradients, Recorder
from whence.network import Network

__all__ = ["TrainingImages", "classes_of"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingImages:
    """Training images, and what records their gradients.

    Args:
        recorder: Records gradients for the chosen parameters.
        data: Images with labels.
        indices: Which of them; all if None.
        batch_size: How many at a time.
        progress: Told how many images are done.
    """

    recorder: Recorder
    data: ImageData
    indices: tuple[int, ...] | None = None
    batch_size: int = 32
    progress: Progress = silent

    def __post_init__(self) -> None:
        """Refuse a batch without images, and data without any."""
        if self.batch_size < 1:
            msg = f"batch_size must be at least 1; got {self.batch_size}."
            raise SettingError(msg)
        if not len(self):
            msg = f"A curvature needs at least one training image; {self.data.title} holds none."
            raise DataError(msg)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.data) if self.indices is None else len(self.indices)

    @property
    def network(self) -> Network:
        """The network."""
        return self.recorder.network

    @property
    def places(self) -> Sequence[int]:
        """The images' places in the data."""
        return range(len(self.data)) if self.indices is None else self.indices

    def check_labels(self) -> None:
        """Refuse images without a label, or with one that the model does not have.

        Raises:
            DataError: If a label is missing, or is not one of the model's classes.
        """
        classes = classes_of(self.network)
        for index in self.places:
            label = self.data.label(index)
            if label is None or not 0 <= label < classes:
                found = "no label" if label is None or label < 0 else f"the label {label}"
                msg = (
                    f"The training image {self.data.name(index)!r} has {found}; a curvature of "
                    f"the labels' loss needs one from 0 to {classes - 1} for every image. Take "
                    f"the model's own labels instead, or leave these images out."
                )
                raise DataError(msg)

    def batches(self, stage: str, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the images batch by batch on the model's device.

        Args:
            stage: What to call the pass.
            indices: Only these images.

        Raises:
            DataError: If none of them can be used.
            NumericsError: If an image is NaN or infinite.
        """
        device = self.network.example.device
        chosen = self.indices if indices is None else indices
        total = len(self) if indices is None else len(indices)
        done = 0
        self.progress(stage, 0, total)
        for batch in self.data.batches(self.batch_size, chosen):
            images = batch.images.to(device)
            finite = images.flatten(1).isfinite().all(dim=1).cpu()
            if not finite.all():
                names = [self.data.name(int(i)) for i in batch.indices[~finite][:5]]
                msg = f"The training images {names} hold NaN or infinity."
                raise NumericsError(msg)
            yield Batch(indices=batch.indices, images=images, labels=batch.labels.to(device))
            done += len(batch.indices)
            self.progress(stage, done, total)
        if not done:
            msg = f"{self.data.title} holds no usable training image."
            raise DataError(msg)
        self.progress(stage, total, total)

    def draws(self, batch: Batch, draws: Draws, numbers: Tensor) -> Iterator[ExampleGradients]:
        """Yield the gradients of a batch, once for each draw.

        Args:
            batch: Images on the model's device.
            draws: Which gradients.
            numbers: Random numbers of all images, by place, ``(n, numbers)``.
        """
        own = numbers[batch.indices].to(batch.images.device)
        for target in draws.targets(batch.labels, own, classes_of(self.network)):
            yield self.recorder.record(batch.images, target)

    def numbers(self, draws: Draws, generator: torch.Generator | None) -> Tensor:
        """Return the random numbers of all images: the same, however batches are cut."""
        generator = seeded() if generator is None else generator
        count = draws.numbers(classes_of(self.network))
        return torch.rand(
            len(self.data), count, generator=generator, dtype=torch.float64, device=generator.device
        ).cpu()


def seeded() -> torch.Generator:
    """Return the generator that is used where none is given."""
    return torch.Generator().manual_seed(0)


def classes_of(network: Network) -> int:
    """Return how many classes the network has."""
    output = next(n for n in network.graph.nodes if n.op == "output")
    return int(output.all_input_nodes[0].meta["val"].shape[1])
