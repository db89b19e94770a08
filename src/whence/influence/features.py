r"""Scorers of features: similarity of representations, and representer points.

Both look at the features :math:`h` that enter the last layer. Similarity compares those of two
images, whatever their labels; representer points ask what each training image added to the last
layer's weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from whence.core import ImageData, Images, Logit, Progress, Target, silent
from whence.errors import NumericsError, SettingError, UnsupportedOperation
from whence.gradients import DirectBlock, ExampleGradients, Operator, Recorder, Vectors
from whence.influence.batches import check_labels
from whence.influence.checkpoints import Checkpoint, network_at
from whence.influence.scoring import Scoring, inverse_norm, one, residual
from whence.network import Network
from whence.network.operations import name_of

__all__ = ["FeatureRecorder", "RepresentationSimilarity", "RepresenterPoints", "last_layer"]

FEATURES = "features"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureRecorder:
    """Records features of images in the place of gradients.

    Args:
        network: The network.
        node: The name of the node whose values are the features; flattened.
        extended: Add the features' squared norm and a one to them, so that a distance becomes an
            inner product.
    """

    network: Network
    node: str
    extended: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The one name under which features are recorded."""
        return (FEATURES,)

    @torch.inference_mode(mode=False)
    def record(
        self, images: Images, target: Target, *, create_graph: bool = False
    ) -> ExampleGradients:
        """Return the features of a batch, whatever the target; costs one forward pass."""
        del target
        self.network.check(images)
        images = images.clone() if images.is_inference() else images
        parameters = {name: p.detach() for name, p in self.network.parameters.items()}
        function = self.network.kept(
            ("features", self.node), lambda: self.network.function([self.node])
        )
        with torch.set_grad_enabled(create_graph):
            logits, (values,) = function(parameters, images)
            values = values.flatten(1)
            if self.extended:
                squared = values.square().sum(dim=1, keepdim=True)
                values = torch.cat([values, squared, torch.ones_like(squared)], dim=1)
        block = DirectBlock(values=values, shape=(values.shape[1],))
        return ExampleGradients(logits=logits, blocks={FEATURES: (block,)})


@final
@dataclass(frozen=True)
class Distance(Operator):
    r"""Turns extended features into those whose product is minus a squared distance.

    .. math:: (h, \lVert h \rVert^2, 1) \mapsto (2 h, -1, -\lVert h \rVert^2)
    """

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the products, ``{name: (q, d + 2)}``."""
        return {
            name: torch.cat([2 * v[:, :-2], -v[:, -1:], -v[:, -2:-1]], dim=1)
            for name, v in vectors.items()
        }


@final
@dataclass(frozen=True, kw_only=True)
class RepresentationSimilarity:
    r"""How alike the features of two images are: the baseline that needs no gradient.

    .. math:: \cos(h_i, h_q), \qquad \langle h_i, h_q \rangle, \qquad -\lVert h_i - h_q \rVert^2

    It knows neither labels nor targets: no score says that an image spoke *against* a prediction.
    Cost: one forward pass per image; its maps are ordinary input gradients.

    Args:
        measure: ``"cos"``, ``"dot"`` or ``"l2"``.
        node: The name of the node whose values are the features (see ``Network.describe``); the
            input of the last layer by default.

    References:
        Hanawa et al. (2021), "Evaluation of Similarity-based Explanations".
    """

    measure: Literal["cos", "dot", "l2"] = "cos"
    node: str | None = None
    name: str = "representation"

    def __post_init__(self) -> None:
        """Check the measure."""
        if self.measure not in ("cos", "dot", "l2"):
            msg = f"measure is 'cos', 'dot' or 'l2'; got {self.measure!r}."
            raise SettingError(msg)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; there is nothing to fit.

        Raises:
            UnsupportedOperation: If no node is given and no linear layer makes the logits.
            SettingError: If there is no such node.
        """
        del train, batch_size, progress
        network = recorder.network
        nodes = [n.name for n in network.graph.nodes if n.op == "call_function"]
        if self.node is not None and self.node not in nodes:
            msg = (
                f"The network has no node {self.node!r}; the first are {', '.join(nodes[:4])} "
                f"({len(nodes)} in all, see network.describe())."
            )
            raise SettingError(msg)
        node = last_layer(network).source if self.node is None else self.node
        rule = inverse_norm if self.measure == "cos" else one
        return Scoring(
            recorder=FeatureRecorder(network=network, node=node, extended=self.measure == "l2"),
            factors=rule,
            weights=rule,
            normalised=self.measure == "cos",
            operator=Distance() if self.measure == "l2" else None,
        )


@final
@dataclass(frozen=True, kw_only=True)
class RepresenterPoints:
    r"""What each training image added to the last layer, after a refit with an L2 penalty.

    At the minimum of :math:`\tfrac{1}{n} \sum_i \ell(W h_i) + \lambda \lVert W \rVert^2` the
    weights are a sum over training images, and so is every logit:

    .. math:: W = \sum_i \alpha_i h_i^\top, \qquad z_q = \sum_i \alpha_i \langle h_i, h_q \rangle,
              \qquad \alpha_i = -\frac{1}{2 \lambda n} \nabla_z \ell_i

    The score is image *i*'s part in the query's target, for a logit exactly; a bias counts as the
    weight of a feature that is always 1, and is penalised like the others. It is last-layer
    Grad-Dot of the refitted network, up to a factor. Cost: one forward pass per training image,
    and the refit of the last layer.

    Args:
        penalty: Lambda, over 0.
        tolerance: The refit stops where the largest slope is below it.
        steps: Or after so many steps, with an error.

    References:
        Yeh et al. (2018), "Representer Point Selection for Explaining Deep Neural Networks",
        Theorem 3.1.
    """

    penalty: float = 3e-3
    tolerance: float = 1e-10
    steps: int = 100
    name: str = "representer"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.penalty < float("inf") or not self.tolerance > 0 or self.steps < 1:
            msg = (
                f"Representer points need a penalty and a tolerance over 0 and at least one step; "
                f"got penalty={self.penalty}, tolerance={self.tolerance}, steps={self.steps}."
            )
            raise SettingError(msg)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; reads the features of the training data and refits the last layer.

        Raises:
            NumericsError: If the refit does not converge.
            UnsupportedOperation: If no linear layer makes the logits.
        """
        network = recorder.network
        layer = last_layer(network)
        features, labels = features_of(network, layer.source, train, batch_size, progress)
        if layer.bias is not None:
            features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        start = network.parameters[layer.weight].detach()
        weights = refitted(features.double(), labels, len(start), self)
        state: dict[str, Tensor] = dict(network.module.state_dict()) | dict(network.parameters)
        names = [layer.weight]
        state[layer.weight] = weights[:, : start.shape[1]].to(start)
        if layer.bias is not None:
            names.append(layer.bias)
            state[layer.bias] = weights[:, -1].to(start)
        scale = 1 / (2 * self.penalty * len(features))

        def factors(squared_norms: Tensor | None, residuals: Tensor) -> Tensor:
            return scale * one(squared_norms, residuals)

        refit = network_at(network, Checkpoint(weights=state))
        return Scoring(recorder=Recorder(refit, names), factors=factors, weights=residual)


@final
@dataclass(frozen=True, kw_only=True)
class LastLayer:
    """The linear layer that makes the logits.

    Args:
        source: The name of the node that is its input.
        weight: The name of its weight.
        bias: The name of its bias, or None.
    """

    source: str
    weight: str
    bias: str | None


def last_layer(network: Network) -> LastLayer:
    """Return the linear layer that makes the logits.

    Raises:
        UnsupportedOperation: If there is none, or its weight is computed from others.
    """
    output = next(n for n in network.graph.nodes if n.op == "output")
    node = output.all_input_nodes[0]
    if name_of(node) == "linear" and all(isinstance(a, Node) for a in node.args[:2]):
        source, weight = node.args[:2]
        bias = node.args[2] if len(node.args) > 2 else None  # noqa: PLR2004 - input, weight, bias
        fetched = [a for a in (weight, bias) if a is not None]
        if all(str(a.target) in network.parameters for a in fetched) and source.op != "placeholder":
            return LastLayer(
                source=source.name,
                weight=str(weight.target),
                bias=None if bias is None else str(bias.target),
            )
    msg = (
        f"The logits come from {name_of(node)!r}, and not from a linear layer over features. "
        f"Name the node whose values are the features, or choose a score of gradients."
    )
    raise UnsupportedOperation(msg)


def features_of(
    network: Network, node: str, train: ImageData, batch_size: int, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Return the features and labels of the training images."""
    recorder = FeatureRecorder(network=network, node=node)
    device = network.example.device
    found, labels, done = [], [], 0
    for batch in train.batches(batch_size):
        own = batch.labels.to(device)
        check_labels(train, batch.indices, own, network)
        blocks = recorder.record(batch.images.to(device), Logit(0)).blocks[FEATURES]
        values = blocks[0].materialise()
        finite = values.isfinite().all(dim=1).cpu()
        if not finite.all():
            bad = batch.indices[~finite].tolist()
            msg = f"The features of training images {bad[:5]} are NaN or infinite."
            raise NumericsError(msg)
        found.append(values)
        labels.append(own)
        done += len(own)
        progress("features", done, len(train))
    return torch.cat(found), torch.cat(labels)


def refitted(features: Tensor, labels: Tensor, classes: int, settings: RepresenterPoints) -> Tensor:
    """Return the weights at the minimum of the penalised cross-entropy, ``(k, d)``.

    Newton's method; its systems are solved by conjugate gradients, so that no matrix over all
    weights is formed.

    Raises:
        NumericsError: If the slope is still too large after all steps.
    """
    count = len(features)
    hits = functional.one_hot(labels, classes).to(features)
    weights = features.new_zeros(classes, features.shape[1])

    def loss(some: Tensor) -> float:
        fit = functional.cross_entropy(features @ some.T, labels)
        return float(fit + settings.penalty * some.square().sum())

    slope = float("inf")
    for _ in range(settings.steps):
        chances = (features @ weights.T).softmax(dim=1)
        down = (chances - hits).T @ features / count + 2 * settings.penalty * weights
        slope = float(down.abs().max())
        if slope <= settings.tolerance:
            return weights

        def curved(step: Tensor, chances: Tensor = chances) -> Tensor:
            pushed = chances * (features @ step.T)
            pushed = pushed - chances * pushed.sum(dim=1, keepdim=True)
            return pushed.T @ features / count + 2 * settings.penalty * step

        step = solved(curved, down)
        before, fall, length = loss(weights), float((down * step).sum()), 1.0
        while loss(weights - length * step) > before - 1e-4 * length * fall + 1e-12 * before:
            length /= 2
            if length < 1e-6:  # noqa: PLR2004 - rounding decides by now
                break
        weights = weights - length * step
    msg = (
        f"The refit of the last layer did not converge: its slope is {slope:.2g} after "
        f"{settings.steps} steps, {settings.tolerance:.2g} was asked for. Give more steps, a "
        f"larger penalty or a larger tolerance."
    )
    raise NumericsError(msg)


def solved(curved: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Return the solution of a positive system by conjugate gradients, to three digits."""
    found, left, towards = torch.zeros_like(right), right.clone(), right.clone()
    squared = left.square().sum()
    goal = 1e-6 * squared
    for _ in range(right.numel()):
        mapped = curved(towards)
        length = squared / (towards * mapped).sum()
        found = found + length * towards
        left = left - length * mapped
        renewed = left.square().sum()
        if renewed <= goal:
            break
        towards = left + renewed / squared * towards
        squared = renewed
    return found
