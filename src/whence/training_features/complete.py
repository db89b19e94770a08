r"""X-Gradient of an influence: on an X-DNN, pixel values that add up to the influence exactly.

The logits of an X-DNN grow in proportion to the image, and so do their gradients with respect to
the weights. The margin's gradient is :math:`\nabla m = \sum_k J_k \nabla y_k` with
:math:`J_k = \partial m / \partial y_k`. With ``J`` and the weight ``w`` held as they are at the
image, the influence is itself homogeneous of degree 1 in the training image, and Euler's theorem
shares it out over the pixels without a rest.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from whence.attribution import Account
from whence.attribution.xgradient import proven_homogeneous
from whence.core import Images, Logits, Margin, ScalarFn, check_images
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.influence.members import combined
from whence.training_features.additive import influence_of, parts_of
from whence.training_features.influence_fn import Term, along, quiet

__all__ = ["InfluenceXGradient"]

PASSES = 2.0
"""A forward-mode pass and its reverse: two training steps."""


@final
@dataclass(frozen=True, kw_only=True)
class InfluenceXGradient:
    r"""The exact share of each pixel of a training image in its influence, on an X-DNN.

    .. math:: a_i = \frac{w}{k}\, x_i\, \partial_i \sum_j J_j
              \langle \nabla_\theta y_j(x), u \rangle , \qquad \sum_i a_i = S

    for a network that is homogeneous of degree ``k`` (an X-DNN has 1). The values add up to the
    influence, on ReLU networks too, where those of integrated gradients do not: the influence
    jumps where a unit turns on, but not along the way from the image to zero. The network's
    homogeneity is proven before the first answer; any other network is refused with the operation
    that breaks it.

    What is held: the norms of a cosine, the residual :math:`1 - p`, and how the margin weighs the
    logits. The map says which pixels make the two gradients agree. The baseline is zero in the
    model's units.

    Cost: 2 passes for each network of the score.

    Raises:
        SettingError: When called on anything but an influence that comes from gradients.
        UnsupportedOperation: If a network is not homogeneous, with the first offender.

    References:
        Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
        Proposition 3.2; Bacha and George (2025), "Training Feature Attribution for Vision Models".
    """

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return the attributions, shaped like the images."""
        return self.account(f, images).values

    @torch.inference_mode(mode=False)
    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the attributions with their cost and the influence that they add up to."""
        influence = influence_of(f)
        images = check_images(images).clone()
        degrees = [degree_of(term) for term in influence.terms]
        target = Margin(influence.labels)
        products, weights = parts_of(influence, images, target)
        maps = torch.stack(
            [
                images * slope(term, images, target) / degree
                for term, degree in zip(influence.terms, degrees, strict=True)
            ]
        )
        members = [term.member for term in influence.terms]
        explained = combined(members, products[:, :, None], weights)[:, 0]
        flat = combined(members, maps.flatten(2), weights)
        return Account(
            values=flat.reshape(images.shape),
            passes=PASSES * len(influence.terms),
            explained=explained,
            reference=explained,
        )


def degree_of(term: Term) -> float:
    """Return the degree of a term's network, which must be homogeneous."""
    recorder = term.member.recorder
    if not isinstance(recorder, Recorder):
        msg = (
            f"X-Gradient of an influence needs a score of gradients; this one compares "
            f"{', '.join(recorder.names[:3])}. Take InputXGradient."
        )
        raise SettingError(msg)
    return proven_homogeneous(recorder.network)


def slope(term: Term, images: Images, target: Margin) -> Tensor:
    """Return the gradient of the inner product, with the margin's weighing of logits held."""
    recorder = term.member.recorder
    if not isinstance(recorder, Recorder):  # degree_of has refused it
        return torch.zeros_like(images)
    run = along(recorder, term.member.queries)
    held = weighing(recorder.network(images).detach(), target)
    with torch.enable_grad(), quiet(), forward_ad.dual_level():
        own = images.detach().clone().requires_grad_()
        values = [
            primal if tangent is None else forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
            for primal, tangent in run.values
        ]
        _, change = forward_ad.unpack_dual(recorder.staged.run(values, own))  # type: ignore[no-untyped-call]
        if change is None:
            return torch.zeros_like(images)
        (gradient,) = torch.autograd.grad((held * change).sum(), own, materialize_grads=True)
    return gradient


def weighing(logits: Logits, target: Margin) -> Tensor:
    """Return the derivative of each margin with respect to the logits, ``(b, k)``."""
    with torch.enable_grad():
        own = logits.clone().requires_grad_()
        (found,) = torch.autograd.grad(target(own).sum(), own)
    return found
