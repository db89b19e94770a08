"""Describing a network: a table that a person can read."""

from dataclasses import dataclass
from math import prod
from typing import final

from torch import SymInt, Tensor
from torch.fx import GraphModule, Node

from whence.network import rewrite
from whence.network.layout import shape_of
from whence.network.operations import holds_tensor, module_path, name_of, nodes_in

__all__ = ["Description", "OperationRow"]

MATRIX_PRODUCTS = {"matmul": 0, "bmm": 0, "mm": 0, "addmm": 1, "baddbmm": 1}
"""Matrix products, and the place of their left factor among the tensors that they take."""


@final
@dataclass(frozen=True, kw_only=True)
class OperationRow:
    """One operation.

    Args:
        node: Its name, for ``cut`` and for settings.
        operation: What it does, ``conv2d``.
        path: The module that called it.
        shape: The shape of its value, with ``b`` for the batch.
        parameters: How many parameters it takes directly.
        multiply_adds: Multiply-adds for one image.
    """

    node: str
    operation: str
    path: str
    shape: tuple[int | str, ...]
    parameters: int
    multiply_adds: int


@final
@dataclass(frozen=True, kw_only=True)
class Description:
    """A network's operations, in order."""

    rows: tuple[OperationRow, ...]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a forward pass of one image."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def parameters(self) -> int:
        """How many parameters the operations take."""
        return sum(row.parameters for row in self.rows)

    def __str__(self) -> str:
        """Return the table as text."""
        total = max(self.multiply_adds, 1)
        head = ("operation", "module", "output", "parameters", "work", "node")
        body = [
            (
                row.operation,
                row.path or "-",
                " x ".join(map(str, row.shape)),
                f"{row.parameters:,}" if row.parameters else "",
                f"{100 * row.multiply_adds / total:.1f} %" if row.multiply_adds else "",
                row.node,
            )
            for row in self.rows
        ]
        widths = [max(len(r[i]) for r in (head, *body)) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.rjust(w) if i in (3, 4) else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *body)
        ]
        return "\n".join(lines)


def describe(module: GraphModule) -> Description:
    """Return a row for every operation that depends on the images."""
    graph = module.graph
    moving = rewrite.depends_on_images(graph)
    left = {name: p.numel() for name, p in module.named_parameters()}
    rows = []
    for node in graph.nodes:
        if node not in moving or node.op != "call_function":
            continue
        rows.append(
            OperationRow(
                node=node.name,
                operation=name_of(node),
                path=module_path(node),
                shape=readable_shape(node),
                parameters=sum(left.pop(name, 0) for name in sources_of(node, moving)),
                multiply_adds=multiply_adds(node),
            )
        )
    return Description(rows=tuple(rows))


def readable_shape(node: Node) -> tuple[int | str, ...]:
    """Return a shape in which the batch is ``b``."""
    return tuple(
        size if isinstance(size, int) else str(size.node.expr).replace(str(symbol(size)), "b")
        for size in shape_of(node)
    )


def symbol(size: SymInt) -> object:
    """Return the symbol of the batch in a size."""
    return next(iter(size.node.expr.free_symbols), "b")


def sources_of(node: Node, moving: set[Node]) -> list[str]:
    """Return the stored tensors that reach a node without passing an image-dependent one."""
    found: list[str] = []
    pending = [n for n in node.all_input_nodes if n not in moving]
    while pending:
        source = pending.pop()
        if source.op == "get_attr":
            found.append(str(source.target))
        pending.extend(n for n in source.all_input_nodes if n not in moving)
    return found


def multiply_adds(node: Node) -> int:
    """Return the multiply-adds of a node for one image: those of matrix products."""
    name = name_of(node)
    sizes = sizes_for_one_image(node)
    inputs = [sizes_for_one_image(n) for n in nodes_in(node.args) if holds_tensor(n)]
    if name in ("conv2d", "conv1d", "linear"):
        weight = stored_shape(node.args[1])
        return prod(sizes) * prod(weight[1:])
    if name == "conv_transpose2d":
        return prod(inputs[0]) * prod(stored_shape(node.args[1])[1:])
    if name in MATRIX_PRODUCTS:
        return prod(sizes) * inputs[MATRIX_PRODUCTS[name]][-1]
    if name == "einsum":
        return contraction(str(node.args[0]), inputs)
    if name == "scaled_dot_product_attention":
        query, key, value = inputs[:3]
        return prod(query) * key[-2] + prod(query[:-1]) * key[-2] * value[-1]
    return 0


def contraction(equation: str, inputs: list[tuple[int, ...]]) -> int:
    """Return the multiply-adds of an Einstein sum: the product of all its axes."""
    axes: dict[str, int] = {}
    for term, sizes in zip(equation.partition("->")[0].split(","), inputs, strict=True):
        letters, rest = term.replace(" ", "").replace("...", "*"), list(sizes)
        before = letters.index("*") if "*" in letters else len(letters)
        hidden = len(rest) - len(letters.replace("*", ""))
        names = [*letters[:before], *(f"*{i}" for i in range(hidden)), *letters[before + 1 :]]
        axes |= dict(zip(names, rest, strict=True))
    return prod(axes.values())


def sizes_for_one_image(node: Node) -> tuple[int, ...]:
    """Return a shape with a batch of one."""
    return tuple(
        size if isinstance(size, int) else int(size.node.expr.subs(symbol(size), 1))
        for size in shape_of(node)
    )


def stored_shape(argument: object) -> tuple[int, ...]:
    """Return the shape of a weight."""
    value = argument.meta.get("val") if isinstance(argument, Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()
