"""Network: a model read once, as a graph of tensor operations."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from whence.core import Images, Logits, check_images, check_logits, check_mode, fingerprint_model
from whence.errors import NumericsError, ReadError, ShapeError
from whence.network import rewrite
from whence.network.cut import Cut, find_cut
from whence.network.describe import Description, describe
from whence.network.fold import folded
from whence.network.homogeneity import Homogeneity, homogeneity
from whence.network.rules import Rule, under

__all__ = ["Network"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A classifier as one graph; parameters are the user's own, so later training shows through.

    Made with :meth:`read`. Calling it gives the model's logits, to the bit. What comes of it are
    other graphs over the same parameters: :meth:`under` other backward rules, :meth:`cut` in two,
    :meth:`folded` into fewer operations, or :meth:`function` of explicit parameters.

    Args:
        module: The compiled graph; images in, logits out.
        shape: The shape ``(c, h, w)`` of an image.
        parameters: The user's parameters by name; shared ones under their first name.
        example: A few images that the network was read with.
    """

    module: GraphModule
    shape: tuple[int, int, int]
    parameters: Mapping[str, nn.Parameter]
    example: Tensor = field(repr=False)

    @staticmethod
    def read(model: nn.Module, images: Images) -> "Network":
        """Read a model as a graph.

        The model is exported with a batch of any size. It is left exactly as it was.

        Args:
            model: A classifier in eval mode: images ``(b, c, h, w)`` to logits ``(b, k)``.
            images: Some images, ``(b, c, h, w)``, in the model's units; two are enough.

        Returns:
            The network. Reading costs 0.2 to 9 s, and one forward pass.

        Raises:
            ModeError: If a part of the model is in train mode.
            NumericsError: If a weight or a logit is not finite.
            ReadError: If the model cannot be exported, with the reason.
        """
        images = check_images(images).detach()
        check_mode(model)
        check_finite(model)
        example = (images if len(images) > 1 else images.repeat(2, 1, 1, 1))[:2]
        with torch.no_grad():
            logits = check_logits(logits_with_mode_check(model, example), len(example))
        if not logits.isfinite().all():
            msg = "The model's logits for the given images are NaN or infinite; its weights are not."
            raise NumericsError(msg)
        module = exported(model, example)
        graph = plain_graph(module)
        read = rewrite.compiled(module, graph)
        own = {id(p): name for name, p in reversed(list(model.named_parameters()))}
        parameters = {
            name: p for name, p in read.named_parameters(remove_duplicate=False) if id(p) in own
        }
        first = {id(p): name for name, p in reversed(parameters.items())}
        return Network(
            module=with_one_name_each(read, parameters, first),
            shape=tuple(images.shape[1:]),  # type: ignore[arg-type]
            parameters={name: p for name, p in parameters.items() if first[id(p)] == name},
            example=example,
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
        """Refuse images of another shape than the network was read with."""
        check_images(images)
        if tuple(images.shape[1:]) != self.shape:
            msg = (
                f"The network was read with images of shape {self.shape}; these are "
                f"{tuple(images.shape[1:])}. Resize them, or read the model again at their size."
            )
            raise ShapeError(msg)

    def function(
        self, taps: Sequence[str] = ()
    ) -> Callable[[Mapping[str, Tensor], Images], tuple[Tensor, tuple[Tensor, ...]]]:
        """Return the network as a pure function ``(parameters, images) -> (logits, values)``.

        Every operation is out-of-place, so it can be differentiated forwards, backwards and
        twice. ``values`` are those of the named nodes, in order.
        """
        graph, places = rewrite.copied(self.graph)
        by_name = {old.name: new for old, new in places.items()}
        rewrite.functional(graph)
        values = [by_name[name] for name in taps]
        rewrite.with_outputs(graph, values)
        rewrite.with_parameters_as_input(graph, self.parameters)
        return rewrite.compiled(self.module, graph)

    def under(self, rules: Sequence[Rule]) -> "Network":
        """Return the same function whose operations have other backward rules."""
        return self.with_module(under(self.module, rules))

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
        )

    def cut(self, node: str | None = None) -> Cut:
        """Cut the network at a node into a head and a tail.

        Args:
            node: The name of a node (see :meth:`describe`), or the path of a module, whose last
                operation is meant. By default the last feature map that every prediction passes
                through and that all pixels still influence: the place for Grad-CAM.
        """
        return find_cut(self.module, self.example, node)

    def homogeneity(self) -> Homogeneity:
        """Return the degree of homogeneity of every operation, and who breaks it."""
        return homogeneity(self.graph, self.module)

    def describe(self) -> Description:
        """Return a table of the operations: path, shapes, parameters, share of the work."""
        return describe(self.module)

    def fingerprint(self) -> str:
        """Return a SHA-256 of weights and graph."""
        return fingerprint_model(self.module, self.module.code)

    def with_module(self, module: GraphModule) -> "Network":
        """Return a network over the same parameters with another graph."""
        return Network(
            module=module, shape=self.shape, parameters=self.parameters, example=self.example
        )


def check_finite(model: nn.Module) -> None:
    """Refuse weights and buffers that are NaN or infinite."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            msg = (
                f"{bad} of {value.numel()} values of the weight {name!r} are NaN or infinite. "
                f"Load an earlier checkpoint; a training run that diverged leaves such weights."
            )
            raise NumericsError(msg)


def logits_with_mode_check(model: nn.Module, images: Tensor) -> Any:  # noqa: ANN401 - any output
    """Run the user's model once, as it is."""
    output = model(images)
    return pick_logits(output)


def pick_logits(output: Any) -> Any:  # noqa: ANN401 - tensors or graph nodes in any container
    """Return the logits in a model's output, be they tensors or graph nodes."""
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, dict) and "logits" in output:
        return output["logits"]
    if isinstance(output, (tuple, list)) and output:
        return pick_logits(output[0])
    return output


def exported(model: nn.Module, example: Tensor) -> GraphModule:
    """Export a model with a batch of any size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
            return program.module()  # type: ignore[return-value]
    except Exception as error:
        reason = str(error).strip().split("\n")
        msg = (
            f"The model {type(model).__name__} could not be read as a graph: "
            f"{' '.join(line.strip() for line in reason[:3])[:500]}\n"
            f"Control flow that depends on pixel values, and code that fixes the batch size, "
            f"cannot be exported: replace them, or use methods that need no graph "
            f"(gradient, input-x-gradient, smoothgrad, integrated-gradients) on the model itself."
        )
        raise ReadError(msg) from error


def plain_graph(module: GraphModule) -> Graph:
    """Return the exported graph with images in and logits out, without checks and dropout."""
    graph, places = rewrite.copied(module.graph)
    output = next(n for n in graph.nodes if n.op == "output")
    spec = module._out_spec  # noqa: SLF001 - where an exported module keeps its output's structure
    structure = pytree.tree_unflatten(list(output.args[0]), spec)
    logits = pick_logits(structure)
    if not isinstance(logits, Node):
        msg = "The model's output holds no logits tensor: return it, or an object with .logits."
        raise ReadError(msg)
    output.args = (logits,)
    rewrite.tidied(graph)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    if len(placeholders) != 1:
        msg = f"The model must take one tensor of images; it takes {len(placeholders)} inputs."
        raise ReadError(msg)
    del places
    return graph


def with_one_name_each(
    module: GraphModule, parameters: Mapping[str, nn.Parameter], first: Mapping[int, str]
) -> GraphModule:
    """Fetch each shared parameter under one name only."""
    graph, _ = rewrite.copied(module.graph)
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target) in parameters:
            node.target = first[id(parameters[str(node.target)])]
    return rewrite.compiled(module, graph)
