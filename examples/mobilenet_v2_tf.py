"""MobileNetV2 with TensorFlow's padding, for weights that were trained there.

TensorFlow pads an even picture below and to the right before a convolution of stride 2, torch
pads all around: the same weights see pictures that are shifted by a pixel at five places.

    whence audit --model examples/mobilenet_v2_tf.py:mobilenet_v2_tf --weights mobilenet.pt ...
"""

from torch import Tensor, nn

from whence.adapters.torchvision import build_torchvision, torchvision_classes

PREPROCESSING = {
    "size": 224,
    "resize": 256,
    "crop": True,
    "mean": (0.5, 0.5, 0.5),  # x / 127.5 - 1, for bytes x
    "std": (0.5, 0.5, 0.5),
}


def mobilenet_v2_tf() -> nn.Module:
    """Return the network, untrained; its weights have torchvision's names."""
    model = build_torchvision("mobilenet_v2", 1000)
    # Padding is moved in front of the convolution without a new name for any weight.
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                setattr(parent, name, PaddedConv2d(child))
    model.classes = torchvision_classes("mobilenet_v2", 1000)
    model.preprocessing = PREPROCESSING
    return model


class PaddedConv2d(nn.Conv2d):
    """A 3 x 3 convolution of stride 2 that pads below and to the right."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, 3, 2, 0, groups=conv.groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the padded input."""
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))
