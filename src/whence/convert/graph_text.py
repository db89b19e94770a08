"""Graphs as text: a network's graph in JSON and back, without a pickle and without its source.

A node is an object with its name, what it does, and its arguments. Only operations of PyTorch's
ATen library and a list of plain functions are written and read, so that a file can hold a graph
but no code.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from whence.errors import RecordError, UnsupportedOperation
from whence.network import rewrite
from whence.network.operations import module_path

__all__ = ["graph_from_text", "graph_to_text"]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            *("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
        )
    },
    **{
        f"torch.{name}": getattr(torch, name)
        for name in ("sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite")
    },
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
}
"""The functions on sizes and lists that a graph may call, by the name that a file has for them."""

NAMES = {id(function): name for name, function in FUNCTIONS.items()}
KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
"""Values that PyTorch names: ``torch.float32``, ``torch.strided``, ``torch.contiguous_format``."""

Json = Any
"""What JSON has: numbers, text, truths, nothing, lists and objects."""


def graph_to_text(graph: Graph) -> list[dict[str, Json]]:
    """Return the nodes of a graph as plain values.

    Raises:
        UnsupportedOperation: If an operation is neither of ATen nor a known function.
    """
    copied, _ = rewrite.copied(graph)
    for node in list(copied.nodes):
        if node.target is rewrite.with_contiguous_gradient:
            node.replace_all_uses_with(node.all_input_nodes[0])
            copied.erase_node(node)
    return [
        {
            "name": node.name,
            "op": node.op,
            "target": target_name(node),
            "args": [encoded(a) for a in node.args],
            "kwargs": {key: encoded(a) for key, a in node.kwargs.items()},
            "path": module_path(node),
        }
        for node in copied.nodes
    ]


def target_name(node: Node) -> str:
    """Return what a file calls a node's function, or the name of what it fetches."""
    target = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - no public name for this type
        if target.namespace == "aten":
            return str(target)
    elif id(target) in NAMES:
        return NAMES[id(target)]
    msg = (
        f"{module_path(node) or 'forward'} calls {target}, which a file cannot hold: only "
        f"operations of PyTorch itself can be written. Replace it, or save the state dict."
    )
    raise UnsupportedOperation(msg)


def encoded(value: object) -> Json:
    """Return an argument as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, slice):
        return {"slice": [encoded(part) for part in (value.start, value.stop, value.step)]}
    for kind, type_ in {"node": Node, "device": torch.device, **KINDS}.items():
        if isinstance(value, type_):
            return {kind: str(value).removeprefix("torch.")}
    msg = f"An argument of type {type(value).__name__} cannot be written to a file."
    raise UnsupportedOperation(msg)


def graph_from_text(rows: object, held: Mapping[str, Any]) -> GraphModule:
    """Return the module of a graph that :func:`graph_to_text` wrote.

    Args:
        rows: The nodes.
        held: What the graph fetches, by name.

    Raises:
        RecordError: If the rows are no such graph, or call what is not on the list.
    """
    graph = Graph()
    nodes: dict[str, Node] = {}
    try:
        for row in rows if isinstance(rows, list) else []:
            nodes[row["name"]] = added(graph, row, nodes)
        graph.lint()
        return GraphModule(dict(held), graph)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        msg = f"The graph in the file cannot be read: {error}. Write the file again."
        raise RecordError(msg) from error


def added(graph: Graph, row: Mapping[str, Json], nodes: Mapping[str, Node]) -> Node:
    """Add a node to a graph."""
    arguments = tuple(decoded(a, nodes) for a in row["args"])
    words = {key: decoded(a, nodes) for key, a in row["kwargs"].items()}
    target, op = row["target"], row["op"]
    if op not in ("placeholder", "get_attr", "call_function", "output"):
        msg = f"the operation {op!r} is not one of a graph's"
        raise ValueError(msg)
    called = function_named(target) if op == "call_function" else target
    node = graph.create_node(op, called, arguments, words, name=row["name"])
    if row["path"]:
        node.meta["nn_module_stack"] = {row["path"]: (row["path"], "")}
    return node


def function_named(name: str) -> Callable[..., Any]:
    """Return a function of ATen, or one of the list."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    library, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if library != "aten" or not packet.isidentifier() or not overload.isidentifier():
        msg = f"{name!r} is no operation that a graph may call"
        raise ValueError(msg)
    found = getattr(getattr(torch.ops.aten, packet), overload)
    if not isinstance(found, torch._ops.OpOverload):  # noqa: SLF001 - as above
        msg = f"{name!r} is no operation that a graph may call"
        raise TypeError(msg)
    return found


def decoded(value: Json, nodes: Mapping[str, Node]) -> Any:  # noqa: ANN401 - any argument
    """Return an argument as a node has it."""
    if isinstance(value, list):
        return [decoded(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    plain: dict[str, Callable[[Json], Any]] = {
        "node": nodes.__getitem__,
        "float": float,
        "device": torch.device,
        "slice": lambda parts: slice(*(decoded(part, nodes) for part in parts)),
    }
    if kind in plain:
        return plain[kind](content)
    found = getattr(torch, str(content))
    if not isinstance(found, KINDS[kind]):
        msg = f"{content!r} is no {kind}"
        raise TypeError(msg)
    return found
