"""Tuning: the same function for less time and memory, over weights that are not trained."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from whence.errors import NumericsError, SettingError, UnsupportedOperation
from whence.network import rewrite
from whence.network.fold import folded
from whence.network.staged import tied_to_images

__all__ = ["tuned"]

HALVES = (torch.bfloat16, torch.float16)
IMAGE_AXES = 4

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
"""How far the logits may be from the model's, relative to the largest, where no half is used."""


def tuned(
    module: GraphModule, example: Tensor, *, channels_last: bool, dtype: torch.dtype | None
) -> GraphModule:
    """Return the module folded, frozen, and if wanted in another memory layout and precision.

    Args:
        module: The graph.
        example: Images that it was read with; the result is compared on them.
        channels_last: Keep the channels of a position side by side in memory.
        dtype: A half precision to compute in; images and logits keep theirs.
    """
    if dtype is not None and dtype not in HALVES:
        names = " or ".join(map(str, HALVES))
        msg = f"dtype is {names}, or None to keep {example.dtype}; got {dtype}."
        raise SettingError(msg)
    smaller = folded(module)
    graph, _ = rewrite.copied(smaller.graph)
    held = frozen(smaller, graph)
    if dtype is not None:
        lowered(graph, held, example.dtype, dtype)
    if channels_last:
        side_by_side(graph, held)
    new = rewrite.compiled({name: weight(value) for name, value in held.items()}, graph)
    check_same(module, new, example, dtype)
    return new


@torch.no_grad()
def frozen(module: GraphModule, graph: Graph) -> dict[str, Any]:
    """Compute once what does not depend on the images; return everything the graph fetches."""
    tied = tied_to_images(graph)
    held = rewrite.attributes(module, graph)
    known: dict[Node, Any] = {}
    for node in list(graph.nodes):
        if node in tied or node.op == "output":
            continue
        if node.op == "get_attr":
            known[node] = held.get(str(node.target))
            continue
        value = node.target(*map_arg(node.args, known.get), **map_arg(node.kwargs, known.get))
        known[node] = value
        users = [user for user in node.users if user in tied]
        if isinstance(value, Tensor) and users:
            name = f"constant_{len(held)}"
            held[name] = value
            with graph.inserting_after(node):
                fetched = graph.get_attr(name)
            fetched.meta = dict(node.meta)
            for user in users:
                user.replace_input_with(node, fetched)
    graph.eliminate_dead_code()
    fetches = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return {name: value for name, value in held.items() if name in fetches}


def lowered(graph: Graph, held: dict[str, Any], old: torch.dtype, new: torch.dtype) -> None:
    """Compute in another precision; images come, and logits leave, in the old one."""
    for node in graph.nodes:
        node.args = tuple(new if argument is old else argument for argument in node.args)
        node.kwargs = {name: new if value is old else value for name, value in node.kwargs.items()}
    for name, value in held.items():
        if isinstance(value, Tensor) and value.dtype == old:
            held[name] = value.to(new)
    images = next(node for node in graph.nodes if node.op == "placeholder")
    followed(graph, images, torch.ops.aten.to.dtype, new)
    output = next(node for node in graph.nodes if node.op == "output")
    followed(graph, output.args[0], torch.ops.aten.to.dtype, old)


def side_by_side(graph: Graph, held: dict[str, Any]) -> None:
    """Keep the channels of a position side by side, in images, feature maps and filters."""
    for name, value in held.items():
        if isinstance(value, Tensor) and value.ndim == IMAGE_AXES:
            held[name] = value.contiguous(memory_format=torch.channels_last)
    images = next(node for node in graph.nodes if node.op == "placeholder")
    made = followed(graph, images, torch.ops.aten.contiguous.default)
    made.kwargs = {"memory_format": torch.channels_last}


def followed(graph: Graph, node: Node, target: Any, *rest: object) -> Node:  # noqa: ANN401 - an ATen overload
    """Let every user of a node read ``target(node, *rest)`` instead; return the new node."""
    with graph.inserting_after(node):
        new = graph.call_function(target, (node, *rest))  # type: ignore[arg-type]
    new.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return new


def weight(value: object) -> object:
    """Return a floating-point tensor as a parameter that asks for no gradient."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return nn.Parameter(value.detach(), requires_grad=False)
    return value


@torch.no_grad()
def check_same(
    module: GraphModule, new: GraphModule, example: Tensor, dtype: torch.dtype | None
) -> None:
    """Refuse a graph that does not run, or whose logits are not the model's."""
    expected = module(example)
    try:
        logits = new(example)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0][:200]
        msg = (
            f"The network cannot be tuned to {dtype or example.dtype}: {reason}. "
            f"Leave dtype and channels_last out, or use the network as it was read."
        )
        raise UnsupportedOperation(msg) from error
    scale = expected.abs().max()
    miss = float((logits - expected).abs().max() / scale) if scale else 0.0
    if not logits.isfinite().all():
        msg = (
            f"The network's logits overflow in {dtype or example.dtype}. Use torch.bfloat16, "
            f"which has the range of single precision, or leave dtype out."
        )
        raise NumericsError(msg)
    if dtype is None and miss > ROUNDING.get(example.dtype, 1.0):
        msg = (
            f"The tuned network's logits differ from the model's by {miss:.1e} of the largest, "
            f"which is more than rounding: its weights span too many orders of magnitude for "
            f"{example.dtype}. Use the network as it was read, or double precision."
        )
        raise NumericsError(msg)
