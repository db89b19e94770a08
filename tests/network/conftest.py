"""The 21 classifiers of the test list, small where their architecture allows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from whence.network import Cut, Network


def from_torchvision(name, **settings):
    def build():
        from whence.adapters.torchvision import open_torchvision

        return getattr(open_torchvision().models, name)(weights=None, **settings)

    return build


def from_timm(name, **settings):
    def build():
        from whence.adapters.timm import open_timm

        return open_timm().create_model(name, **settings)

    return build


def from_transformers():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=64,
        num_hidden_layers=3,
        hidden_size=96,
        num_attention_heads=3,
        intermediate_size=192,
        num_labels=10,
    )
    return ViTForImageClassification(config)


@dataclass(frozen=True)
class Expected:
    """What is known of a model: where it is cut, and what first breaks its homogeneity."""

    path: str
    kind: str
    grid: int
    prefix: int
    offender: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Case:
    """A model of the list with what was read from it, read once per process."""

    name: str
    build: Callable[[], nn.Module]
    size: int
    expected: Expected

    @cached_property
    def model(self) -> nn.Module:
        package = self.name.partition("/")[0]
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build().eval()
            disturb(model)
        return model

    @cached_property
    def images(self) -> torch.Tensor:
        return torch.randn(3, 3, self.size, self.size, generator=torch.Generator().manual_seed(1))

    @cached_property
    def network(self) -> Network:
        return Network.read(self.model, self.images)

    @cached_property
    def cut(self) -> Cut:
        return self.network.cut()

    def eager(self, images):
        output = self.model(images)
        return getattr(output, "logits", output)

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(m, nn.BatchNorm2d) for m in self.model.modules())


def disturb(model):
    """Draw batch norms' statistics, and what was initialised with zeros: they hide mistakes."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 1 / math.sqrt(max(parameter.shape[1:].numel(), 16)))


CASES = [
    Case(
        name=name,
        build=build,
        size=size,
        expected=Expected(path=path, kind=kind, grid=grid, prefix=prefix, offender=offender),
    )
    for name, build, size, (path, kind, grid, prefix), offender in [
        (
            "torchvision/resnet18",
            from_torchvision("resnet18"),
            64,
            ("layer4.1.relu", "bchw", 2, 0),
            ("bn1", "batch_norm"),
        ),
        (
            "torchvision/vgg16",
            from_torchvision("vgg16"),
            64,
            ("features.30", "bchw", 2, 0),
            ("features.0", "conv2d"),
        ),
        (
            "torchvision/alexnet",
            from_torchvision("alexnet"),
            96,
            ("features.12", "bchw", 2, 0),
            ("features.0", "conv2d"),
        ),
        (
            "torchvision/googlenet",
            from_torchvision("googlenet", aux_logits=False, init_weights=False),
            64,
            ("inception5b", "bchw", 2, 0),
            ("conv1.bn", "batch_norm"),
        ),
        (
            "torchvision/densenet121",
            from_torchvision("densenet121"),
            64,
            ("", "bchw", 2, 0),
            ("features.norm0", "batch_norm"),
        ),
        (
            "torchvision/efficientnet_b0",
            from_torchvision("efficientnet_b0"),
            64,
            ("features.8.2", "bchw", 2, 0),
            ("features.0.1", "batch_norm"),
        ),
        (
            "torchvision/mobilenet_v3_small",
            from_torchvision("mobilenet_v3_small"),
            64,
            ("features.12.2", "bchw", 2, 0),
            ("features.0.1", "batch_norm"),
        ),
        (
            "torchvision/convnext_tiny",
            from_torchvision("convnext_tiny"),
            64,
            ("features.7.2", "bchw", 2, 0),
            ("features.0.0", "conv2d"),
        ),
        (
            "torchvision/vit_b_16",
            from_torchvision("vit_b_16", image_size=64),
            64,
            ("encoder.layers.encoder_layer_10", "tokens", 4, 1),
            ("conv_proj", "conv2d"),
        ),
        (
            "torchvision/swin_t",
            from_torchvision("swin_t"),
            64,
            ("permute", "bchw", 2, 0),
            ("features.0.0", "conv2d"),
        ),
        (
            "timm/resnet18",
            from_timm("resnet18"),
            64,
            ("layer4.1.act2", "bchw", 2, 0),
            ("bn1", "batch_norm"),
        ),
        (
            "timm/efficientnet_b0",
            from_timm("efficientnet_b0"),
            64,
            ("bn2.act", "bchw", 2, 0),
            ("bn1", "batch_norm"),
        ),
        (
            "timm/regnety_002",
            from_timm("regnety_002"),
            64,
            ("s4.b7.act3", "bchw", 2, 0),
            ("stem.bn", "batch_norm"),
        ),
        (
            "timm/convnextv2_atto",
            from_timm("convnextv2_atto"),
            64,
            ("stages.3.blocks.1", "bchw", 2, 0),
            ("stem.0", "conv2d"),
        ),
        (
            "timm/mixer_s32_224",
            from_timm("mixer_s32_224", img_size=64),
            64,
            ("norm", "tokens", 2, 0),
            ("stem.proj", "conv2d"),
        ),
        (
            "timm/vit_tiny_patch16_224",
            from_timm("vit_tiny_patch16_224", img_size=64),
            64,
            ("blocks.10", "tokens", 4, 1),
            ("patch_embed.proj", "conv2d"),
        ),
        (
            "timm/deit_tiny_patch16_224",
            from_timm("deit_tiny_patch16_224", img_size=64),
            64,
            ("blocks.10", "tokens", 4, 1),
            ("patch_embed.proj", "conv2d"),
        ),
        (
            "timm/levit_128s",
            from_timm("levit_128s", img_size=128),
            128,
            ("stages.2.blocks.3", "tokens", 2, 0),
            ("stem.conv1.bn", "batch_norm"),
        ),
        (
            "timm/maxvit_tiny_tf_224",
            from_timm("maxvit_tiny_tf_224", img_size=64),
            64,
            ("stages.3.blocks.1", "bchw", 2, 0),
            ("stem.conv1", "conv2d"),
        ),
        (
            "timm/eva02_tiny_patch14_224",
            from_timm("eva02_tiny_patch14_224", img_size=56),
            56,
            ("", "tokens", 4, 0),
            ("patch_embed.proj", "conv2d"),
        ),
        (
            "transformers/ViTForImageClassification",
            from_transformers,
            64,
            ("vit.layers.1", "tokens", 4, 1),
            ("vit.embeddings.patch_embeddings.projection", "conv2d"),
        ),
    ]
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request):
    yield request.param
    for read in ("model", "images", "network", "cut"):
        vars(request.param).pop(read, None)
