"""Which operation of a network keeps relevance, or makes it: one image, node by node."""

import re
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_aggregate

from whence.attribution.account import Loss
from whence.attribution.relevance.layers import unzero
from whence.errors import NumericsError
from whence.network import Network
from whence.network.operations import module_path

__all__ = ["Trace", "not_finite", "traced"]


def operation_of(node: Node) -> str:
    """Return the plain name of a node's operation, also of one that a rule replaced."""
    return re.sub(r"_*(_\d+)?$", "", node.name)


@final
class Trace(Interpreter):
    """Runs a network node by node and adds up what passes each of its edges on the way back.

    Args:
        module: The network under rules.
        base: Values at the nodes from which differences count; None to count from zero.
    """

    def __init__(self, module: GraphModule, base: dict[Node, Any] | None = None) -> None:
        super().__init__(module)
        self.base = base
        self.values: dict[Node, Any] = {}
        self.balance: dict[Node, float] = {}
        self.broken: Node | None = None

    def run_node(self, n: Node) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run a node on marked arguments, and mark its value."""
        if n.op != "call_function":
            value = super().run_node(n)
        else:
            args = map_aggregate(n.args, lambda each: self.edge(n, each))
            kwargs = map_aggregate(n.kwargs, lambda each: self.edge(n, each))
            value = n.target(*args, **kwargs)  # type: ignore[operator]
            for part, start in pairs(value, self.base_of(n)):
                self.mark(part, start, n, 1)
        self.values[n] = value
        return value

    def edge(self, reader: Node, argument: Any) -> Any:  # noqa: ANN401 - any argument
        """Return an argument's value, marked as what this reader takes of it."""
        if not isinstance(argument, Node):
            return argument
        value = self.values[argument]
        marked = [
            self.taken(reader, part, start) for part, start in pairs(value, self.base_of(argument))
        ]
        return type(value)(marked) if isinstance(value, (tuple, list)) else marked[0]

    def taken(self, reader: Node, value: Any, start: Any) -> Any:  # noqa: ANN401 - any argument
        """Return a value as one reader takes it."""
        if not (isinstance(value, Tensor) and value.requires_grad):
            return value
        own = value.view_as(value)
        self.mark(own, start, reader, -1)
        return own

    def mark(self, value: Any, start: Any, node: Node, sign: int) -> None:  # noqa: ANN401
        """Add the relevance that will arrive at a value to a node's balance, or take it off."""
        if not (isinstance(value, Tensor) and value.requires_grad):
            return
        kept = value.detach()

        def look(gradient: Tensor | None) -> None:
            if gradient is None:  # nothing arrives here: a constant for the rules
                return
            if sign < 0 and self.broken is None and not gradient.isfinite().all():
                self.broken = node
            size = unzero(kept) if start is None else kept - start
            amount = float((size.double() * gradient.double()).sum())
            self.balance[node] = self.balance.get(node, 0.0) + sign * amount

        value.register_hook(look)  # type: ignore[no-untyped-call]

    def base_of(self, node: Node) -> Any:  # noqa: ANN401 - a value of any kind
        """Return a node's value at the base."""
        return None if self.base is None else self.base[node]


def pairs(value: Any, start: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - of any kind
    """Return the parts of a value, each with its own at the base."""
    if not isinstance(value, (tuple, list)):
        return [(value, start)]
    return list(zip(value, start or [None] * len(value), strict=True))


def traced(
    network: Network,
    images: Tensor,
    begin: Callable[[Tensor], Tensor],
    *,
    base: dict[Node, Any] | None = None,
) -> tuple[tuple[Loss, ...], str | None]:
    """Return what each operation keeps of the relevance, and where it stops to be finite.

    Args:
        network: The network under rules.
        images: One image.
        begin: From logits to the relevance per logit at the start.
        base: Values of the nodes from which differences count.

    Returns:
        Losses, the largest first, in parts of what was to be shared out (a gain is negative); and
        the operation that made relevance infinite or NaN, if any did.
    """
    module = network.module
    trace = Trace(module, base)
    leaf = images.detach().clone().requires_grad_()
    logits = trace.run(leaf)
    start = begin(logits)
    last = next(node for node in module.graph.nodes if node.op == "output").all_input_nodes[0]
    before = 0 if base is None else base[last]
    whole = float((start.double() * (logits.detach() - before).double()).sum())
    try:
        torch.autograd.grad(logits, leaf, start)
    finally:
        # The marks of a value hold the trace; while it holds the value, nothing could be freed.
        trace.values.clear()
        trace.env.clear()
    losses = [
        Loss(operation=operation_of(node), path=module_path(node), share=amount / whole)
        for node, amount in trace.balance.items()
        if amount and whole
    ]
    where = trace.broken
    return (
        tuple(sorted(losses, key=lambda loss: -abs(loss.share))),
        None if where is None else place_of(operation_of(where), module_path(where)),
    )


def place_of(operation: str, path: str) -> str:
    """Return an operation and where it stands, in words."""
    return f"{operation!r} in {path!r}" if path else f"{operation!r} in the model's forward"


def not_finite(images: Tensor, relevance: Tensor, where: str | None) -> NumericsError:
    """Return the error that names where relevance stopped to be finite."""
    bad = (~relevance.isfinite()).flatten(1).any(dim=1).nonzero()[:, 0]
    place = "" if where is None else f" in {where}"
    msg = (
        f"Relevance became NaN or infinite{place}, for {len(bad)} of {len(images)} images, first "
        f"for image {int(bad[0])}; images and logits are finite. A denominator there is close to "
        f"zero, or the numbers overflow ({images.dtype}): give the rule a larger epsilon, or "
        f"explain in single or double precision."
    )
    return NumericsError(msg)
