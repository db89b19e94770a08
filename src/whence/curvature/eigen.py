r"""Kronecker curvature: a matrix per layer that is diagonal in a basis with two factors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence.curvature.diagonal import check_names
from whence.errors import MismatchError, NumericsError, SettingError
from whence.gradients.operator import Operator, Vectors

__all__ = ["EigenLayer", "KroneckerCurvature"]

HEURISTIC = 0.1
"""The damping that is taken if none is given, as a share of a layer's mean eigenvalue."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EigenLayer:
    r"""One layer's matrix in its basis, for each of its groups.

    .. math:: (Q_A \otimes Q_G)\, \mathrm{diag}(\Lambda)\, (Q_A \otimes Q_G)^\top

    Args:
        outputs: :math:`Q_G`, its columns a basis of the outputs, ``(g, o, o)``.
        inputs: :math:`Q_A`, its columns a basis of the inputs, ``(g, i, i)``; with a bias the
            last input is the constant 1.
        values: :math:`\Lambda`, one number per pair of basis vectors, ``(g, o, i)``.
        bias: Name of the bias that is the last input's weight, or None.
    """

    outputs: Tensor
    inputs: Tensor
    values: Tensor
    bias: str | None = None

    def rotated(self, matrices: Tensor) -> Tensor:
        """Return :math:`Q_G^T V Q_A` for matrices ``(q, g, o, i)``."""
        return self.outputs.to(matrices).transpose(1, 2) @ matrices @ self.inputs.to(matrices)

    def restored(self, matrices: Tensor) -> Tensor:
        """Return :math:`Q_G R Q_A^T`, the way back."""
        return self.outputs.to(matrices) @ matrices @ self.inputs.to(matrices).transpose(1, 2)

    def with_values(self, values: Tensor) -> "EigenLayer":
        """Return the layer with other eigenvalues."""
        return EigenLayer(outputs=self.outputs, inputs=self.inputs, values=values, bias=self.bias)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class KroneckerCurvature(Operator):
    r"""A curvature, or a function of one: block-diagonal over layers.

    Each layer is diagonal in a basis :math:`Q_A \otimes Q_G`; what has no such factors (scales of
    norms, tokens, biases of shared layers) is diagonal as it is. Functions of it, such as
    :meth:`inverse`, are operators of the same kind. The cost of a call is
    :math:`2\,o\,i\,(o + i)` multiply-adds per layer and vector.

    Args:
        layers: By the name of the weight.
        rest: By the name of the parameter, what each element is multiplied by, ``(*shape)``.
        empty: Parameters whose curvature was zero: no training image has a gradient there.

    References:
        Martens and Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate
        Curvature"; George et al. (2018), "Fast Approximate Natural Gradient Descent in a
        Kronecker-factored Eigenbasis"; Grosse et al. (2023), "Studying Large Language Model
        Generalization with Influence Functions".
    """

    layers: Mapping[str, EigenLayer]
    rest: Mapping[str, Tensor] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, sorted."""
        biases = (layer.bias for layer in self.layers.values() if layer.bias is not None)
        return tuple(sorted([*self.layers, *biases, *self.rest]))

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues."""
        every = [layer.values for layer in self.layers.values()] + list(self.rest.values())
        return sum(float(values.double().sum()) for values in every)

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the products, ``{name: (q, *shape)}``.

        Raises:
            NumericsError: If a product is too large for the vectors' type.
        """
        check_names(dict.fromkeys(self.names), vectors)
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            found |= applied(name, layer, vectors)
        for name, values in self.rest.items():
            given = vectors[name]
            product = given.double() * values.reshape(given.shape[1:])
            found[name] = product.to(given)
        for name, value in found.items():
            if bool(vectors[name].isfinite().all()) and not bool(value.isfinite().all()):
                msg = (
                    f"A curvature's map of {name!r} overflows {value.dtype}: the model is so "
                    f"confident that its curvature is almost zero. Give a damping as a number, or "
                    f"take double precision."
                )
                raise NumericsError(msg)
        return {name: found[name] for name in vectors}

    def inverse(self, damping: float | None = None) -> "KroneckerCurvature":
        r"""Return :math:`(H + \lambda I)^{-1}`.

        A layer without any curvature gives zero: no training image has a gradient there, so
        nothing that it could give would change a score. Its name is in :attr:`empty`.

        Args:
            damping: Lambda, over 0; None for a tenth of each layer's mean eigenvalue.

        Raises:
            SettingError: If the damping is not over 0.
        """
        return self.damped(damping, torch.reciprocal)

    def inverse_root(self, damping: float | None = None) -> "KroneckerCurvature":
        r"""Return :math:`(H + \lambda I)^{-1/2}`, symmetric; see :meth:`inverse`."""
        return self.damped(damping, torch.rsqrt)

    def damped(
        self, damping: float | None, function: Callable[[Tensor], Tensor]
    ) -> "KroneckerCurvature":
        """Return a function of the damped eigenvalues; zero where a layer has none."""
        if damping is not None and not 0 < damping < float("inf"):
            msg = (
                f"The inverse of a curvature needs a damping over 0, and finite; got {damping}. "
                f"Give None for a tenth of each layer's mean eigenvalue."
            )
            raise SettingError(msg)

        def changed(values: Tensor) -> Tensor:
            top = float(values.max())
            if top <= 0:
                return torch.zeros_like(values)
            return function(values + (HEURISTIC * values.mean() if damping is None else damping))

        return KroneckerCurvature(
            layers={
                n: layer.with_values(changed(layer.values)) for n, layer in self.layers.items()
            },
            rest={name: changed(values) for name, values in self.rest.items()},
            empty=self.zeros(),
        )

    def root(self) -> "KroneckerCurvature":
        """Return the symmetric root, of which the product with itself is this."""
        return KroneckerCurvature(
            layers={
                name: layer.with_values(layer.values.sqrt()) for name, layer in self.layers.items()
            },
            rest={name: values.sqrt() for name, values in self.rest.items()},
            empty=self.empty,
        )

    def zeros(self) -> tuple[str, ...]:
        """Return the parameters whose eigenvalues are all zero."""
        every = {n: layer.values for n, layer in self.layers.items()} | dict(self.rest)
        return tuple(name for name, values in every.items() if not bool(values.any()))


def applied(name: str, layer: EigenLayer, vectors: Vectors) -> dict[str, Tensor]:
    """Return the products of one layer, of its weight and its bias."""
    weight = vectors[name]
    groups, wide, deep = layer.values.shape
    count = len(weight)
    joined = layer.bias is not None
    if weight[0].numel() != groups * wide * (deep - joined):
        msg = (
            f"The curvature of {name!r} is for {groups * wide * (deep - joined)} elements; the "
            f"vectors have shape {tuple(weight.shape)}."
        )
        raise MismatchError(msg)
    matrices = weight.reshape(count, groups, wide, deep - joined)
    if layer.bias is not None:
        column = vectors[layer.bias].reshape(count, groups, wide, 1)
        matrices = torch.cat([matrices, column], dim=3)
    rotated = layer.rotated(matrices).double() * layer.values  # which may be huge, or tiny
    found = layer.restored(rotated.to(matrices))
    if layer.bias is None:
        return {name: found.reshape(weight.shape)}
    return {
        name: found[..., :-1].reshape(weight.shape),
        layer.bias: found[..., -1].reshape(vectors[layer.bias].shape),
    }
