r"""Shared evidence: where the query's gradient agrees, and most where evidence for the label is."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution import LRP, Account
from whence.core import Images, Margin, Method, ModelScalar, ScalarFn, check_images
from whence.errors import SettingError
from whence.training_features.additive import PASSES, Additive, influence_of
from whence.training_features.influence_fn import InfluenceFn
from whence.training_features.neutral import Neutral
from whence.training_features.relevance import recorder_of

__all__ = ["SharedEvidence"]


@final
@dataclass(frozen=True, kw_only=True)
class SharedEvidence:
    r"""The influence, shared out over the evidence that training image and query have in common.

    .. math:: a_p = S \, \frac{(e_p + \lambda \bar e) \, g_p}
              {\sum_q (e_q + \lambda \bar e) \, g_q} , \qquad
              e = \big( \mathrm{LRP}(m) \big)^+ , \qquad
              g = \mathrm{mean}_{w} \big( \pm A(S) \big)^+ ,

    with ``e`` the relevance of each pixel for the training image's own label, :math:`\bar e` its
    mean over the image, and ``g`` a map of the influence (:class:`Additive`), of the influence's
    sign, averaged over a window. Ordinary maps of a retrieved image are sharp, but do not know the
    query; maps of the influence know it, but are coarse. The product asks for both: the query's
    gradient has to agree, and where it does, evidence for the label counts most.

    The floor :math:`\lambda` leaves half of the weight to agreement alone. Without it, what the
    rules find no evidence for is dark, whatever the query: then maps are sharper, and say less of
    what hiding a region does to the influence.

    The values add up to the influence by construction, and have its sign. That is a convention,
    not a law: no single pixel's value follows from a derivative or a removal. In an image where
    the two have no pixel in common agreement alone counts, and without agreement the evidence.
    With several networks in the score the evidence is the last one's.

    Cost: about 3 passes; with ``neutral`` the same, beside the passes that made it.

    Args:
        rules: The rules of the relevance for the label.
        agreement: The map of the influence that opens the gate; :class:`InfluenceLRP` is finer
            and dearer.
        window: Side of the window, as a fraction of the image's shorter side.
        floor: Evidence that every pixel is given, in units of the image's mean evidence.
        neutral: Take from the query what an average image of the training image's label has,
            too, so that what is common to all images of a class does not open the gate; see
            :func:`whence.training_features.neutral`. None keeps the whole query.

    Raises:
        SettingError: When called on anything but an influence that comes from gradients.
        UnsupportedOperation: If an operation has no rule.
    """

    rules: LRP = field(default_factory=LRP)
    agreement: Method = field(default_factory=Additive)
    window: float = 0.15
    floor: float = 1.0
    neutral: Neutral | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the window and the floor."""
        if not 0 <= self.window <= 1:
            msg = f"window is a fraction of the image's shorter side, 0 to 1; got {self.window}."
            raise SettingError(msg)
        if not self.floor >= 0:
            msg = f"floor is in units of the mean evidence and not below 0; got {self.floor}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one value per pixel, ``(b, 1, h, w)``."""
        return self.account(f, images).values

    @torch.inference_mode(mode=False)
    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the values with the influence that they add up to."""
        images = check_images(images).clone()
        influence = influence_of(f)
        with torch.no_grad():
            explained = influence(images)
        network = recorder_of(influence.terms[-1]).network
        label = ModelScalar(network, Margin(influence.labels))
        relevance = self.rules.account(label, images)
        evidence = relevance.values.sum(dim=1, keepdim=True).clamp(min=0)
        evidence = evidence + self.floor * evidence.mean(dim=(2, 3), keepdim=True)
        sign = torch.where(explained < 0, -1.0, 1.0).to(images).view(-1, 1, 1, 1)
        shared = (sign * self.gate(influence, images)).clamp(min=0)
        gate = averaged(shared, self.window)
        weights = evidence * gate
        for other in (gate, evidence):
            empty = weights.flatten(1).sum(dim=1) == 0
            weights = torch.where(empty.view(-1, 1, 1, 1), other, weights)
        total = weights.flatten(1).sum(dim=1)
        scale = torch.where(total > 0, explained / total, torch.zeros_like(total))
        return Account(
            values=weights * scale.view(-1, 1, 1, 1),
            passes=relevance.passes + PASSES,
            explained=explained,
            reference=explained,
        )

    def gate(self, influence: InfluenceFn, images: Images) -> Tensor:
        """Return the map of the influence, ``(b, 1, h, w)``."""
        if self.neutral is None:
            return self.agreement(influence, images).detach().sum(dim=1, keepdim=True)
        found = torch.zeros_like(images[:, :1])
        for label in sorted(set(influence.labels.tolist())):
            rows = (influence.labels == label).nonzero()[:, 0]
            own = self.neutral.beyond(influence.at(rows), label)
            found[rows] = self.agreement(own, images[rows]).detach().sum(dim=1, keepdim=True)
        return found


def averaged(values: Tensor, window: float) -> Tensor:
    """Return the mean over a window around each pixel; what is outside the image does not count."""
    side = round(window * min(values.shape[2:]))
    side += 1 - side % 2
    if side <= 1:
        return values
    return functional.avg_pool2d(values, side, 1, side // 2, count_include_pad=False)
