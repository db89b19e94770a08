r"""The exact additive map of an influence: no second derivative, and nothing lost on the way."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution import Account
from whence.core import Images, Margin, ScalarFn, check_images
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.influence.members import combined
from whence.training_features.influence_fn import InfluenceFn, Term
from whence.training_features.positions import positions

__all__ = ["Additive", "enlarged", "influence_of"]

PASSES = 4 / 3
"""A forward, a backward to the activations, and a convolution more in every layer: 4 of 3 units."""


@final
@dataclass(frozen=True, kw_only=True)
class Additive:
    r"""Where the influence arises: every layer's share of it at every position.

    .. math:: \langle \nabla_\theta m, u \rangle = \sum_\ell \sum_t
              \big\langle d^\ell_t, (V^\ell a^\ell)_t \big\rangle ,

    with the inputs ``a`` of layer :math:`\ell`, the gradients ``d`` of its outputs and the
    query's vector ``V`` in place of its weight. The map of each layer is enlarged to the image so
    that its sum stays; biases and the scales and shifts of normalisations are among the shares.
    Linear layers behind the last feature map have no positions: their share is handed back to
    that map, exactly so where there is only an average in between.

    Exact: with the residual, which is what no position can be given to (the bias of the last
    layer, class tokens, windows of attention), the values add up to the influence; the gap of
    :func:`whence.attribution.attribute` is the residual's size. A cosine's map is that of the
    inner product divided by both norms, which keeps its sum. No derivative of a derivative is
    taken, so that kinks of ReLUs do no harm. Late layers see much of the image from each
    position, so the map shows where, and not which pixel.

    Cost: 4/3 of a pass; one more where norms are needed and were not held.

    Args:
        layers: ``"all"``, or the share of one: a layer's name, for looking closer; then the
            values add up to that layer's share.

    Raises:
        SettingError: When called on anything but an influence that comes from gradients.
    """

    layers: Literal["all"] | tuple[str, ...] = "all"

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one value per pixel, ``(b, 1, h, w)``."""
        return self.account(f, images).values

    @torch.inference_mode(mode=False)
    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the values with the influence that they share out, and the residual."""
        images = check_images(images)
        images = images.clone() if images.is_inference() else images.detach()
        influence = influence_of(f)
        target = Margin(influence.labels)
        products, weights = parts_of(influence, images, target)
        maps = torch.stack([self.term(t, images, target) for t in influence.terms])
        members = [term.member for term in influence.terms]
        explained = combined(members, products[:, :, None], weights)[:, 0]
        flat = combined(members, maps.flatten(2), weights)
        values = flat.reshape(len(images), 1, *images.shape[2:])
        return Account(
            values=values,
            passes=PASSES * len(influence.terms),
            explained=explained,
            reference=explained,
            absorbed=explained - flat.sum(dim=1),
        )

    def term(self, term: Term, images: Images, target: Margin) -> Tensor:
        """Return one network's map of the inner product, ``(b, h, w)``."""
        recorder = term.member.recorder
        if not isinstance(recorder, Recorder):
            msg = (
                f"The additive map shares out an inner product of gradients; this score compares "
                f"{', '.join(recorder.names[:3])}. Take a score of gradients, or another map."
            )
            raise SettingError(msg)
        vector = {name: value[0] for name, value in term.member.queries.dense().items()}
        shares = positions(recorder).maps(vector, images, target)
        if self.layers != "all":
            known = dict.fromkeys(name for name, _ in shares)
            missing = [name for name in self.layers if name not in known]
            if missing:
                msg = f"There is no layer {missing[0]!r}; the layers are {', '.join(known)}."
                raise SettingError(msg)
            shares = [(name, share) for name, share in shares if name in self.layers]
        total = images.new_zeros(len(images), *images.shape[2:])
        for _, share in shares:
            total = total + enlarged(share, (images.shape[2], images.shape[3]))
        return total


def influence_of(f: ScalarFn) -> InfluenceFn:
    """Return the function if it is an influence.

    Raises:
        SettingError: If it is anything else.
    """
    if isinstance(f, InfluenceFn):
        return f
    msg = (
        f"This map is of an influence and needs its network and query; got {type(f).__name__}. "
        f"Make one with influence_fn(influence, query, labels), or call training_features."
    )
    raise SettingError(msg)


@torch.no_grad()
def parts_of(influence: InfluenceFn, images: Images, target: Margin) -> tuple[Tensor, Tensor]:
    """Return inner products and weights of images, ``(m, b)`` each."""
    held = influence.weights is not None
    found = [term(images, target, held=held) for term in influence.terms]
    products = torch.stack([product for product, _ in found])
    if influence.weights is not None:
        return products, influence.weights.T.to(products)
    return products, torch.stack([weight for _, weight in found])


def enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps ``(b, h', w')`` enlarged to the images' size, their sums unchanged.

    Bilinear, with each value's weights scaled to add up to one.
    """
    rows, columns = (
        spreading(before, after).to(values)
        for before, after in zip(values.shape[1:], size, strict=True)
    )
    return rows.T @ values @ columns


def spreading(before: int, after: int) -> Tensor:
    """Return how each of ``before`` places in a row is spread over ``after`` pixels."""
    one = torch.eye(before, dtype=torch.float64)[:, None]
    spread = functional.interpolate(one, size=after, mode="linear", align_corners=False)[:, 0]
    return spread / spread.sum(dim=1, keepdim=True)
