r"""Agreement on the most important pixels, after Krishna et al., and the floor of any agreement."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from whence.core import Attributions, Scalars
from whence.errors import DataError, SettingError
from whence.evaluation.agreement import Pairwise, paired
from whence.evaluation.metric import MetricCard, mean_ranks, membership, pixel_map

__all__ = ["TopAgreement", "between_images", "of_shuffled_pixels"]

KINDS: Final = ("feature", "rank", "sign", "signed-rank")


@final
@dataclass(frozen=True, kw_only=True)
class TopAgreement:
    r"""The share of the ``k`` largest pixels on which two maps agree.

    .. math:: \frac{1}{k} \sum_i \min(m_i, m'_i)\, e_i

    where ``m`` says how far a pixel belongs to the ``k`` largest by absolute value, and ``e`` is 1
    where the maps agree: always (``feature``), on the pixel's rank (``rank``), on the sign of its
    value (``sign``), or on both (``signed-rank``). Tied pixels share the last places and their
    mean rank, so that nothing depends on their order; without ties it is the paper's.

    Args:
        kind: What has to agree: ``feature``, ``rank``, ``sign`` or ``signed-rank``.
        fraction: The share ``k / n`` of the pixels, over 0 and at most 1.

    References:
        Krishna et al. (2022), "The Disagreement Problem in Explainable Machine Learning",
        section 3.2.
    """

    kind: str = "feature"
    fraction: float = 0.1

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=1.0,
        chance="k / n (feature), half of it (sign), 1 / n (rank), half of that (signed-rank)",
        reference="Krishna et al. (2022), arXiv:2202.01602, section 3.2",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.kind not in KINDS:
            msg = f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}."
            raise SettingError(msg)
        if not 0 < self.fraction <= 1:
            msg = f"fraction is a share of the pixels over 0 and at most 1; got {self.fraction}."
            raise SettingError(msg)

    def __call__(self, values: Attributions, others: Tensor) -> Scalars:
        """Return one share per image.

        Raises:
            ShapeError: If the maps differ in their number or size.
        """
        ours, theirs = paired(values, others)
        count = max(1, round(self.fraction * ours.shape[1]))
        counts = ours.new_full((len(ours),), count)
        sizes, others_sizes = ours.abs(), theirs.abs()
        both = torch.minimum(membership(sizes, counts), membership(others_sizes, counts))
        if self.kind in ("sign", "signed-rank"):
            both = both * (ours.sign() == theirs.sign())
        if self.kind in ("rank", "signed-rank"):
            both = both * (mean_ranks(sizes) == mean_ranks(others_sizes))
        return both.sum(dim=1) / count


def between_images(agreement: Pairwise, values: Attributions, others: Tensor) -> Scalars:
    """Return the agreement of each image's map with the other maps of the *next* image.

    The floor for an agreement of smooth or centred maps: what remains of it without a common
    image comes from how such maps look.

    Raises:
        DataError: If there is one image only.
    """
    if len(others) < 2:  # noqa: PLR2004 - another image
        msg = f"Maps of different images need two images or more; got {len(others)}."
        raise DataError(msg)
    return agreement(values, others.roll(-1, dims=0))


def of_shuffled_pixels(agreement: Pairwise, values: Attributions, seed: int = 0) -> Scalars:
    """Return the agreement of each map with itself in another order of pixels.

    The floor for maps without structure that have the same values. The order is the same for all
    images and does not depend on the batch.
    """
    flat = pixel_map(values)
    order = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))
    shuffled = flat[:, order.to(flat.device)].view(-1, 1, *values.shape[2:])
    return agreement(values, shuffled)
