r"""Kronecker: two statistics of example gradients, which give K-FAC and EK-FAC.

A layer's gradient for an image is :math:`G = \sum_t d_t a_t^\top`, over the positions at which the
layer is used, with a constant 1 at the end of the inputs :math:`a_t` where it has a bias. The
first statistic keeps

.. math:: A = \frac1n \sum_i \sum_t a_{it} a_{it}^\top , \qquad
          S = \frac{1}{nT} \sum_i \sum_t d_{it} d_{it}^\top , \qquad H \approx A \otimes S ,

exact where inputs and gradients, and both at different positions, are independent. The second
keeps the eigenvectors :math:`Q_A, Q_S` and takes the best diagonal between them,

.. math:: \Lambda_{kl} = \frac1n \sum_i \big( Q_S^\top G_i \, Q_A \big)_{kl}^2 .

A grouped convolution has factors of its own for every group. Both are summed in double precision.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from whence.curvature.diagonal import FisherDiagonal, check_names, lifted
from whence.curvature.eigen import EigenLayer, KroneckerCurvature
from whence.curvature.moments import input_moment, moment
from whence.errors import DataError, MismatchError, NumericsError
from whence.gradients import ExampleGradients, FactoredBlock, Recorder
from whence.gradients.patches import Patches

__all__ = ["EigenvalueCorrection", "KroneckerFactors", "joined_biases"]

LARGEST = 12_000
"""A layer with more inputs or outputs than this gets a diagonal: its factor would take too much
memory, and its eigenvectors too long."""

CHUNK_BYTES = 8 * 2**20
"""Gradients are squared for as many images at a time as fit into this, and so stay near."""


def joined_biases(recorder: Recorder) -> dict[str, str]:
    """Return by the name of a weight the bias that is always added with it, and only with it."""
    weights: dict[str, set[str | None]] = {}
    biases: dict[str, set[str | None]] = {}
    for use in recorder.uses.layers:
        if use.operation in ("conv2d", "linear"):
            if use.weight is not None:
                weights.setdefault(use.weight, set()).add(use.bias)
            if use.bias is not None:
                biases.setdefault(use.bias, set()).add(use.weight)
    elsewhere = {spread.value for spread in recorder.uses.spreads}
    elsewhere |= {
        name
        for use in recorder.uses.layers
        if use.operation not in ("conv2d", "linear")
        for name in (use.weight, use.bias)
        if name is not None
    }
    known = set(recorder.names) - elsewhere - set(recorder.uses.left)
    return {
        weight: bias
        for weight, (bias, *others) in ((w, tuple(b)) for w, b in weights.items())
        if not others
        and bias is not None
        and biases[bias] == {weight}
        and weight in known
        and bias in known
    }


@final
@dataclass(kw_only=True, eq=False)
class KroneckerFactors:
    """A statistic: second moments of every layer's inputs, and of its outputs' gradients.

    The gradients that are taken in must be those of draws; see :class:`SampledLabels`. No
    gradient of a weight is formed. Memory: the squares of the numbers of inputs and outputs.

    Args:
        biases: By the name of a weight the bias that is joined to it; :func:`joined_biases`.
        inputs: Sums for the inputs, ``(g, i, i)``.
        outputs: Sums for the outputs' gradients, ``(g, o, o)``.
        positions: Positions per image and layer.
        rest: What has no factors.
        dtype: The gradients' type; eigenvectors are kept in it, or in single precision.
        count: Images so far.
    """

    biases: Mapping[str, str] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict, repr=False)
    outputs: dict[str, Tensor] = field(default_factory=dict, repr=False)
    positions: dict[str, int] = field(default_factory=dict)
    rest: FisherDiagonal = field(default_factory=FisherDiagonal)
    dtype: torch.dtype = torch.float32
    count: int = 0

    def update(self, draws: Iterable[ExampleGradients]) -> None:
        """Take in a batch: the gradients of its images, once for each draw."""
        size = 0
        for number, gradients in enumerate(draws):
            size = len(gradients)
            self.dtype = torch.promote_types(gradients.logits.dtype, torch.float32)
            layers = factored(gradients)
            if self.count or number:
                check_names(self.inputs, layers)
            for name, blocks in layers.items():
                bias = name in self.biases
                if not number:
                    add(self.inputs, name, [input_moment(b, ones=bias) for b in blocks])
                    self.positions[name] = sum(block.output.shape[3] for block in blocks)
                add(self.outputs, name, [moment(b.output) for b in blocks])
            covered = {*layers, *(self.biases[n] for n in layers if n in self.biases)}
            others = {n: b for n, b in gradients.blocks.items() if n not in covered}
            self.rest.update(ExampleGradients(logits=gradients.logits, blocks=others))
            self.rest.count -= size if number else 0
        self.count += size

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed."""
        if not self.count or not other.count:
            return copied(self if self.count else other)
        check_names(self.inputs, other.inputs)
        if dict(self.biases) != dict(other.biases) or self.positions != other.positions:
            msg = "Parts need layers of the same form: the same biases and positions."
            raise MismatchError(msg)
        return KroneckerFactors(
            biases=self.biases,
            inputs={name: value + other.inputs[name] for name, value in self.inputs.items()},
            outputs={name: value + other.outputs[name] for name, value in self.outputs.items()},
            positions=dict(self.positions),
            rest=self.rest.merge(other.rest),
            dtype=self.dtype,
            count=self.count + other.count,
        )

    def result(self, each: Callable[[int, int], None] | None = None) -> KroneckerCurvature:
        """Return K-FAC: the products of eigenvalues in the basis of the factors' eigenvectors.

        Args:
            each: Called after each layer's eigenvectors with how many are done, and of how many.

        Raises:
            DataError: If nothing was taken in.
            NumericsError: If a gradient was NaN or infinite.
        """
        if not self.count:
            msg = "Kronecker factors need the gradients of at least one image; there was none."
            raise DataError(msg)
        layers: dict[str, EigenLayer] = {}
        for number, (name, inputs) in enumerate(self.inputs.items()):
            first, inward = eigen(name, inputs / self.count)
            scale = self.count * max(1, self.positions[name])
            second, outward = eigen(name, self.outputs[name] / scale)
            layers[name] = EigenLayer(
                outputs=outward.to(self.dtype),
                inputs=inward.to(self.dtype),
                values=second[:, :, None] * first[:, None, :],
                bias=self.biases.get(name),
            )
            if each is not None:
                each(number + 1, len(self.inputs))
        rest = dict(self.rest.result().values) if self.rest.sums else {}
        for name, values in rest.items():
            check_finite(name, values)
        return KroneckerCurvature(layers=layers, rest=rest)


@final
@dataclass(kw_only=True, eq=False)
class EigenvalueCorrection:
    """A statistic: mean squares of gradients in the eigenvectors of K-FAC's factors.

    Each image's gradient is formed in these bases: its factors are rotated, or itself, whichever
    costs less.

    Args:
        basis: K-FAC's outcome.
        squares: Sums so far, ``(g, o, i)``.
        count: Images so far.
    """

    basis: KroneckerCurvature
    squares: dict[str, Tensor] = field(default_factory=dict, repr=False)
    count: int = 0

    def update(self, draws: Iterable[ExampleGradients]) -> None:
        """Take in a batch: the gradients of its images, once for each draw."""
        size = 0
        for gradients in draws:
            size = len(gradients)
            missing = [name for name in self.basis.layers if name not in gradients.blocks]
            if missing:
                msg = f"The gradients lack the layer {missing[0]!r}, of which there are factors."
                raise MismatchError(msg)
            for name, layer in self.basis.layers.items():
                blocks = [b for b in gradients.blocks[name] if isinstance(b, FactoredBlock)]
                add(self.squares, name, [rotated_squares(blocks, layer)])
        self.count += size

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts, in the same bases; neither is changed."""
        if self.basis is not other.basis:
            msg = "Parts need the same basis: give both the same Kronecker factors."
            raise MismatchError(msg)
        names = {**self.squares, **other.squares}
        return EigenvalueCorrection(
            basis=self.basis,
            squares={
                n: added(s[n].clone() for s in (self.squares, other.squares) if n in s)
                for n in names
            },
            count=self.count + other.count,
        )

    def result(self) -> KroneckerCurvature:
        """Return EK-FAC.

        Raises:
            DataError: If nothing was taken in.
            NumericsError: If a gradient was NaN or infinite.
        """
        if not self.count:
            msg = "An eigenvalue correction needs the gradients of at least one image."
            raise DataError(msg)
        layers = {}
        for name, layer in self.basis.layers.items():
            values = self.squares[name] / self.count
            check_finite(name, values)
            layers[name] = layer.with_values(values)
        return KroneckerCurvature(layers=layers, rest=self.basis.rest)


def factored(gradients: ExampleGradients) -> dict[str, list[FactoredBlock]]:
    """Return the layers that have factors of one form, and not too large ones."""
    found: dict[str, list[FactoredBlock]] = {}
    for name, blocks in gradients.blocks.items():
        some = [block for block in blocks if isinstance(block, FactoredBlock)]
        forms = {(b.output.shape[1], b.output.shape[2], b.deep) for b in some}
        if len(some) == len(blocks) and len(forms) == 1 and max(*next(iter(forms))[1:]) <= LARGEST:
            found[name] = some
    return found


def add(sums: dict[str, Tensor], name: str, parts: Sequence[Tensor]) -> None:
    """Add the moments of a layer's uses to its sum, which is this statistic's own."""
    for part in parts:
        if name in sums:
            sums[name] += part
        else:
            sums[name] = part


def rotated_squares(blocks: Sequence[FactoredBlock], layer: EigenLayer) -> Tensor:
    """Return the sum over images of squared gradients in a layer's basis, ``(g, o, i)``."""
    first = blocks[0]
    groups, wide, deep = layer.values.shape
    if len(blocks) == 1:
        output, square = lifted(first.output)
        if square < 1:
            raised = FactoredBlock(output=output, input=first.held, shape=first.shape)
            return rotated_squares([raised], layer) * square
    one = len(blocks) == 1 and first.output.shape[3] == 1
    if one:  # the square of a product is the product of the squares
        output, source = factors(first, layer)
        return torch.einsum(
            "bgo,bgi->goi", output[..., 0].square(), source[..., 0].square()
        ).double()
    step = max(1, CHUNK_BYTES // (groups * wide * deep * first.output.element_size()))
    total = layer.values.new_zeros(groups, wide, deep)
    for start in range(0, len(first), step):
        rows = [block.rows(start, start + step) for block in blocks]
        gradients = rotated_gradients(rows, layer)
        some = gradients.new_zeros(gradients.shape[1:])
        for gradient in gradients:  # the sum stays in fast memory, and no squares are written
            some.addcmul_(gradient, gradient)
        total += some
    return total


def rotated_gradients(blocks: Sequence[FactoredBlock], layer: EigenLayer) -> Tensor:
    """Return the gradients of some images in a layer's basis, ``(b, g, o, i)``."""
    _, wide, deep = layer.values.shape
    positions = sum(block.output.shape[3] for block in blocks)
    if positions * (wide**2 + deep**2) < wide * deep * (wide + deep):
        pairs = (factors(block, layer) for block in blocks)
        return added(output @ source.transpose(2, 3) for output, source in pairs)
    return layer.rotated(added(joined_gradients(block, layer) for block in blocks))


def joined_gradients(block: FactoredBlock, layer: EigenLayer) -> Tensor:
    """Return gradients of the weight, with those of its bias in the last column."""
    gradients = block.output @ block.input.transpose(2, 3)
    if layer.bias is None:
        return gradients
    return torch.cat([gradients, block.output.sum(dim=3, keepdim=True)], dim=3)


def added(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors, of one at least."""
    return functools.reduce(torch.add, parts)


def factors(block: FactoredBlock, layer: EigenLayer) -> tuple[Tensor, Tensor]:
    """Return a block's factors in a layer's basis, ``(b, g, o, t)`` and ``(b, g, i, t)``."""
    output = layer.outputs.to(block.output).transpose(1, 2) @ block.output
    basis = layer.inputs.to(block.output).transpose(1, 2)
    weights = basis if layer.bias is None else basis[..., :-1]
    held = block.held
    source = held.convolved(weights) if isinstance(held, Patches) else weights @ held
    return output, source if layer.bias is None else source + basis[..., -1:]


def eigen(name: str, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues ``(g, c)``, none below 0, and eigenvectors ``(g, c, c)``."""
    check_finite(name, matrices)
    values, vectors = torch.linalg.eigh((matrices + matrices.transpose(1, 2)) / 2)
    return values.clamp(min=0), vectors.contiguous()


def check_finite(name: str, values: Tensor) -> None:
    """Refuse what was made of gradients that are NaN or infinite."""
    if not bool(values.isfinite().all()):
        msg = (
            f"The curvature of {name!r} is NaN or infinite: a training image, a weight or a "
            f"gradient is, or too large for its type. Check the images and the weights."
        )
        raise NumericsError(msg)


def copied(statistic: KroneckerFactors) -> KroneckerFactors:
    """Return a statistic of its own with the same content."""
    return KroneckerFactors(
        biases=statistic.biases,
        inputs={name: value.clone() for name, value in statistic.inputs.items()},
        outputs={name: value.clone() for name, value in statistic.outputs.items()},
        positions=dict(statistic.positions),
        rest=statistic.rest.merge(FisherDiagonal()),
        dtype=statistic.dtype,
        count=statistic.count,
    )
