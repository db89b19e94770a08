r"""Homogeneity: does scaling the image scale the logits?

A function is homogeneous of degree ``d`` if :math:`f(kx) = k^d f(x)` for all ``k > 0``. A network
of degree 1 is an X-DNN: its input times gradient is axiomatic, in one pass.

Every operation maps the degrees of its inputs to the degree of its output. Where none exists, the
operation is an offender; the walk goes on as if it had been cured, so that all are found. Beside
this proof stand numeric tests, and what each offender adds to the logit.

References:
    Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
    Definition 3.3 and Corollary 3.4.
"""

from dataclasses import dataclass
from typing import final

from torch.fx import Graph, GraphModule, Node

from whence.core import Images
from whence.display import card, verbatim
from whence.network import rewrite
from whence.network.certificate import Certificate, certificate, euler
from whence.network.degrees import Constants, Offence, judge
from whence.network.operations import module_path, name_of

__all__ = ["Homogeneity", "Needed", "Offence", "OperationDegree", "homogeneity"]

SHOWN = 3
"""Places of one kind of change that are named."""

WIDTH = 14
"""Columns that the name of an operation takes, if it is not longer."""


@final
@dataclass(frozen=True, kw_only=True)
class OperationDegree:
    """One operation with its degree, or with its offence.

    Args:
        node: Its name in the graph.
        operation: What it does, ``conv2d``.
        path: The module that calls it.
        degree: Its degree; None if it has none.
        offence: Why it has none.
        gaps: What it adds to the logit of each tested image's predicted class beyond what
            pixels account for; see :class:`~whence.network.certificate.Euler`.
    """

    node: str
    operation: str
    path: str
    degree: float | None
    offence: Offence | None = None
    gaps: tuple[float, ...] = ()

    @property
    def gap(self) -> float:
        """The mean of what it adds."""
        return sum(self.gaps) / len(self.gaps) if self.gaps else 0.0


@final
@dataclass(frozen=True, kw_only=True)
class Needed:
    """One kind of change that the network needs.

    Args:
        operation: The operations that it concerns.
        offence: Why, and what to do.
        paths: Where they are, in order.
        gap: What they add together to the mean logit.
    """

    operation: str
    offence: Offence
    paths: tuple[str, ...]
    gap: float

    def __str__(self) -> str:
        """Return it in two lines."""
        named = [path or "forward" for path in self.paths]
        places = ", ".join(named[:SHOWN])
        if len(named) > SHOWN:
            places += f", ... {named[-1]}"
        first = f"  {len(self.paths):4d} x {self.operation:{WIDTH}}  {self.offence.reason}"
        rest = " " * (WIDTH + 11)
        return (
            f"{first}\n{rest}{self.offence.cure}\n"
            f"{rest}At {places}; they add {self.gap:+.3g} to the mean logit."
        )


@final
@dataclass(frozen=True, kw_only=True)
class Homogeneity:
    """The degrees of a network's operations, and what numbers say.

    Args:
        degree: The degree of the logits, by proof; None if some operation has none.
        operations: Every operation that depends on the images, in order.
        certificate: The numeric tests; None if none were run.
        assumes: Stored tensors that are zero, and without which the proof would fail: biases
            that training may bring to life.
    """

    degree: float | None
    operations: tuple[OperationDegree, ...]
    certificate: Certificate | None = None
    assumes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the network is an X-DNN: homogeneous of degree 1, by proof and by test."""
        return self.degree == 1 and (self.certificate is None or self.certificate.passes)

    @property
    def offenders(self) -> tuple[OperationDegree, ...]:
        """The operations that break homogeneity of degree 1, first the first."""
        return tuple(o for o in self.operations if o.offence is not None)

    @property
    def first_offender(self) -> OperationDegree | None:
        """The first operation that breaks it."""
        return self.offenders[0] if self.offenders else None

    @property
    def needed(self) -> tuple[Needed, ...]:
        """What would have to change, one entry for each kind of change."""
        kinds: dict[tuple[str, Offence], list[OperationDegree]] = {}
        for row in self.offenders:
            if row.offence is not None:
                kinds.setdefault((row.operation, row.offence), []).append(row)
        return tuple(
            Needed(
                operation=operation,
                offence=offence,
                paths=tuple(row.path for row in rows),
                gap=sum(row.gap for row in rows),
            )
            for (operation, offence), rows in kinds.items()
        )

    def __str__(self) -> str:
        """Return the verdict, the first offender, what would have to change, and the tests."""
        lines = [self.verdict]
        first = self.first_offender
        if first is not None and first.offence is not None:
            where = first.path or "forward"
            lines += [
                f"First offender: {where} ({first.operation}). {first.offence.reason}",
                "",
                "What would have to change:",
                *map(str, self.needed),
            ]
        if self.certificate is not None:
            lines += ["", f"Measured on {self.certificate.images} images:", str(self.certificate)]
            if first is not None:
                lines.append(self.balance(self.certificate))
            elif not self.certificate.passes and self.certificate.precision != "float64":
                lines.append(
                    "  If they pass in double precision (model.double()), the proof is right and "
                    "the network amplifies rounding."
                )
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """The verdict in a line."""
        if self.holds:
            return "Nonnegatively homogeneous of degree 1: an X-DNN."
        if self.degree == 1:
            return "Not an X-DNN: every operation has a degree, but the numeric tests fail."
        if self.degree is not None:
            return f"Not an X-DNN: homogeneous of degree {self.degree:g}; an X-DNN has degree 1."
        return f"Not an X-DNN: {len(self.offenders)} operations break homogeneity."

    def _repr_html_(self) -> str:
        """Show the verdict in a notebook."""
        return card("Homogeneity", verbatim(self))

    def balance(self, tested: Certificate) -> str:
        """Return what pixels and what offenders account for, in a line."""
        identity, count = tested.euler, tested.images
        logit = sum(identity.explained) / count
        pixels = sum(identity.total) / count
        rest = sum(row.gap for row in self.offenders)
        return (
            f"  Of the predicted logit, {logit:.3g} on average, pixels account for {pixels:.3g} "
            f"and the offenders for {rest:.3g}."
        )


def homogeneity(graph: Graph, module: GraphModule, images: Images | None = None) -> Homogeneity:
    """Return the degree of every operation that depends on the images.

    Args:
        graph: The network's graph.
        module: Holds its weights.
        images: A few images for the numeric tests: 4.5 passes, and one for each image.
    """
    graph, _ = rewrite.copied(graph)
    rewrite.functional(graph)
    graph.eliminate_dead_code()
    moving = rewrite.depends_on_images(graph)
    constants = Constants(module=module)
    degrees: dict[Node, float] = {}
    offences: dict[Node, Offence] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            degrees[node] = 1.0
        elif node in moving:
            degrees[node], offence = judge(node, degrees, constants)
            if offence is not None:
                offences[node] = offence
    output = next(n for n in graph.nodes if n.op == "output")
    degree = degrees[output.all_input_nodes[0]]
    judged = [node for node in degrees if node.op != "placeholder"]
    tested = None
    if images is not None:
        identity = euler(graph, module, degrees, list(offences), images)
        tested = certificate(module, images, identity, degree)
    return Homogeneity(
        degree=None if offences else degree,
        operations=tuple(
            OperationDegree(
                node=node.name,
                operation=name_of(node),
                path=module_path(node),
                degree=None if node in offences else degrees[node],
                offence=offences.get(node),
                gaps=() if tested is None else tested.euler.gaps.get(node.name, ()),
            )
            for node in judged
        ),
        certificate=tested,
        assumes=tuple(sorted(constants.zeros)),
    )
