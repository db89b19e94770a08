"""Network: a model read once, as a graph of tensor operations."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from whence.core import (
    Images,
    Logits,
    check_finite_images,
    check_images,
    check_logits,
    fingerprint_model,
)
from whence.errors import NumericsError
from whence.network import rewrite
from whence.network.cut import Cut, find_cut
from whence.network.describe import Description, describe
from whence.network.export import check_alike, check_model, check_rows, exported, unwrapped
from whence.network.finite import first_not_finite
from whence.network.fold import folded
from whence.network.homogeneity import Homogeneity, homogeneity
from whence.network.rules import Rule, under
from whence.network.staged import Staged, staged
from whence.network.tune import tuned
from whence.network.twice import twice_differentiable

__all__ = ["Network"]

Made = TypeVar("Made")

MOST_MADE = 16
"""How many graphs a network keeps of those that were made of it."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A classifier as one graph; parameters are the user's own, so later training shows through.

    Made with :meth:`read`. Calling it gives the model's logits, to the bit; only the kernel that
    ``nn.MultiheadAttention`` takes where no gradient is wanted rounds differently. What comes of
    it are other graphs over the same parameters: :meth:`under` other backward rules, :meth:`cut`
    in two, :meth:`folded` into fewer operations, or :meth:`function` of explicit parameters.

    Args:
        module: The compiled graph; images in, logits out.
        shape: The shape ``(c, h, w)`` of an image.
        parameters: The user's parameters by name; shared ones under their first name.
        example: A few images that the network was read with.
        unread: Names of the model's parameters that its predictions do not use, or that it has
            cached as constants.
        made: The cuts and the graphs under rules that were asked for last; they live as long as
            the network.
    """

    module: GraphModule
    shape: tuple[int, int, int]
    parameters: Mapping[str, nn.Parameter]
    example: Tensor = field(repr=False)
    unread: tuple[str, ...] = ()
    made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def read(model: nn.Module, images: Images) -> "Network":
        """Read a model as a graph.

        The model is exported with a batch of any size. It is left exactly as it was; a network
        is a function, so buffers that the model's forward pass would overwrite are not.
        Wrappers of ``torch.compile`` and data parallelism are taken off.

        Args:
            model: A classifier in eval mode: images ``(b, c, h, w)`` to logits ``(b, k)``.
            images: Some images, ``(b, c, h, w)``, in the model's units; two are enough.

        Returns:
            The network. Reading costs 0.2 to 9 s, and two forward passes of two images.

        Raises:
            ModeError: If a part of the model is in train mode, draws at random or mixes images.
            NumericsError: If an image, a weight or a logit is not finite, with the place where
                it began.
            ReadError: If the model cannot be exported, with the reason.
            SettingError: If images and model differ in device or type.
            ShapeError: If the model cannot take the images, or returns no row of logits for each.
        """
        model = unwrapped(model)
        images = check_images(images).detach()
        check_model(model, images)
        check_finite_images(images)
        example = (images if len(images) > 1 else images.repeat(2, 1, 1, 1))[:2].clone()
        module = exported(model, example)
        with torch.no_grad():
            logits = check_logits(module(example), len(example))
            check_finite(module, example, logits)
            check_rows(module, example, logits)
        names = {id(p): name for name, p in model.named_parameters()}
        module = with_one_name_each(module, names)
        used = {id(p) for p in module.parameters()}
        parameters = {name: p for name, p in model.named_parameters() if id(p) in used}
        return Network(
            module=module,
            shape=tuple(images.shape[1:]),  # type: ignore[arg-type]
            parameters=parameters,
            example=example,
            unread=tuple(name for name in names.values() if name not in parameters),
        )

    def __call__(self, images: Images) -> Logits:
        """Return the model's logits."""
        self.check(images)
        return self.module(images)  # type: ignore[no-any-return]

    @property
    def graph(self) -> Graph:
        """The graph; do not change it."""
        return self.module.graph

    def check(self, images: Images) -> None:
        """Refuse images of another shape, type or device than the network was read with."""
        weight = next(iter(self.parameters.values()), None)
        check_alike(images, self.example, weight)

    def function(
        self, taps: Sequence[str] = (), *, twice: bool = False
    ) -> Callable[[Mapping[str, Tensor], Images], tuple[Tensor, tuple[Tensor, ...]]]:
        """Return the network as a pure function ``(parameters, images) -> (logits, values)``.

        Args:
            taps: Names of nodes; ``values`` are theirs, in order.
            twice: Spell out the fused operations that cannot be differentiated twice, or wrongly.
                Slower, and equal up to rounding.
        """
        graph, places = rewrite.copied(self.graph)
        by_name = {old.name: new for old, new in places.items()}
        rewrite.functional(graph)
        values = [by_name[name] for name in taps]
        rewrite.with_outputs(graph, values)
        if twice:
            twice_differentiable(graph)
        rewrite.with_parameters_as_input(graph, self.parameters)
        return rewrite.compiled(self.module, graph)

    def staged(self) -> Staged:
        """Return the network in two stages: work on parameters, done once, and the rest.

        Both can be differentiated twice; batch norms are merged into the convolutions before
        them in the first stage.
        """
        return staged(self.module, self.graph, list(self.parameters))

    def under(self, rules: Sequence[Rule]) -> "Network":
        """Return the same function whose operations have other backward rules.

        The same rules, asked for again, give the same network at no cost.
        """
        rules = tuple(rules)
        return self.kept(("under", rules), lambda: self.with_module(under(self.module, rules)))

    def folded(self) -> "Network":
        """Return the same function in fewer operations: batch norms folded into what they follow.

        The folded weights are copies: training the model later does not show in them.
        """
        module = folded(self.module)
        return Network(
            module=module,
            shape=self.shape,
            parameters=dict(module.named_parameters()),
            example=self.example,
            unread=self.unread,
        )

    def tuned(self, *, channels_last: bool = True, dtype: torch.dtype | None = None) -> "Network":
        """Return the same function for less time and memory, to explain it and not to train it.

        Batch norms are folded, what depends on weights alone is computed once, and no weight
        asks for a gradient, so that a pass keeps less. The logits equal the model's to rounding,
        which is checked on the images that it was read with; in half precision maps differ by
        more, as the gap that comes with a result shows. Training the model later does not show.

        Args:
            channels_last: Keep the channels of a position side by side in memory: faster where
                convolutions are many, and free elsewhere.
            dtype: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision. Images,
                logits and attributions keep theirs, and sums over steps are made in it.

        Raises:
            NumericsError: If the logits are not the model's, or overflow in half precision.
            SettingError: If ``dtype`` is no half precision.
            UnsupportedOperation: If an operation does not run so.
        """
        module = tuned(self.module, self.example, channels_last=channels_last, dtype=dtype)
        return Network(
            module=module,
            shape=self.shape,
            parameters=dict(module.named_parameters()),
            example=self.example,
            unread=self.unread,
        )

    def cut(self, node: str | None = None) -> Cut:
        """Cut the network at a node into a head and a tail.

        Args:
            node: The name of a node (see :meth:`describe`), or the path of a module, whose last
                operation is meant. By default the last feature map that every prediction passes
                through and that all pixels still influence: the place for Grad-CAM.

        Returns:
            Head and tail. The same place, asked for again, gives the same cut at no cost.
        """
        return self.kept(("cut", node), lambda: find_cut(self.module, self.example, node))

    def first_not_finite(
        self, images: Images, scalar: Callable[[Tensor], Tensor] | None = None
    ) -> str | None:
        """Name the operation in which values stop to be finite, or else their gradients.

        Args:
            images: Finite images.
            scalar: What is explained, from logits, such as a target; None to look at values only.

        Returns:
            The operation with its module's path, or None if everything is finite.
        """
        return first_not_finite(self.module, images, scalar)

    def homogeneity(self, images: Images | None = None) -> Homogeneity:
        """Return the degree of homogeneity of every operation, who breaks it, and numeric tests.

        Args:
            images: Images for the tests; those that the network was read with if None. The tests
                cost 4.5 passes, and one for each image.
        """
        if images is not None:
            self.check(images)
        return homogeneity(self.graph, self.module, self.example if images is None else images)

    def describe(self) -> Description:
        """Return a table of the operations: path, shapes, parameters, share of the work."""
        return describe(self.module)

    def fingerprint(self) -> str:
        """Return a SHA-256 of weights and graph."""
        return fingerprint_model(self.module, self.module.code)

    def kept(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what was made under this key, or make it and forget what was not used longest."""
        held: Made | None = self.made.pop(key, None)
        found = make() if held is None else held
        self.made[key] = found
        for old in list(self.made)[:-MOST_MADE]:
            self.made.pop(old, None)
        return found

    def with_module(self, module: GraphModule) -> "Network":
        """Return a network over the same parameters with another graph."""
        return Network(
            module=module,
            shape=self.shape,
            parameters=self.parameters,
            example=self.example,
            unread=self.unread,
        )


def check_finite(module: GraphModule, example: Tensor, logits: Tensor) -> None:
    """Refuse logits that are NaN or infinite, and say in which operation it began."""
    if logits.isfinite().all():
        return
    where = first_not_finite(module, example, None)
    msg = (
        f"The model's logits for the given images are NaN or infinite, though images and weights "
        f"are finite. It began in {where or 'an operation that writes into memory'}. Look for a "
        f"division by zero or a logarithm there, or for an overflow in half precision."
    )
    raise NumericsError(msg)


def with_one_name_each(module: GraphModule, names: Mapping[int, str]) -> GraphModule:
    """Fetch each of the model's parameters under its first name, also if modules share it."""
    graph, _ = rewrite.copied(module.graph)
    held = rewrite.attributes(module, graph)
    for node in graph.nodes:
        if node.op == "get_attr" and id(held.get(str(node.target))) in names:
            node.target = names[id(held[str(node.target)])]
    held = {names.get(id(value), name): value for name, value in held.items()}
    return rewrite.compiled(held, graph)
