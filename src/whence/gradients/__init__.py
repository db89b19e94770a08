"""The gradient of every single example of a batch, exact, in factored form."""

from whence.gradients.blocks import Block, DirectBlock, FactoredBlock
from whence.gradients.record import ExampleGradients, Recorder

__all__ = ["Block", "DirectBlock", "ExampleGradients", "FactoredBlock", "Recorder"]
