"""The gradient of every single example of a batch, exact, in factored form."""

from whence.gradients.blocks import Block, DirectBlock, FactoredBlock
from whence.gradients.operator import Composed, Damped, Identity, Operator, Scaled, Vectors
from whence.gradients.project import Projection, Projector, flat
from whence.gradients.record import ExampleGradients, Recorder

__all__ = [
    "Block",
    "Composed",
    "Damped",
    "DirectBlock",
    "ExampleGradients",
    "FactoredBlock",
    "Identity",
    "Operator",
    "Projection",
    "Projector",
    "Recorder",
    "Scaled",
    "Vectors",
    "flat",
]
