"""Rewriting: copies of a graph with other operations, compiled to plain Python.

Nothing here interprets a graph node by node: every rewritten graph is generated code, which runs
at the speed of the model it was read from.
"""

import linecache
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen

from whence.errors import UnsupportedOperation
from whence.network.operations import (
    NO_OPERATION,
    VIEWS,
    is_inplace,
    module_path,
    name_of,
    outplace_form,
    raw_name,
    value_inputs,
)

__all__ = [
    "ancestors",
    "attributes",
    "compiled",
    "copied",
    "depends_on_images",
    "forgetting",
    "functional",
    "guarded",
    "parameter_nodes",
    "replaced",
    "stored",
    "tidied",
    "unwritten",
    "with_outputs",
    "with_parameters_as_input",
]


def copied(graph: Graph) -> tuple[Graph, dict[Node, Node]]:
    """Return a copy of the graph, and where each node went."""
    new = Graph()
    places: dict[Node, Node] = {}
    returned = new.graph_copy(graph, places)
    new.output(returned)
    new.set_codegen(CodeGen())
    return new, places


def compiled(root: nn.Module | dict[str, Any], graph: Graph) -> GraphModule:
    """Return generated Python for the graph; parameters stay the objects that ``root`` holds.

    PyTorch keeps the text of all generated Python for tracebacks, for good; here it goes with the
    module.
    """
    graph.eliminate_dead_code()
    graph.lint()
    module = GraphModule(root, graph)
    code: Any = getattr(module.forward, "__code__", None)
    if code is not None:
        weakref.finalize(module, forget, code.co_filename)
    return module


def generated() -> dict[str, str]:
    """Return the texts of all generated Python that PyTorch keeps, by the names of their files."""
    found: dict[str, str] = getattr(
        getattr(torch.fx.graph_module, "_loader", None), "eval_cache", {}
    )
    return found


def forget(file: str) -> None:
    """Drop the text of generated Python, and what it could see, from the caches of tracebacks."""
    linecache.cache.pop(file, None)
    generated().pop(file, None)


@contextmanager
def forgetting() -> Iterator[None]:
    """Drop the texts of all Python that is generated meanwhile and used only meanwhile."""
    before = set(generated())
    try:
        yield
    finally:
        for file in set(generated()) - before:
            forget(file)


def tidied(graph: Graph) -> None:
    """Drop what computes nothing: the exporter's checks and switched-off dropout."""
    for node in list(graph.nodes):
        if node.op == "call_module" or (
            node.op == "call_function" and raw_name(node) in NO_OPERATION
        ):
            graph.erase_node(node)
        elif is_switched_off(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def is_switched_off(node: Node) -> bool:
    """Return whether the node is dropout in eval mode."""
    if node.op != "call_function" or name_of(node) not in ("dropout", "feature_dropout"):
        return False
    return len(node.args) > 2 and node.args[2] is False  # noqa: PLR2004 - input, p, train


def depends_on_images(graph: Graph) -> set[Node]:
    """Return the nodes whose values change with the images."""
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            found.add(node)
        if node.op == "call_function" and any(n in found for n in value_inputs(node)):
            found.add(node)
            if is_inplace(node):
                found.add(memory_of(node))
    return found


def memory_of(node: Node) -> Node:
    """Return the node whose memory a view, or the result of an in-place operation, shares."""
    while (
        node.op == "call_function"
        and (name_of(node) in VIEWS or is_inplace(node))
        and isinstance(node.args[0], Node)
    ):
        node = node.args[0]
    return node


def unwritten(graph: Graph) -> None:
    """Let operations that overwrite the images or a stored tensor overwrite a copy of it."""
    memories = dict.fromkeys(memory_of(node) for node in graph.nodes if is_inplace(node))
    for memory in memories:
        if memory.op not in ("placeholder", "get_attr"):
            continue
        with graph.inserting_after(memory):
            private = graph.call_function(torch.ops.aten.clone.default, (memory,))
        private.meta = {"val": memory.meta["val"]} if "val" in memory.meta else {}
        for user in [user for user in memory.users if user is not private]:
            user.replace_input_with(memory, private)


def functional(graph: Graph) -> None:
    """Replace every in-place operation on image-dependent values by its out-of-place form.

    Raises:
        UnsupportedOperation: If a view of the overwritten value is used later, or if the
            operation has no known out-of-place form.
    """
    moving = depends_on_images(graph)
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node not in moving or not is_inplace(node):
            continue
        target = outplace_form(node)
        where = module_path(node) or "the model's forward"
        if target is None:
            msg = (
                f"The in-place operation {raw_name(node)!r} in {where} is not supported yet. "
                f"Replace it with an operation that returns a new tensor."
            )
            raise UnsupportedOperation(msg)
        overwritten = node.args[0]
        if not isinstance(overwritten, Node):
            continue
        for alias in aliases_of(overwritten):
            if any(order[user] > order[node] for user in alias.users if user is not node):
                msg = (
                    f"{raw_name(node)!r} in {where} overwrites a tensor of which a view is used "
                    f"later. Replace it with an operation that returns a new tensor."
                )
                raise UnsupportedOperation(msg)
        node.target = target
        for user in [user for user in overwritten.users if order[user] > order[node]]:
            user.replace_input_with(overwritten, node)


def aliases_of(node: Node) -> list[Node]:
    """Return views of a node's memory, other than the node."""
    found: list[Node] = []
    root = node
    while root.op == "call_function" and name_of(root) in VIEWS and root.all_input_nodes:
        root = root.all_input_nodes[0]
        found.append(root)
    pending = [root]
    while pending:
        for user in pending.pop().users:
            if user.op == "call_function" and name_of(user) in VIEWS and user is not node:
                found.append(user)
                pending.append(user)
    return found


def parameter_nodes(graph: Graph, names: Iterable[str]) -> dict[str, list[Node]]:
    """Return the nodes that fetch each of the named parameters."""
    wanted = set(names)
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in wanted:
            found.setdefault(str(node.target), []).append(node)
    return found


def with_parameters_as_input(graph: Graph, names: Iterable[str]) -> None:
    """Make the graph a function of ``(parameters, images)``."""
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        mapping = graph.placeholder("parameters")
    for name, nodes in parameter_nodes(graph, names).items():
        for node in nodes:
            with graph.inserting_before(node):
                item = graph.call_function(operator.getitem, (mapping, name))
            item.meta = dict(node.meta)
            node.replace_all_uses_with(item)
            graph.erase_node(node)


def with_outputs(graph: Graph, values: Sequence[Node]) -> None:
    """Make the graph return ``(logits, (value, ...))``."""
    output = next(n for n in graph.nodes if n.op == "output")
    output.args = ((output.args[0], tuple(values)),)


def replaced(graph: Graph, node: Node, function: Callable[..., object], *before: object) -> Node:
    """Replace a node by a call of ``function(*before, *its arguments)``; return the new node."""
    with graph.inserting_after(node):
        new = graph.call_function(function, (*before, *node.args), dict(node.kwargs))  # type: ignore[arg-type]
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """Return nodes and everything that they are made of."""
    found = set(nodes)
    pending = list(found)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def stored(module: nn.Module, node: Node) -> Tensor:
    """Return the tensor that a ``get_attr`` node fetches, without its gradient."""
    value: object = attrgetter(str(node.target))(module)
    if not isinstance(value, Tensor):
        message = f"{node.target} is not a tensor"
        raise TypeError(message)
    return value


def attributes(module: nn.Module, graph: Graph) -> dict[str, Any]:
    """Return everything that the graph fetches and the module holds, by name."""
    found: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            try:
                found[str(node.target)] = attrgetter(str(node.target))(module)
            except AttributeError:
                continue
    return found


def guarded(graph: Graph) -> None:
    """Guard batch norms whose gradient may arrive transposed.

    For a single image, PyTorch's batch norm on the CPU takes a gradient of shape ``(1, c, h, w)``
    whose memory is laid out ``(h, w, c)`` for a contiguous one, and returns wrong gradients
    without a warning. It happens where tokens are made of a normalised feature map.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and name_of(node) == "batch_norm" and turns_later(node):
            with graph.inserting_after(node):
                new = graph.call_function(with_contiguous_gradient, (node,))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)


def turns_later(node: Node) -> bool:
    """Return whether a feature map's axes are reordered before a layer reads it."""
    seen = {node}
    pending = [node]
    while pending:
        for user in pending.pop().users:
            if user.op != "call_function" or user in seen:
                continue
            seen.add(user)
            if name_of(user) in ("transpose", "permute", "movedim"):
                return True
            if name_of(user) not in ("conv2d", "linear", "matmul", "batch_norm", "layer_norm"):
                pending.append(user)
    return False


def with_contiguous_gradient(values: Tensor) -> Tensor:
    """Return the values; for a single image their gradient will be contiguous."""
    if len(values) == 1 and values.ndim == 4 and values.requires_grad:  # noqa: PLR2004 - b c h w
        values.register_hook(lambda gradient: gradient.contiguous())  # type: ignore[no-untyped-call]
    return values
