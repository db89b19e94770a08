r"""What the attention of a transformer says: rollout, and attention weighted by its gradient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.cam import enlarged, network_of
from whence.attribution.gradient import check_values, owned, recording
from whence.attribution.graphs import remade
from whence.core import Images, ScalarFn, check_logits
from whence.errors import SettingError, UnsupportedOperation
from whence.network import Network, rewrite
from whence.network.operations import name_of

__all__ = ["AttentionRollout", "TransformerAttribution"]

Step = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes shares ``(b, t)`` of tokens after a layer, its attention ``(b, heads, t, t)`` and the
gradient of that; returns the shares before the layer."""


@final
@dataclass(frozen=True, kw_only=True)
class AttentionRollout:
    r"""How much of each patch reaches what the head reads, if attention were all there is.

    .. math:: R = \bar A_L \cdots \bar A_1, \qquad
              \bar A_l = (1 - r)\, \frac{1}{H} \sum_h A_{l,h} + r I

    with attention probabilities :math:`A_{l,h}` of layer and head, and the share ``residual`` of
    the skip connection. The map is the mean of the rows of ``R`` that the head reads: the class
    token's, or all tokens' where it averages them; which, is asked of the gradient once. Values,
    MLPs and the head play no part, so the map is the same for every class. With class and
    register tokens counted, the shares of an image add up to 1. Cost: half a pass.

    Args:
        residual: The weight of the skip connection, from 0 to 1.
        upsample: Enlarge the map to the image, bilinearly; otherwise it has the tokens' grid.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: When called on a network without global attention over one grid of patches.

    References:
        Abnar and Zuidema (2020), "Quantifying Attention Flow in Transformers", section 3.
    """

    residual: float = 0.5
    upsample: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        if not 0 <= self.residual <= 1:
            msg = f"residual is a share, from 0 to 1; got {self.residual}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the tokens' grid."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""

        def before(after: Tensor, attention: Tensor, slopes: Tensor | None) -> Tensor:
            del slopes
            mixed = times(after, attention.mean(dim=1))
            return self.residual * after + (1 - self.residual) * mixed

        maps, values = backwards(f, images, before, self.batch_size, gradient=False)
        maps = enlarged(maps, images) if self.upsample else maps
        return Account(values=maps, passes=FORWARD, explained=values)


@final
@dataclass(frozen=True, kw_only=True)
class TransformerAttribution:
    r"""Attention weighted by its gradient, followed from the head back to the patches.

    .. math:: R_0 = I, \qquad R_l = R_{l-1} + \bar A_l R_{l-1}, \qquad
              \bar A_l = \frac{1}{H} \sum_h \mathrm{ReLU}\Big(\frac{\partial f}{\partial A_{l,h}}
              \odot A_{l,h}\Big)

    Unlike :class:`AttentionRollout` it depends on the class: attention counts as far as more of
    it would raise ``f``. The map is the mean of the rows of :math:`R_L - I` that the head reads.
    Not negative; the values add up to nothing in particular. Cost: 1 pass.

    The same authors' earlier method puts relevance in the place of attention. It is not offered:
    its relevance follows rules of its own for each kind of layer, which are not those of
    :class:`whence.attribution.LRP`, and the rule given here needs none and is theirs too, later.
    For relevance through attention, take LRP.

    Args:
        upsample: Enlarge the map to the image, bilinearly; otherwise it has the tokens' grid.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: When called on a network without global attention over one grid of patches.

    References:
        Chefer, Gur and Wolf (2021), "Generic Attention-model Explainability for Interpreting
        Bi-Modal and Encoder-Decoder Transformers", Eq. 5 and 6.
    """

    upsample: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the tokens' grid."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""

        def before(after: Tensor, attention: Tensor, slopes: Tensor | None) -> Tensor:
            weight = attention if slopes is None else (slopes * attention).relu()
            return after + times(after, weight.mean(dim=1))

        maps, values = backwards(f, images, before, self.batch_size, gradient=True)
        maps = enlarged(maps, images) if self.upsample else maps
        return Account(values=maps, passes=1.0, explained=values)


def times(shares: Tensor, attention: Tensor) -> Tensor:
    """Return shares ``(b, t)`` times attention ``(b, t, t)``, image by image."""
    return (shares[:, None] @ attention)[:, 0]


def backwards(
    f: ScalarFn, images: Images, before: Step, batch_size: int | None, *, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the shares of the patches ``(b, 1, h, w)``, followed back from the head; and values.

    The shares that the head itself reads from the patches, with no layer between, are taken off
    where gradients weigh the layers: they say nothing about the image.
    """
    network, _ = network_of(f)
    with recording():
        images = owned(images)
        network.check(images)
        attended = remade(network, Attended, attended_by)
        pace = Pace(f=f, images=images, batch_size=batch_size)
        parts, explained = [], []
        for start, stop in pace.spans(len(images)):
            rows = torch.arange(start, stop, device=images.device)
            _, scalar = network_of(f.at(rows))
            with pace.watching(stop - start), torch.set_grad_enabled(gradient):
                logits, layers = attended.forward(images[start:stop])
                values = scalar.target(check_logits(logits, stop - start))
                check_values(values, stop - start)
                slopes = gradients(values, layers) if gradient else [None] * len(layers)
            with torch.no_grad():
                shares = attended.readers.expand(stop - start, -1)
                for attention, slope in zip(layers[::-1], slopes[::-1], strict=True):
                    shares = before(shares, attention, slope)
                parts.append(shares - attended.readers if gradient else shares)
            explained.append(values.detach())
        return attended.grid(torch.cat(parts)), torch.cat(explained)


def gradients(values: Tensor, layers: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradient of the values in each layer's attention."""
    found: Sequence[Tensor | None] = torch.autograd.grad(values.sum(), layers, allow_unused=True)
    return [
        torch.zeros_like(layer) if slope is None else slope
        for layer, slope in zip(layers, found, strict=True)
    ]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Attended:
    """A network that also returns its attention probabilities.

    Args:
        module: From images to logits and the probabilities of each layer, ``(b, heads, t, t)``.
        height: Rows of the grid of patches.
        width: Columns of the grid.
        readers: The share of each token in what the head reads, ``(t,)``; they add up to 1.
    """

    module: GraphModule
    height: int
    width: int
    readers: Tensor

    def forward(self, images: Images) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and attention, which can be differentiated where gradients are on."""
        displaced = images + torch.zeros_like(images, requires_grad=torch.is_grad_enabled())
        return self.module(displaced)  # type: ignore[no-any-return]

    def grid(self, shares: Tensor) -> Tensor:
        """Return the shares ``(b, t)`` of the patches as maps ``(b, 1, h, w)``."""
        count = self.height * self.width
        return shares[:, -count:].reshape(-1, 1, self.height, self.width)


def attended_by(network: Network) -> Attended:
    """Return the network with its attention, if that is global and over one grid of patches."""
    module = exposed(network)
    plane = network.cut().plane
    with torch.enable_grad():
        images = network.example + torch.zeros_like(network.example, requires_grad=True)
        logits, layers = module(images)
        shapes = sorted({tuple(layer.shape) for layer in layers})
        tokens = shapes[0][-1] if shapes else 0
        prefix = tokens - plane.height * plane.width
        alike = all(
            len(s) == 4 and s[0] == len(images) and s[2] == s[3] == tokens  # noqa: PLR2004 - b, heads, t, t
            for s in shapes
        )
        if not shapes or not alike or prefix < 0:
            came = ", ".join(map(str, shapes)) or "no attention"
            msg = (
                f"The method follows attention between all patches of one grid, of shape "
                f"(b, heads, tokens, tokens) in every layer; the network has {came}. Use it on "
                f"plain vision transformers (ViT, DeiT); for others take grad-cam or a gradient."
            )
            raise SettingError(msg)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(logits.shape, generator=generator).to(logits)
        (last,) = torch.autograd.grad((logits * weights).sum(), layers[-1:], allow_unused=True)
    reached = layers[-1] != 0 if last is None else last != 0
    readers = reached.any(dim=3).any(dim=1).any(dim=0).to(logits.dtype)
    return Attended(
        module=module, height=plane.height, width=plane.width, readers=readers / readers.sum()
    )


def exposed(network: Network) -> GraphModule:
    """Return the graph of ``(logits, (attention of each layer, ...))``."""
    graph, _ = rewrite.copied(network.graph)
    rewrite.functional(graph)
    moving = rewrite.depends_on_images(graph)
    found: list[Node] = []
    for node in list(graph.nodes):
        if node.op != "call_function" or node not in moving:
            continue
        if name_of(node) == "scaled_dot_product_attention":
            found.append(opened(graph, node))
        elif name_of(node) == "softmax" and any(name_of(u) in PRODUCTS for u in node.users):
            found.append(node)
    rewrite.with_outputs(graph, found)
    return rewrite.compiled(network.module, graph)


PRODUCTS = frozenset({"matmul", "bmm", "einsum"})
"""What multiplies attention probabilities with values."""


def opened(graph: Graph, node: Node) -> Node:
    """Spell out a fused attention; return the node of its probabilities."""
    value = node.args[2] if len(node.args) > 2 else node.kwargs["value"]  # noqa: PLR2004 - query, key, value
    with graph.inserting_before(node):
        weights = graph.call_function(probabilities, node.args, dict(node.kwargs))
        product = graph.call_function(torch.matmul, (weights, value))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product)
    graph.erase_node(node)
    return weights


def probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the signature of the fused operation
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    r"""Return :math:`\mathrm{softmax}(s\,QK^\top + M)`."""
    del value
    if dropout_p or is_causal or enable_gqa:
        msg = (
            "Causal attention, attention with dropout and grouped queries are not supported yet "
            "where attention probabilities are needed."
        )
        raise UnsupportedOperation(msg)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -torch.inf)
            if attn_mask.dtype == torch.bool
            else scores + attn_mask
        )
    return scores.softmax(dim=-1)
