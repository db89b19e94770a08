r"""Homogeneity: does scaling the image scale the logits?

A function is homogeneous of degree ``d`` if :math:`f(kx) = k^d f(x)` for all ``k > 0``. A network
of degree 1 is an X-DNN: its input times gradient is axiomatic, in one pass.

Every operation maps the degrees of its inputs to the degree of its output. Where none exists, the
operation is an offender; the walk goes on as if it had been cured, so that all are found.

References:
    Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
    Definition 3.3 and Corollary 3.4.
"""

from dataclasses import dataclass
from typing import final

from torch import nn
from torch.fx import Graph, Node

from whence.network import rewrite
from whence.network.degrees import Offence, judge
from whence.network.operations import module_path, name_of

__all__ = ["Homogeneity", "Offence", "OperationDegree"]


@final
@dataclass(frozen=True, kw_only=True)
class OperationDegree:
    """One operation with its degree, or with its offence."""

    node: str
    operation: str
    path: str
    degree: float | None
    offence: Offence | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Homogeneity:
    """The degrees of a network's operations.

    Args:
        degree: The degree of the logits; None if some operation has none.
        operations: Every operation that depends on the images, in order.
    """

    degree: float | None
    operations: tuple[OperationDegree, ...]

    @property
    def holds(self) -> bool:
        """Whether the network is an X-DNN: homogeneous of degree 1."""
        return self.degree == 1

    @property
    def offenders(self) -> tuple[OperationDegree, ...]:
        """The operations that break homogeneity of degree 1, first the first."""
        return tuple(o for o in self.operations if o.offence is not None)

    @property
    def first_offender(self) -> OperationDegree | None:
        """The first operation that breaks it."""
        return self.offenders[0] if self.offenders else None

    def __str__(self) -> str:
        """Return the verdict in a few lines."""
        if self.holds:
            return "Nonnegatively homogeneous of degree 1: an X-DNN."
        if self.degree is not None:
            return f"Homogeneous of degree {self.degree:g}; an X-DNN has degree 1."
        lines = [f"Not an X-DNN: {len(self.offenders)} operations break homogeneity."]
        for o in self.offenders[:20]:
            if o.offence is not None:
                where = o.path or "forward"
                lines.append(f"  {where} ({o.operation}): {o.offence.reason} {o.offence.cure}")
        if len(self.offenders) > 20:  # noqa: PLR2004 - a screenful
            lines.append(f"  ... and {len(self.offenders) - 20} more")
        return "\n".join(lines)


def homogeneity(graph: Graph, module: nn.Module) -> Homogeneity:
    """Return the degree of every operation that depends on the images."""
    graph, _ = rewrite.copied(graph)
    rewrite.functional(graph)
    graph.eliminate_dead_code()
    moving = rewrite.depends_on_images(graph)
    degrees: dict[Node, float] = {}
    rows: list[OperationDegree] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            degrees[node] = 1.0
        elif node in moving:
            degree, offence = judge(node, degrees, module)
            degrees[node] = degree
            rows.append(
                OperationDegree(
                    node=node.name,
                    operation=name_of(node),
                    path=module_path(node),
                    degree=None if offence else degree,
                    offence=offence,
                )
            )
    output = next(n for n in graph.nodes if n.op == "output")
    broken = any(row.offence for row in rows)
    return Homogeneity(
        degree=None if broken else degrees[output.all_input_nodes[0]], operations=tuple(rows)
    )
