"""A model becomes an X-DNN: a copy of it is changed, read, and tested."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from whence.convert.report import TOLERANCE, ConversionReport, refusals_in, scale_errors
from whence.convert.routes import ROUTES, Route
from whence.core import Images
from whence.errors import UnsupportedOperation
from whence.network import Network

__all__ = ["Conversion", "converted", "x_dnn"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Conversion:
    """A changed copy of a model, and the report of what changed."""

    model: nn.Module
    report: ConversionReport


def x_dnn(model: nn.Module, images: Images, *, routes: Sequence[Route] = ROUTES) -> Conversion:
    """Return a copy of the model that is an X-DNN: ``f(kx) == k f(x)`` for all ``k >= 0``.

    On an X-DNN input times gradient is integrated gradients from zero, exactly, in one pass. The
    changes are not harmless: fine-tune the copy before use. The model itself is not touched.

    Args:
        model: A classifier in eval mode.
        images: Some images ``(b, c, h, w)`` in the model's units; zero is the baseline.
        routes: What to change, in this order.

    Raises:
        UnsupportedOperation: If something remains that breaks homogeneity, with every such
            operation; :func:`converted` returns the copy and the report all the same.

    References:
        Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
        Definition 3.5.
    """
    made = converted(model, images, routes=routes)
    if not made.report.holds:
        msg = f"The model could not be made an X-DNN.\n{made.report}"
        raise UnsupportedOperation(msg)
    return made


def converted(model: nn.Module, images: Images, *, routes: Sequence[Route] = ROUTES) -> Conversion:
    """Return a changed copy of the model with its report, whether it is an X-DNN or not.

    Args:
        model: A classifier in eval mode.
        images: Some images ``(b, c, h, w)`` in the model's units, for the test.
        routes: What to change, in this order.
    """
    before = Network.read(model, images)
    made = copy.deepcopy(model)
    changes = tuple(change for route in routes for change in route(made))
    network = Network.read(made, images)
    verdict = network.homogeneity()
    errors, at_zero = scale_errors(network, images)
    with torch.no_grad():
        kept = (before(images).argmax(dim=1) == network(images).argmax(dim=1)).double().mean()
    report = ConversionReport(
        changes=changes,
        homogeneity=verdict,
        refusals=refusals_in(verdict),
        scale_errors=errors,
        at_zero=at_zero,
        tolerance=TOLERANCE.get(images.dtype, 1e-2),
        kept=float(kept),
    )
    return Conversion(model=made, report=report)
