"""The gradient of every single example of a batch, exact, in factored form."""

from whence.gradients.blocks import Block, DirectBlock, FactoredBlock
from whence.gradients.compare import Compared, Comparison
from whence.gradients.forward import ForwardMode
from whence.gradients.operator import Composed, Damped, Identity, Operator, Scaled, Vectors
from whence.gradients.patches import Patches
from whence.gradients.project import Projection, Projector, SparseProjection, flat
from whence.gradients.rank import low_rank
from whence.gradients.record import ExampleGradients, Recorder

__all__ = [
    "Block",
    "Compared",
    "Comparison",
    "Composed",
    "Damped",
    "DirectBlock",
    "ExampleGradients",
    "FactoredBlock",
    "ForwardMode",
    "Identity",
    "Operator",
    "Patches",
    "Projection",
    "Projector",
    "Recorder",
    "Scaled",
    "SparseProjection",
    "Vectors",
    "flat",
    "low_rank",
]
