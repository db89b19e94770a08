"""The 21 classifiers of the design's list, with random weights, on images as small as they take."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from whence.adapters.timm import open_timm
from whence.adapters.torchvision import open_torchvision

__all__ = ["SUBJECTS", "Subject"]


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model of the list.

    Args:
        name: The library and the model's name there.
        short: What a table's column calls it.
        make: Builds the model.
        side: The side of its images in pixels.
    """

    name: str
    short: str
    make: Callable[[], nn.Module]
    side: int = 64

    def model(self) -> nn.Module:
        """Return the model in eval mode, with the same random weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.make().eval()
            disturb(model)
        return model

    def images(self, count: int) -> Tensor:
        """Return as many random images, the same every time."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, 3, self.side, self.side, generator=generator)


def disturb(model: nn.Module) -> None:
    """Draw what was initialised with zeros, and batch norms' statistics: they hide mistakes."""
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                continue
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
        for parameter in model.parameters():
            if not parameter.any():
                fan_in = max(parameter.shape[1:].numel(), 16)
                parameter.normal_(0, 1 / math.sqrt(fan_in))


def torchvision(name: str, **settings: Any) -> Callable[[], nn.Module]:  # noqa: ANN401 - the library's own settings
    """Return what builds a model of torchvision."""

    def make() -> nn.Module:
        model: nn.Module = getattr(open_torchvision().models, name)(weights=None, **settings)
        return model

    return make


def timm(name: str, **settings: Any) -> Callable[[], nn.Module]:  # noqa: ANN401 - the library's own settings
    """Return what builds a model of timm."""

    def make() -> nn.Module:
        model: nn.Module = open_timm().create_model(name, **settings)
        return model

    return make


def hugging_face() -> nn.Module:
    """Return a small vision transformer of Hugging Face."""
    from transformers import ViTConfig, ViTForImageClassification  # noqa: PLC0415 - slow to import

    settings: dict[str, Any] = {
        "image_size": 64,
        "num_hidden_layers": 3,
        "hidden_size": 96,
        "num_attention_heads": 3,
        "intermediate_size": 192,
        "num_labels": 10,
    }
    return ViTForImageClassification(ViTConfig(**settings))


SUBJECTS: tuple[Subject, ...] = tuple(
    Subject(name=name, short=short, make=make, side=side)
    for name, short, make, side in [
        ("torchvision/resnet18", "rn18", torchvision("resnet18"), 64),
        ("torchvision/vgg16", "vgg", torchvision("vgg16"), 64),
        ("torchvision/alexnet", "alex", torchvision("alexnet"), 96),
        (
            "torchvision/googlenet",
            "goog",
            torchvision("googlenet", aux_logits=False, init_weights=False),
            64,
        ),
        ("torchvision/densenet121", "dens", torchvision("densenet121"), 64),
        ("torchvision/efficientnet_b0", "effn", torchvision("efficientnet_b0"), 64),
        ("torchvision/mobilenet_v3_small", "mob3", torchvision("mobilenet_v3_small"), 64),
        ("torchvision/convnext_tiny", "cnx", torchvision("convnext_tiny"), 64),
        ("torchvision/vit_b_16", "vitb", torchvision("vit_b_16", image_size=32), 32),
        ("torchvision/swin_t", "swin", torchvision("swin_t"), 64),
        ("timm/resnet18", "t:rn", timm("resnet18"), 64),
        ("timm/efficientnet_b0", "t:ef", timm("efficientnet_b0"), 64),
        ("timm/regnety_002", "regn", timm("regnety_002"), 64),
        ("timm/convnextv2_atto", "cnx2", timm("convnextv2_atto"), 64),
        ("timm/mixer_s32_224", "mixr", timm("mixer_s32_224", img_size=64), 64),
        ("timm/vit_tiny_patch16_224", "vitt", timm("vit_tiny_patch16_224", img_size=64), 64),
        ("timm/deit_tiny_patch16_224", "deit", timm("deit_tiny_patch16_224", img_size=64), 64),
        ("timm/levit_128s", "levi", timm("levit_128s", img_size=128), 128),
        ("timm/maxvit_tiny_tf_224", "maxv", timm("maxvit_tiny_tf_224", img_size=64), 64),
        (
            "timm/eva02_tiny_patch14_224",
            "eva2",
            timm("eva02_tiny_patch14_224", img_size=56),
            56,
        ),
        ("transformers/ViTForImageClassification", "hf", hugging_face, 64),
    ]
)
"""In the order of the design."""
