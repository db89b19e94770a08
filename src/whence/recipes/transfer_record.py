"""What a study of harmony comes to, as a record that needs no torch."""

from whence.core import fingerprint_model
from whence.evaluation.transfer import Interval, TransferCell, Verdict
from whence.evaluation.transfer_masks import ORIGINAL
from whence.recipes.cards import dataset_card, run_card
from whence.recipes.transfer_methods import BANK, scale_of
from whence.recipes.transfer_networks import TransferNetwork
from whence.recipes.transfer_plan import Found
from whence.recipes.transfer_study import Study
from whence.results import DatasetCard, ModelCard
from whence.results.transfer import (
    IntervalRecord,
    TransferMethod,
    TransferNetworkCard,
    TransferRecord,
    TransferRow,
)

__all__ = ["recorded"]


def recorded(study: Study, found: Found, command: str) -> TransferRecord:
    """Return the record of a study."""
    plan = study.plan
    first = study.networks[0]
    whole = dataset_card(first.data)
    data = DatasetCard(
        name=whole.name, count=found.count, fingerprint=whole.fingerprint, skipped=whole.skipped
    )
    settings = {
        "fills": list(plan.fills),
        "coverages": list(plan.coverages),
        "target": plan.target,
        "count": plan.count,
        "seed": plan.seed,
    }
    return TransferRecord(
        networks=tuple(card(one, found) for one in study.networks),
        methods=tuple(methods(study, found)),
        masks=plan.showing(first.filling(study.chosen[:2])).masks,
        fills=plan.fills,
        target=plan.target,
        data=data,
        rows=tuple(row(cell, verdict) for cell, verdict in found.verdicts.items()),
        run=run_card(command, settings, found.seconds),
        notes=notes(study, found, whole),
    )


def card(one: TransferNetwork, found: Found) -> TransferNetworkCard:
    """Return the card of a network."""
    plain = found.verdicts[TransferCell(evaluator=one.name, shown=ORIGINAL)]
    batch = next(iter(one.data.batches(1)))
    return TransferNetworkCard(
        name=one.name,
        family=found.families[one.name],
        model=ModelCard(
            name=one.name,
            fingerprint=fingerprint_model(one.model),
            classes=one.data.classes,
            parameters=sum(parameter.numel() for parameter in one.model.parameters()),
            preprocessing=dict(one.described),
        ),
        size=(batch.images.shape[2], batch.images.shape[3]),
        right=round(plain.accuracy.value * found.count),
        count=found.count,
    )


def methods(study: Study, found: Found) -> list[TransferMethod]:
    """Return the methods, with how many maps show nothing and how much the others cover."""
    made_of = []
    first = study.networks[0]
    for method in study.plan.methods:
        made = method.make(first.normalisation, first.filling(study.chosen[:2]))
        own = {one.name: found.maps[method.name, one.name] for one in study.networks}
        made_of.append(
            TransferMethod(
                name=method.name,
                settings=method.text,
                scale=scale_of(made),
                blank={name: int(blank.sum()) for name, (_, blank) in own.items()},
                coverage={name: float(masks.mean()) for name, (masks, _) in own.items()},
            )
        )
    return made_of


def row(cell: TransferCell, verdict: Verdict) -> TransferRow:
    """Return a cell of the cube as a record."""

    def plain(interval: Interval) -> IntervalRecord:
        return IntervalRecord(value=interval.value, low=interval.low, high=interval.high)

    def perhaps(interval: Interval | None) -> IntervalRecord | None:
        return None if interval is None else plain(interval)

    return TransferRow(
        generator=cell.generator,
        evaluator=cell.evaluator,
        method=cell.method,
        shown=cell.shown,
        mask=cell.mask,
        fill=cell.fill,
        count=verdict.count,
        accuracy=plain(verdict.accuracy),
        probability=plain(verdict.probability),
        agreement=plain(verdict.agreement),
        kept=plain(verdict.kept),
        of_original=plain(verdict.of_original),
        of_self=perhaps(verdict.of_self),
        advantage=perhaps(verdict.advantage),
        agreement_advantage=perhaps(verdict.agreement_advantage),
    )


def notes(study: Study, found: Found, data: DatasetCard) -> tuple[str, ...]:
    """Return what a reader of the tables must know."""
    said = [
        "No image was left out for being misclassified: compare features with images.",
        "Soft masks of different methods differ in area; compare methods at equal coverage.",
    ]
    for (method, network), (_, blank) in found.maps.items():
        if blank.any():
            said.append(
                f"{method} shows nothing on {int(blank.sum())} of {found.count} images of "
                f"{network}: soft features are the fill alone, hard ones pixels in random order."
            )
    if study.plan.target == "label":
        said.append(
            "The class explained is the label: a map can tell it to whoever looks, so that "
            "features may be recognised where the image is not."
        )
    if study.networks[0].bank is None and BANK in study.plan.fills:
        said.append("There is no bank: other test images fill what is not shown.")
    if data.skipped:
        name, reason = data.skipped[0]
        told = reason if reason.startswith(name) else f"{name}: {reason}"
        many = f"{len(data.skipped)} images" if len(data.skipped) > 1 else "1 image"
        said.append(
            f"{many} could not be used{', such as' if len(data.skipped) > 1 else ':'} {told}"
        )
    return tuple(said)
