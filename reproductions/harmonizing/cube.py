"""The cube of one data set: maps of every network, shown to every network."""

import torch

from reproductions.harmonizing.networks import NETWORKS
from reproductions.harmonizing.scenes import BUILD, CIFAR, DIGITS, Scenes, canvases, scenes
from reproductions.harmonizing.training import trained
from whence.core import Progress, TensorData, silent
from whence.recipes.transfer import transfer
from whence.recipes.transfer_networks import TransferNetwork
from whence.results.transfer import TransferRecord

__all__ = ["FILLS", "GRAD_CAM", "METHODS", "MODIFIED", "RELEASED", "cube", "folder", "methods"]

MODIFIED, RELEASED, GRAD_CAM, PATHS = "SS modified", "SS original", "Grad-CAM", "IG"
METHODS = (MODIFIED, RELEASED, GRAD_CAM, PATHS)
STEPS = {DIGITS: 120, CIFAR: 80}
SETTINGS = "draws=2,scale=2,rate=0.1"
"""Of Soundness Saliency. The release takes 2000 steps of 10 draws at half the rate."""

FILLS = {DIGITS: ("zero", "mean", "blur", "bank"), CIFAR: ("zero", "blur", "bank")}
BANK = 200
"""Training images from which fills are drawn."""


def methods(dataset: str) -> dict[str, str]:
    """Return the methods of a study, by what they are called."""
    settings = f"steps={STEPS[dataset]},{SETTINGS}"
    found = {
        MODIFIED: f"ss-modified:{settings}",
        RELEASED: f"ss-original:{settings}",
        GRAD_CAM: "grad-cam",
    }
    if dataset == DIGITS:
        found[PATHS] = "integrated-gradients:steps=16"
    return found


def cube(dataset: str, progress: Progress = silent) -> TransferRecord:
    """Return the study of a data set; what is done of it already is not done again."""
    task = scenes(dataset)
    units = task.normalisation
    classes = tuple(str(k) for k in range(10))
    test = TensorData(
        images=units.to_model(task.test),
        labels=task.test_labels.long(),
        classes=classes,
        title=f"{dataset} (test)",
    )
    bank = TensorData(images=units.to_model(bank_of(dataset, task)), title=f"{dataset} (train)")
    networks = [
        TransferNetwork(
            name=name,
            model=trained(dataset, name, progress),
            data=test,
            normalisation=units,
            bank=bank,
        )
        for name in NETWORKS
    ]
    return transfer(
        networks,
        out=folder(dataset),
        methods=methods(dataset),
        fills=FILLS[dataset],
        masks=None if task.masks is None else task.masks.float(),
        batch_size=125,
        command="python -m reproductions.harmonizing",
        progress=progress,
    )


def bank_of(dataset: str, task: Scenes) -> torch.Tensor:
    """Return training images, in pixels."""
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(3))[:BANK]
    if dataset == DIGITS:
        return canvases(task.train[order], torch.Generator().manual_seed(4))[0]
    return task.train[order]


def folder(dataset: str) -> str:
    """Return where a study is kept."""
    return str(BUILD / "studies" / dataset.replace(" ", "-").lower())
