"""Penalties by name, as a command line gives them."""

from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor

from whence.errors import SettingError
from whence.priors.masks import (
    MaskCrossEntropy,
    MaskEnergy,
    MaskL1,
    OutsideMask,
    RightReasons,
)
from whence.priors.penalties import (
    L1,
    L2,
    Entropy,
    GiniSparsity,
    Magnitude,
    MeanMap,
    Penalty,
    TotalVariation,
)
from whence.priors.relations import PairwiseSimilarity

__all__ = ["PENALTIES", "penalty_named"]

ALONE: dict[str, Callable[[], Penalty]] = {
    "entropy": Entropy,
    "gini": GiniSparsity,
    "l1": L1,
    "l2": L2,
    "magnitude": Magnitude,
    "mean-gini": lambda: MeanMap(penalty=GiniSparsity()),
    "total-variation": TotalVariation,
}
MASKED: dict[str, Callable[[Tensor], Penalty]] = {
    "mask-cross-entropy": lambda masks: MaskCrossEntropy(masks=masks),
    "mask-energy": lambda masks: MaskEnergy(masks=masks),
    "mask-l1": lambda masks: MaskL1(masks=masks),
    "outside-mask": lambda masks: OutsideMask(masks=masks),
    "right-reasons": lambda masks: RightReasons(masks=masks),
}
GROUPED: dict[str, Callable[[Tensor], Penalty]] = {
    "pairwise-similarity": lambda groups: PairwiseSimilarity(groups=groups),
}

PENALTIES = tuple(sorted((*ALONE, *MASKED, *GROUPED)))
"""The names; a graph of pixels has none, because it is made in Python."""


def penalty_named(
    name: str, *, masks: Tensor | None = None, groups: Tensor | None = None
) -> Penalty:
    """Return the penalty of this name.

    Args:
        name: One of :data:`PENALTIES`.
        masks: ``(n, 1, h, w)`` or ``(1, 1, h, w)``, for those that need them.
        groups: One group for each image, for those that compare images: their labels.

    Raises:
        SettingError: There is no such penalty, or it needs masks or groups and has none, or it
            has masks that it does not use.
    """
    if name in MASKED:
        if masks is None:
            msg = f"The prior {name} needs to know where attributions may be. Give masks, or a box."
            raise SettingError(msg)
        return MASKED[name](masks)
    if name not in PENALTIES:
        close = get_close_matches(name, PENALTIES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        msg = f"There is no prior {name!r}.{hint} There are: {', '.join(PENALTIES)}."
        raise SettingError(msg)
    if masks is not None:
        msg = f"The prior {name} uses no masks. Leave them out, or take one of {', '.join(MASKED)}."
        raise SettingError(msg)
    if name in ALONE:
        return ALONE[name]()
    if groups is None:
        msg = f"The prior {name} compares images of one group. Give the group of each image."
        raise SettingError(msg)
    return GROUPED[name](groups)
