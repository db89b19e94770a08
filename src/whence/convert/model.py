"""A model becomes an X-DNN: a copy of it is changed, read, and tested."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from whence.convert.change import Change, Route, Wrapping
from whence.convert.coordinate import HomogeneousCoordinate, bias_mass
from whence.convert.names import ROUTES, AnyRoute
from whence.convert.refit import Refitting, sizes_to_keep
from whence.convert.report import (
    ConversionReport,
    DivergenceWarning,
    divergence_of,
    refusals_in,
)
from whence.convert.scales import diverging, layer_scales
from whence.convert.surgery import GraphRoute, opened
from whence.convert.wrapper import Wrapped, energy_share
from whence.core import Images, Logit, logits_of
from whence.errors import NumericsError, UnsupportedOperation, WhenceError
from whence.network import Network

__all__ = ["Conversion", "converted", "x_dnn"]

TESTED, CALIBRATED, CHUNK = 16, 64, 64
"""Images on which the result is tested, on which new scales are set, and that run at a time."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Conversion:
    """A changed copy of a model, and the report of what changed.

    Unpacks as ``model, report``.

    Args:
        model: The copy, in eval mode: of the model's own class if exchanging its modules was
            enough, else the module of its changed graph. Weights keep their names.
        report: What changed, and what came of it.
        network: The copy, read.
    """

    model: nn.Module
    report: ConversionReport
    network: Network

    def _repr_html_(self) -> str:
        """Show in a notebook what changed."""
        return self.report._repr_html_()

    def __iter__(self) -> Iterator[nn.Module | ConversionReport]:
        """Yield the model and the report."""
        yield self.model
        yield self.report


def x_dnn(model: nn.Module, images: Images, *, routes: Sequence[AnyRoute] = ROUTES) -> Conversion:
    """Return a copy of the model that is an X-DNN: ``f(kx) == k f(x)`` for all ``k >= 0``.

    On an X-DNN input times gradient is integrated gradients from zero, exactly, in one pass. The
    changes are not harmless: fine-tune the copy before use. The model itself is not touched.

    Args:
        model: A classifier in eval mode.
        images: Some images ``(b, c, h, w)`` in the model's units; zero is the baseline. New
            scales are set such that activations on them keep their size, so give real ones.
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


def converted(
    model: nn.Module, images: Images, *, routes: Sequence[AnyRoute] = ROUTES
) -> Conversion:
    """Return a changed copy of the model with its report, whether it is an X-DNN or not.

    Warns with :class:`DivergenceWarning` if activations explode or vanish, and raises
    :class:`whence.errors.NumericsError` with their sizes if they overflow.

    Args:
        model: A classifier in eval mode.
        images: Some images ``(b, c, h, w)`` in the model's units, for calibration and test.
        routes: What to change, in this order.
    """
    before = Network.read(model, images)
    made = copy.deepcopy(model)
    by_part = [route for route in routes if isinstance(route, Route)]
    changes = [change for route in by_part for change in route(made)]
    made, more = operated(before, made, images, by_part)
    changes += more
    seen = images
    shares = mass = None
    for wrapping in (route for route in routes if isinstance(route, Wrapping)):
        inner = made
        made, change = wrapping.wrapped(made, seen)
        changes.append(change)
        if isinstance(made, Wrapped):
            shares = energy_of(inner, made, seen[:TESTED])
        seen = wrapping.images(seen)
        if isinstance(wrapping, HomogeneousCoordinate):
            mass = mass_of(made, seen[:TESTED])
    network = read_changed(before, made, images, seen)
    for fitting in (route for route in routes if isinstance(route, Refitting)):
        if network.shape == before.shape:
            changes += fitting.refit(before, network, images)
    verdict = network.homogeneity(seen[:TESTED])
    report = ConversionReport(
        changes=tuple(changes),
        homogeneity=verdict,
        refusals=refusals_in(verdict),
        scales=layer_scales(before, network, images[:TESTED], seen[:TESTED]),
        kept=kept_share(before, network, images, seen),
        energy_share=shares,
        bias_mass=mass,
    )
    if report.diverging:
        warnings.warn(report.divergence, DivergenceWarning, stacklevel=2)
    return Conversion(model=made, report=report, network=network)


def operated(
    before: Network, model: nn.Module, images: Images, routes: Sequence[Route]
) -> tuple[nn.Module, list[Change]]:
    """Change the graph of a model, where something still breaks homogeneity; else return it."""
    chosen = [route for route in routes if isinstance(route, GraphRoute)]
    network = read_changed(before, model, images, images)
    if not chosen:
        return model, []
    surgery = opened(network)
    for route in chosen:
        route.on_graph(surgery)
    if not surgery.changes:
        return model, []
    shown = images[:CALIBRATED]
    surgery.graph.eliminate_dead_code()
    sizes, more = sizes_to_keep(before, surgery.graph, shown)
    return surgery.closed(shown, sizes), [*surgery.changes, *more]


def read_changed(before: Network, made: nn.Module, images: Images, seen: Tensor) -> Network:
    """Read a changed model; where it overflows, say so with the size of each layer's output.

    Raises:
        NumericsError: With the layers whose outputs explode, as double precision sees them.
    """
    try:
        return Network.read(made, seen)
    except NumericsError as error:
        try:
            exact, shown = copy.deepcopy(made).double(), seen[:TESTED].double()
            scales = layer_scales(before, Network.read(exact, shown), images[:TESTED], shown)
        except WhenceError:
            scales = ()
        if not diverging(scales):
            raise
        msg = f"The changed network overflows. {divergence_of(diverging(scales))}"
        raise NumericsError(msg) from error


@torch.no_grad()
def kept_share(before: Network, after: Network, images: Images, seen: Tensor) -> float:
    """Return the share of images whose predicted class is the same."""
    same = 0
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        same += int((before(images[part]).argmax(1) == after(seen[part]).argmax(1)).sum())
    return same / len(images)


def energy_of(inner: nn.Module, outer: Wrapped, images: Images) -> float:
    """Return the mean share of a wrapped model's attributions that is mere pixel energy."""
    with torch.no_grad():
        classes = logits_of(outer(images)).argmax(dim=1)
    shares = energy_share(inner, images, Logit(classes), radius=float(outer.radius))
    return float(shares.mean())


def mass_of(model: nn.Module, images: Images) -> tuple[float, float]:
    """Return the mean logit of the predicted class, and what the last channel accounts for."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        source = images.detach().clone().requires_grad_()
        values = logits_of(model(source)).max(dim=1).values
        (gradient,) = torch.autograd.grad(values.sum(), source)
    return float(values.detach().mean()), float(bias_mass(source.detach() * gradient).mean())
