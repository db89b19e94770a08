"""The loop: train, find, fix in several ways at one budget, verify."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

import whence
from reproductions.fix.cases import Case, Images, Settings
from whence.attribution import InputXGradient
from whence.convert import x_dnn
from whence.core import ImageData, TensorData
from whence.network import Network
from whence.priors import MaskEnergy, Prior, fit
from whence.recipes.boxes import CarriedMap
from whence.recipes.shortcut_exchange import Exchanged
from whence.recipes.shortcuts import LEVEL, propose_shortcuts
from whence.results import AuditRecord, Finding

__all__ = ["ROWS", "Found", "find", "fixed", "judged", "measured", "trained"]

BATCH = 64
DECAY = 0.02
ALIKE, DENSE, OWN = 0.6, 8.0, 0.9
"""A region is accepted if its pixels are this alike, it carries so many times its share of the
area, so many of the images with it are of its class, and it is the first of its class."""

COVERS = 0.1
"""An image is dropped if its own class's appearance covers this share of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What was proposed and accepted by a rule that knows no truth.

    Args:
        inside: Where the shortcut is held to be in the training images, ``(n, 1, h, w)``.
        kept: Training images that stay if those that show it in their own class are dropped.
        exact: Whether this is the truth instead.
        findings: What was accepted.
    """

    inside: Tensor
    kept: Tensor
    findings: tuple[Finding, ...] = ()


def trained(case: Case, settings: Settings, seed: int, *, fair: bool = False) -> nn.Module:
    """Return the network trained on the images with the shortcut, or on those without."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = case.network()
    data = case.fair if fair and case.fair is not None else case.train
    generator = torch.Generator().manual_seed(seed)
    steps = settings.epochs * -(-len(data.images) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=steps)
    model.train()
    for _ in range(settings.epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for rows in torch.split(order, BATCH):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(data.images[rows]), data.labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return model.eval()


def data_of(some: Images, classes: tuple[str, ...]) -> TensorData:
    """Return images as data."""
    return TensorData(images=some.images, labels=some.labels, classes=classes)


def find(case: Case, model: nn.Module, *, audit: bool = True) -> Found:
    """Audit, propose, and accept by a rule: marks, or else appearances of a small p value.

    Args:
        case: The data.
        model: The network.
        audit: Whether to look for marks first; without it appearances alone are looked for, which
            costs a tenth.
    """
    train, test = data_of(case.train, case.classes), data_of(case.audited, case.classes)
    findings: tuple[Finding, ...] = ()
    maps: list[CarriedMap] = []
    if audit:
        record = whence.audit(model, train, test, count=30, method="input-x-gradient")
        marks = {one.label: one for one in reversed(record.findings) if is_mark(one)}
        findings, maps = tuple(marks.values()), carried(record)
    if not findings:
        network = Network.read(model, case.train.images[:2])
        proposed = propose_shortcuts(network, train, test, classes=case.classes, maps=maps)
        findings = tuple(one for one in proposed if one.evidence["p"] <= LEVEL)
    return accepted(case, findings)


def is_mark(one: Finding) -> bool:
    """Return whether a region carries much for its size, looks the same, and in its class alone."""
    if one.kind != "region" or one.evidence.get("pixels alike", 0.0) < ALIKE:
        return False
    own = one.evidence["training images of the class that show it"]
    others = one.evidence["training images of other classes that show it"]
    dense = one.evidence["share of the influence"] >= DENSE * one.evidence["share of the area"]
    return bool(dense and own >= OWN * (own + others))


def carried(record: AuditRecord) -> list[CarriedMap]:
    """Return the maps of an audit's proponents."""
    return [
        CarriedMap(
            index=r.index,
            label=record.training_images[r.index].label,
            values=r.map.values,
            picture=record.training_images[r.index].picture,
            query=query.index,
        )
        for query in record.queries
        for r in query.proponents
    ]


def accepted(case: Case, findings: Sequence[Finding]) -> Found:
    """Return where accepted findings say the shortcut is, and what is left without it."""
    images, labels = case.train.images, case.train.labels
    inside = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool)
    shows = torch.zeros(len(images), dtype=torch.bool)
    for one in findings:
        rows = torch.tensor(one.images)
        if one.box is not None:
            left, top, right, bottom = one.box
            inside[:, :, top:bottom, left:right] = True
            shows[rows] |= labels[rows] == one.label
        elif one.masks is not None:
            mask = torch.from_numpy(one.masks > 0)
            inside[rows, 0] |= mask
            covers = mask.double().mean(dim=(1, 2)) >= min(COVERS, float(mask.double().mean()))
            shows[rows[covers]] |= labels[rows[covers]] == one.label
    return Found(inside=inside, kept=(~shows).nonzero()[:, 0], findings=tuple(findings))


def judged(case: Case, found: Found) -> dict[str, float]:
    """Return how well the proposal fits the truth: the only use of the truth."""
    truth = case.truth
    carriers = truth.flatten(1).any(dim=1)
    here, there = found.inside[carriers], truth[carriers]
    both = float((here & there).sum())
    return {
        "overlap": both / max(float((here | there).sum()), 1.0),
        "precision": both / max(float(here.sum()), 1.0),
        "recall": both / max(float(there.sum()), 1.0),
        "rest": float((here & ~there).sum()) / max(float((~there).sum()), 1.0),
        "kept": float(len(found.kept)),
        "findings": float(len(found.findings)),
    }


def measured(case: Case, model: nn.Module) -> dict[str, float]:
    """Return accuracies, and how often the shortcut's class is given to images that carry it."""
    clean, against = (right(model, some) for some in (case.clean, case.against))
    row = {"clean": float(clean.double().mean()), "against": float(against.double().mean())}
    if case.shortcut is not None:
        row["taken in"] = float(
            (predicted(model, case.against.images) == case.shortcut).double().mean()
        )
    return row


def right(model: nn.Module, some: Images) -> Tensor:
    """Return which images are classified as their label says."""
    return predicted(model, some.images) == some.labels


@torch.no_grad()
def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """Return the predicted classes."""
    model.eval()
    return torch.cat([model(part) for part in torch.split(images, 200)]).argmax(dim=1)


def tuned(
    start: nn.Module, data: ImageData, epochs: int, rate: float, seed: int, prior: Prior | None
) -> nn.Module:
    """Return the network trained on."""
    return fit(
        start,
        data,
        epochs=epochs,
        optimiser=lambda weights: torch.optim.AdamW(weights, lr=rate, weight_decay=DECAY),
        generator=torch.Generator().manual_seed(seed),
        prior=prior,
        batch_size=BATCH,
    ).model.eval()


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to put a network right.

    Args:
        homogeneous: Make it an X-DNN first.
        prior: Keep attributions out of the shortcut.
        exchange: Exchange the shortcut among images.
        drop: Leave out the images that show it in their own class.
        exact: Take the true masks instead of those that were found.
    """

    homogeneous: bool = False
    prior: bool = False
    exchange: bool = False
    drop: bool = False
    exact: bool = False


def fixed(
    case: Case, settings: Settings, model: nn.Module, found: Found, seed: int, *, way: Way
) -> nn.Module:
    """Return the network after one way of fixing it, all with the same number of steps."""
    start = x_dnn(model, case.train.images[:32]).model if way.homogeneous else copy.deepcopy(model)
    inside = case.truth if way.exact else found.inside
    data: ImageData = data_of(case.train, case.classes)
    epochs = settings.more
    if way.drop:
        data = data_of(case.train.only(found.kept), case.classes)
        epochs = max(1, round(epochs * len(case.train.labels) / max(len(found.kept), 1)))
    if way.exchange:
        data = Exchanged(
            whole=data, inside=inside, generator=torch.Generator().manual_seed(5000 + seed)
        )
    prior = None
    if way.prior:
        prior = Prior(
            method=InputXGradient(create_graph=True),
            penalty=MaskEnergy(masks=~inside),
            weight=settings.weight,
        )
    return tuned(start, data, epochs, settings.more_rate, seed, prior)


Fix = Callable[[Case, Settings, nn.Module, Found, int], nn.Module]

ROWS: dict[str, Fix] = {
    name: partial(fixed, way=way)
    for name, way in {
        "trained on as it is": Way(),
        "proposed images dropped": Way(drop=True),
        "X-DNN, no prior": Way(homogeneous=True),
        "X-DNN with the prior": Way(homogeneous=True, prior=True),
        "shortcut exchanged": Way(exchange=True),
        "X-DNN, prior and exchange": Way(homogeneous=True, prior=True, exchange=True),
        "X-DNN with the prior, exact masks": Way(homogeneous=True, prior=True, exact=True),
        "shortcut exchanged, exact masks": Way(exchange=True, exact=True),
    }.items()
}
"""Ways to fix a network; every one takes as many steps."""
