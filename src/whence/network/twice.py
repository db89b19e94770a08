"""Operations in plain forms, which can be differentiated twice, forwards and backwards.

Some fused operations of PyTorch have a first derivative only (attention, hard sigmoid), fail when
a forward-mode derivative is differentiated backwards (softmax), or then return a wrong result
without a warning (layer norm). Spelled out in simple operations they are right, in any order.
"""

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn import functional

from whence.errors import UnsupportedOperation
from whence.network.operations import name_of
from whence.network.rewrite import depends_on_images, replaced

__all__ = ["merged_norms", "plain_batch_norm", "plain_norms", "twice_differentiable"]


def twice_differentiable(graph: Graph) -> None:
    """Replace operations that cannot be differentiated twice by their plain forms."""
    moving = depends_on_images(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node in moving and name_of(node) in PLAIN:
            replaced(graph, node, PLAIN[name_of(node)])


def plain_norms(graph: Graph) -> None:
    """Spell out batch norms in eval mode as one scale and one shift per channel.

    The fused operation's second derivative redoes its first in many steps.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and name_of(node) == "batch_norm" and not node.args[5]:
            replaced(graph, node, plain_batch_norm)


def merged_norms(graph: Graph) -> None:
    """Merge each batch norm into the convolution before it, as a function of all parameters.

    The layer's weight is scaled instead of its output: the same function, differentiable in the
    parameters of both, with less work on activations, which counts where derivatives of
    derivatives multiply it.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or name_of(node) != "batch_norm" or node.args[5]:
            continue
        layer = node.args[0]
        if (
            not isinstance(layer, Node)
            or name_of(layer) not in ("conv2d", "linear")
            or len(layer.users) > 1
        ):
            continue
        weight, bias, *settings = [*layer.args[1:], None][: max(2, len(layer.args) - 1)]
        with graph.inserting_before(node):
            pair = graph.call_function(merged, (weight, bias, *node.args[1:5], node.args[7]))
            new = (graph.call_function(operator.getitem, (pair, i)) for i in range(2))
            joined = graph.call_function(layer.target, (layer.args[0], *new, *settings))  # type: ignore[arg-type]
        joined.meta = dict(node.meta)
        node.replace_all_uses_with(joined)
        graph.erase_node(node)
        graph.erase_node(layer)


def merged(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer followed by a batch norm."""
    scale = (variance + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if bias is None else (bias - mean) * scale
    return (
        weight * scale.view(-1, *[1] * (weight.ndim - 1)),
        shift if beta is None else shift + beta,
    )


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the signature of the fused operation
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    r"""Return :math:`\mathrm{softmax}(s\,QK^\top + M) V`."""
    if dropout_p or is_causal or enable_gqa:
        msg = (
            "Causal attention, attention with dropout and grouped queries are not supported yet "
            "where second derivatives are needed."
        )
        raise UnsupportedOperation(msg)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -torch.inf)
            if attn_mask.dtype == torch.bool
            else scores + attn_mask
        )
    return plain_softmax(scores, -1) @ value


def plain_softmax(values: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the softmax along an axis."""
    values = values if dtype is None else values.to(dtype)
    weights = (values - values.detach().amax(dim=dim, keepdim=True)).exp()
    return weights / weights.sum(dim=dim, keepdim=True)


def plain_layer_norm(
    values: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: FBT001, FBT002 - the signature of the fused operation
) -> Tensor:
    """Return values with mean 0 and variance 1 over the last axes, scaled and shifted."""
    del cudnn_enable
    axes = list(range(-len(normalized_shape), 0))
    centred = values - values.mean(dim=axes, keepdim=True)
    normal = centred * (centred.square().mean(dim=axes, keepdim=True) + eps).rsqrt()
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def plain_batch_norm(
    values: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    training: bool,  # noqa: FBT001
    momentum: float,
    eps: float,
    cudnn_enable: bool = True,  # noqa: FBT001, FBT002
) -> Tensor:
    """Return values in units of running statistics, scaled and shifted, channel by channel."""
    del training, momentum, cudnn_enable
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1, *[1] * (values.ndim - 2))
    return torch.addcmul(shift.view(shape), values, scale.view(shape))


def plain_hard_sigmoid(values: Tensor) -> Tensor:
    """Return ``clip(x + 3, 0, 6) / 6``."""
    return functional.hardtanh(values + 3, 0.0, 6.0) / 6


PLAIN: dict[str, Callable[..., Tensor]] = {
    "scaled_dot_product_attention": plain_attention,
    "softmax": plain_softmax,
    "layer_norm": plain_layer_norm,
    "hardsigmoid": plain_hard_sigmoid,
}
"""The plain forms by the name of the operation."""
