"""Where NaN or infinity begins in a network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from whence.network import rewrite
from whence.network.operations import module_path, name_of

__all__ = ["first_not_finite"]

Scalar = Callable[[Tensor], Tensor]


def first_not_finite(module: GraphModule, images: Tensor, scalar: Scalar | None) -> str | None:
    """Name the operation in which a network's values, or their gradients, stop to be finite.

    A value of minus infinity alone is how attention is masked, and counts only if nothing else
    is found. Node by node, so much slower than the network.

    Args:
        module: Images in, logits out.
        images: Finite images.
        scalar: What is explained, from logits; None to look at values only.

    Returns:
        The operation with its module's path, or None if everything is finite.
    """
    graph, _ = rewrite.copied(module.graph)
    rewrite.functional(graph)
    watch = Watch(rewrite.compiled(module, graph))
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = watch.run(leaf)
        found = watch.broken or watch.masked
        if found is None and scalar is not None and logits.requires_grad:
            torch.autograd.grad(scalar(logits).sum(), leaf, allow_unused=True)
            found = watch.after_backward()
        watch.env.clear()
    return None if found is None else described(found)


def described(node: Node) -> str:
    """Return an operation and where it stands."""
    where = module_path(node)
    return f"{name_of(node)!r} in {where!r}" if where else f"{name_of(node)!r} in the forward"


class Watch(Interpreter):
    """Runs a network node by node and remembers where it stops to be finite."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.moving = rewrite.depends_on_images(module.graph)
        self.broken: Node | None = None
        self.masked: Node | None = None
        self.unbounded: Node | None = None

    def run_node(self, n: Node) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run a node; look at its value, and later at its value's gradient."""
        value = super().run_node(n)
        if n in self.moving and isinstance(value, Tensor) and value.is_floating_point():
            if self.broken is None and bool((value.isnan() | value.isposinf()).any()):
                self.broken = n
            if self.masked is None and bool(value.isneginf().any()):
                self.masked = n
            if value.requires_grad:
                value.register_hook(lambda gradient: self.look_at(n, gradient))  # type: ignore[no-untyped-call]
        return value

    def look_at(self, node: Node, gradient: Tensor) -> None:
        """Remember the first value whose gradient is not finite."""
        if self.unbounded is None and not bool(gradient.isfinite().all()):
            self.unbounded = node

    def after_backward(self) -> Node | None:
        """Return the operation whose derivative is not finite: it reads the remembered value."""
        if self.unbounded is None:
            return None
        readers = [user for user in self.unbounded.users if user in self.moving]
        return readers[0] if len(readers) == 1 else self.unbounded
