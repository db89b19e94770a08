"""What whence knows of each operation: its short name, its aliases, what it does to scale.

Operations are ATen overloads such as ``aten.conv2d.default``; here they go by their plain names,
``conv2d``, without the overload and without the underscore of an in-place form.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

__all__ = [
    "INPLACE",
    "NO_OPERATION",
    "PARAMETRIC",
    "SHAPE_ONLY",
    "VIEWS",
    "is_inplace",
    "module_path",
    "name_of",
    "nodes_in",
    "outplace_form",
    "tensor_inputs",
    "value_inputs",
]

aten = torch.ops.aten

NO_OPERATION = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async"})
"""Checks that the exporter leaves in the graph and that compute nothing."""

SHAPE_ONLY: dict[str, tuple[int, ...]] = {
    "type_as": (1,),
    "reshape_as": (1,),
    "view_as": (1,),
    "expand_as": (1,),
    "sym_size": (0,),
    "new_zeros": (0,),
    "new_ones": (0,),
    "new_full": (0,),
    "new_empty": (0,),
    "zeros_like": (0,),
    "ones_like": (0,),
    "full_like": (0,),
    "empty_like": (0,),
}
"""Positions of arguments whose shape or type is used, but not their values."""

PARAMETRIC = frozenset({"conv1d", "conv2d", "linear", "batch_norm", "layer_norm", "group_norm"})
"""Operations that take a weight and a bias."""

VIEWS = frozenset(
    {
        "view",
        "reshape",
        "reshape_as",
        "view_as",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "transpose",
        "permute",
        "slice",
        "select",
        "expand",
        "expand_as",
        "contiguous",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "getitem",
        "detach",
        "alias",
    }
)
"""Operations whose result may share memory with their first argument."""

INPLACE: dict[str, Callable[..., Any]] = {
    "relu_": aten.relu.default,
    "relu6_": aten.relu6.default,
    "leaky_relu_": aten.leaky_relu.default,
    "elu_": aten.elu.default,
    "celu_": aten.celu.default,
    "selu_": aten.selu.default,
    "silu_": aten.silu.default,
    "mish_": aten.mish.default,
    "gelu_": aten.gelu.default,
    "hardtanh_": aten.hardtanh.default,
    "hardswish_": aten.hardswish.default,
    "hardsigmoid_": aten.hardsigmoid.default,
    "sigmoid_": aten.sigmoid.default,
    "tanh_": aten.tanh.default,
    "add_": aten.add.Tensor,
    "sub_": aten.sub.Tensor,
    "mul_": aten.mul.Tensor,
    "div_": aten.div.Tensor,
    "clamp_": aten.clamp.default,
    "clamp_min_": aten.clamp_min.default,
    "neg_": aten.neg.default,
    "exp_": aten.exp.default,
    "sqrt_": aten.sqrt.default,
    "dropout_": aten.dropout.default,
    "copy_": aten.copy.default,
}
"""In-place operations and what computes the same into new memory."""


def name_of(node: Node) -> str:
    """Return the plain name of a node's operation: ``conv2d``, ``add``, ``getitem``."""
    if node.op in ("placeholder", "get_attr", "output"):
        return node.op
    return raw_name(node).rstrip("_") if is_inplace(node) else raw_name(node)


def raw_name(node: Node) -> str:
    """Return the name with the underscore of an in-place form, ``relu_``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - no public name for this type
        return str(target.overloadpacket.__name__)
    return getattr(target, "__name__", str(target))


def is_inplace(node: Node) -> bool:
    """Return whether the node overwrites its first argument."""
    name = raw_name(node) if node.op == "call_function" else ""
    return name.endswith("_") and not name.endswith("__")


def outplace_form(node: Node) -> Callable[..., Any] | None:
    """Return the operation that computes an in-place node's value into new memory."""
    target = node.target
    found = INPLACE.get(raw_name(node))
    if found is None or not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - as above
        return found
    packet = getattr(aten, raw_name(node).rstrip("_"), None)
    return getattr(packet, target._overloadname, found)  # noqa: SLF001 - the same overload


def module_path(node: Node) -> str:
    """Return the dotted path of the module that called the operation, ``layer1.0.conv1``."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def tensor_inputs(node: Node) -> list[Node]:
    """Return the nodes among a node's inputs that hold tensors (or lists of them)."""
    return [n for n in node.all_input_nodes if holds_tensor(n)]


def holds_tensor(node: Node) -> bool:
    """Return whether a node's value is a tensor or a list of tensors."""
    value = node.meta.get("val")
    return isinstance(value, (Tensor, tuple, list))


def nodes_in(arguments: Iterable[object]) -> list[Node]:
    """Return the nodes among arguments and in their lists, each as often as it stands there."""
    found: list[Node] = []
    for argument in arguments:
        if isinstance(argument, Node):
            found.append(argument)
        elif isinstance(argument, (list, tuple)):
            found.extend(nodes_in(argument))
    return found


def value_inputs(node: Node) -> list[Node]:
    """Return the inputs whose values (not only shapes) the node uses."""
    skip = {
        node.args[i]
        for i in SHAPE_ONLY.get(name_of(node), ())
        if i < len(node.args) and isinstance(node.args[i], Node)
    }
    return [n for n in tensor_inputs(node) if n not in skip]


def is_item(node: Node) -> bool:
    """Return whether the node takes an element of a list of tensors."""
    return node.op == "call_function" and node.target is operator.getitem
