"""Batches: training images with labels that a network has, as many at a time as fit in memory."""

from math import prod

import torch
from torch import Tensor
from torch.fx import Node

from whence.core import ImageData, Progress, silent
from whence.curvature.passes import TrainingImages, seeded
from whence.errors import DataError, SettingError, TargetError
from whence.gradients import Recorder
from whence.network import Network
from whence.network.layout import multiple_of_batch, shape_of

__all__ = ["check_labels", "classes_of", "images_per_batch", "training_images"]


def check_labels(train: ImageData, indices: Tensor, labels: Tensor, network: Network) -> None:
    """Refuse training images without a label, or with one that the model does not have."""
    if int(labels.min()) < 0:
        first = int(indices[int((labels < 0).nonzero()[0, 0])])
        msg = (
            f"The training image {train.name(first)!r} has no label. Influence needs the label "
            f"of every training image: use a folder of class folders, or an array of labels."
        )
        raise DataError(msg)
    classes = classes_of(network)
    if int(labels.max()) >= classes:
        first = int((labels >= classes).nonzero()[0, 0])
        msg = (
            f"The training image {train.name(int(indices[first]))!r} has the label "
            f"{int(labels[first])}, but the model's classes run from 0 to {classes - 1}."
        )
        raise TargetError(msg)


def classes_of(network: Network) -> int:
    """Return how many classes the network has."""
    output = next(n for n in network.graph.nodes if n.op == "output")
    return int(output.all_input_nodes[0].meta["val"].shape[1])


def images_per_batch(recorder: Recorder, memory: int, most: int = 64) -> int:
    """Return how many training images fit into memory with all that is recorded of them."""
    per_image = 0
    for node in recorder.uses.recorded:
        per_image += 2 * bytes_per_image(node)
    for use in recorder.uses.layers:
        if use.operation == "conv2d" and use.weight is not None:
            source = recorder.uses.recorded[use.source]
            window = prod(use.settings[0][2:])
            per_image += window * bytes_per_image(source)
    return max(1, min(most, memory // max(per_image, 1)))


def bytes_per_image(node: Node) -> int:
    """Return how many bytes a value of the graph takes for each image."""
    sizes = [s if isinstance(s, int) else multiple_of_batch(s) or 1 for s in shape_of(node)]
    return prod(sizes) * int(node.meta["val"].element_size())


def training_images(
    recorder: Recorder,
    train: ImageData,
    *,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> TrainingImages:
    """Return the training images that a curvature is made of.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images.
        images: How many of them, drawn at random; all if None, or if there are fewer.
        generator: Draws them.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes for what is recorded of a batch.
        progress: Told how many images are done.

    Raises:
        DataError: If there are none.
        SettingError: If less than one image is asked for.
    """
    if images is not None and images < 1:
        msg = f"A curvature needs at least one training image; got images={images}."
        raise SettingError(msg)
    chosen: tuple[int, ...] | None = None
    if images is not None and images < len(train):
        generator = seeded() if generator is None else generator
        order = torch.randperm(len(train), generator=generator, device=generator.device)
        chosen = tuple(sorted(order[:images].tolist()))
    return TrainingImages(
        recorder=recorder,
        data=train,
        indices=chosen,
        batch_size=images_per_batch(recorder, memory) if batch_size is None else batch_size,
        progress=progress,
    )
