"""The 21 classifiers of the design's list, on images as small as they take.

Their weights are random, and calibrated so that signals neither die nor explode: a map of a network
whose logits hardly depend on the image says nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from whence.adapters.timm import open_timm
from whence.adapters.torchvision import open_torchvision

__all__ = ["SUBJECTS", "Subject"]

CALIBRATION = 16
"""How many images the weights are calibrated with."""

NEARLY_ZERO = 1e-3
"""Parameters as small as this switch a branch off (layer scales of 1e-6, for one)."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


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
            calibrate(model, self.images(CALIBRATION, seed=2))
        return model

    def images(self, count: int, *, seed: int = 1) -> Tensor:
        """Return as many random images, smooth and with noise, the same every time."""
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randn(count, 3, 4, 4, generator=generator)
        smooth = functional.interpolate(coarse, size=self.side, mode="bicubic")
        return smooth + 0.3 * torch.randn(smooth.shape, generator=generator)


def disturb(model: nn.Module) -> None:
    """Draw what was initialised with zeros or nearly so, and batch norms: they hide mistakes."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NORMS):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        for parameter in model.parameters():
            if float(parameter.abs().max()) < NEARLY_ZERO:
                fan_in = max(parameter.shape[1:].numel(), 16)
                parameter.normal_(0, 1 / math.sqrt(fan_in))


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set batch norms to the statistics of these images, and outputs of layers to unit variance.

    One forward in eval mode; every layer sees what the calibrated layers before it return. Then
    each class's logit gets mean zero and variance one over the images, by its weights: the
    predicted class is then one that the image speaks for, not one that the bias does.

    References:
        Mishkin and Matas (2016), "All you need is a good init", algorithm 1, in one step.
    """
    watch = Calibration(done=set(), last=[])
    hooks: list[RemovableHandle] = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, *NORMS)):
            hooks.append(module.register_forward_pre_hook(watch.before))
            hooks.append(module.register_forward_hook(watch.after))
    with torch.no_grad():
        model(images)
        for hook in hooks:
            hook.remove()
        head, features = watch.last[0]
        if features.ndim == 2:  # otherwise the model ends in a convolution, or in features
            tell_apart(head, features)


@final
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What happens at every layer during the forward that calibrates.

    Args:
        done: Modules that are calibrated; each is, when it is called first.
        last: The linear layer that was called last, with its inputs.
    """

    done: set[nn.Module]
    last: list[tuple[nn.Linear, Tensor]]

    def before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Set a batch norm to the statistics of its inputs."""
        if isinstance(module, NORMS) and module not in self.done:
            self.done.add(module)
            settle(module, inputs[0])

    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Scale a layer so that its output has unit variance; return that."""
        if isinstance(module, nn.Linear):
            self.last[:] = [(module, inputs[0])]
        if isinstance(module, NORMS) or module in self.done:
            return output
        self.done.add(module)
        scale = 1 / output.std().clamp_min(1e-6)
        for parameter in module.parameters(recurse=False):
            parameter.mul_(scale)
        return output * scale


def settle(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor) -> None:
    """Let a batch norm normalise by the statistics of these values."""
    axes = [axis for axis in range(values.ndim) if axis != 1]
    if norm.running_mean is not None and norm.running_var is not None:
        spread = values.var(dim=axes)
        norm.running_mean.copy_(values.mean(dim=axes))
        norm.running_var.copy_(spread.clamp_min(0.01 * float(values.square().mean())))


def tell_apart(head: nn.Linear, features: Tensor) -> None:
    """Let a last layer tell these images apart: logits of mean zero and variance one."""
    middle = features.mean(dim=0)
    head.weight.sub_(torch.outer(head.weight @ middle, middle) / middle.square().sum())
    head.weight.div_((features @ head.weight.T).std(dim=0)[:, None].clamp_min(1e-6))
    head.bias.mul_(0.1 / head.bias.abs().max().clamp_min(1e-6))


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
            timm("eva02_tiny_patch14_224", img_size=56, num_classes=1000),
            56,
        ),
        ("transformers/ViTForImageClassification", "hf", hugging_face, 64),
    ]
)
"""In the order of the design."""
