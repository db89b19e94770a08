"""Fix: what was accepted of an audit's findings, put right by training on."""

import copy
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import nn

from whence.adapters import LoadedModel
from whence.adapters.lightning import is_first_process
from whence.adapters.training import TrainingSettings
from whence.attribution import method_named
from whence.convert import load_x_dnn
from whence.convert.names import AnyRoute
from whence.core import ImageData, Method, Progress, fingerprint_model, silent
from whence.errors import MismatchError, OutputError, SettingError
from whence.priors import Prior, all_log_probabilities, penalty_named
from whence.recipes.fit import SHARE, fit
from whence.recipes.fit_data import Part, held_out, in_memory
from whence.recipes.fit_record import FitRecord, fit_text
from whence.recipes.fit_run import CERTIFIED
from whence.recipes.fix_plan import Plan, check_same_data, plan_of
from whence.recipes.fix_text import fix_text
from whence.recipes.shortcut_exchange import Exchanged
from whence.recipes.swap import AlsoSwapped
from whence.results import (
    Audited,
    AuditRecord,
    Finding,
    decide,
    load_audited,
    load_findings,
)
from whence.results.fix import FixRecord, FixTraining, save_fix
from whence.results.folder import write_whole

__all__ = ["FIX_PRIORS", "FIX_SETTINGS", "Fixed", "fix", "load_fixed"]

FIX_PRIORS: Mapping[bool, tuple[str, tuple[float, ...]]] = {
    False: ("outside-mask", (10.0, 100.0, 1000.0)),
    True: ("mask-energy", (1.0, 3.0, 10.0)),
}
"""The prior and the weights that are compared: of a region in one place, and of one that moves."""

FIX_SETTINGS = TrainingSettings(epochs=6, batch_size=32, rate=2e-3, decay=0.05)
"""How a network is trained on."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Fixed:
    """A network that was put right, with what was done.

    Args:
        module: The network, in eval mode on the CPU.
        record: What was done.
        folder: Where it was written; None if nothing was.
    """

    module: nn.Module
    record: FixRecord
    folder: Path | None

    def _repr_html_(self) -> str:
        """Show the fix in a notebook."""
        return self.record._repr_html_()


def fix(  # noqa: PLR0913 - the public face: every setting of a fix
    audit: AuditRecord | str | Path,
    model: nn.Module | LoadedModel,
    train: ImageData,
    validation: ImageData | None = None,
    *,
    out: str | Path | None = None,
    accept: str | Collection[str] = (),
    findings: Sequence[Finding] | None = None,
    prior: str | None = None,
    weights: Sequence[float] = (),
    exchange: bool | None = None,
    method: Method | str = "input-x-gradient",
    convert: bool | None = None,
    routes: Sequence[AnyRoute] = (),
    settings: TrainingSettings = FIX_SETTINGS,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Fixed:
    """Put right what was accepted of an audit's findings, by training a copy of the model on.

    Accepted regions become masks, and a prior keeps attributions out of them, on an X-DNN of the
    network; images are left out, or get another label. The prior's weight is chosen without images
    that are free of the shortcut: by the accuracy on validation images as they are, and again with
    what an image of the shortcut's class shows in the region (of another class, for images of that
    class). Beside it the same training without the prior stands in the table, as a control.

    Cost: a plain training for the control, and for each weight one of twice its cost.

    Args:
        audit: What :func:`whence.audit` returned, or the folder that it wrote; in a folder the
            decisions in ``findings.toml`` count.
        model: The model that was audited, which is not touched.
        train: The training data of the audit.
        validation: Labelled images to choose by; a fifth of the training images if None. Regions
            that are elsewhere in each image are known of training images alone, so that images
            given here are not swapped then.
        out: A folder for ``weights.safetensors``, ``x-dnn.safetensors``, ``fix.json``,
            ``fit.json``, ``report.md`` and the checkpoints. Nothing stays if None.
        accept: Findings to accept beside those that are accepted already: an id, several, a
            pattern such as ``"label-*"``, or ``"all"``.
        findings: The findings with their verdicts, instead of those of the audit.
        prior: What is asked of attributions: ``outside-mask``, ``mask-energy`` or another penalty
            with masks; by default as :data:`FIX_PRIORS` says.
        weights: The weights of the prior to compare; those of :data:`FIX_PRIORS` if there are
            none.
        exchange: Exchange the region's pixels among the training images as well, anew in every
            epoch, so that they tell nothing of the class; by default for regions that are
            elsewhere in each image, such as backgrounds. The training without a prior, which
            learns from the exchange alone, may be chosen then.
        method: Which attributions.
        convert: Make the network an X-DNN first; by default if a region was accepted.
        routes: What a conversion changes, in this order; the usual if there are none.
        settings: How to train.
        resume: Go on with what is in ``out``.
        overwrite: Replace what an earlier fix left in ``out``.
        command: What to note as the command.
        progress: Told how far each stage is.

    Raises:
        DataError: A class would have no images left.
        MismatchError: Model or training data are not those of the audit.
        OutputError: ``out`` holds something.
        RecordError: The audit's findings cannot be read, or one of them is impossible.
        SettingError: Nothing is accepted, or what is accepted contradicts itself.
        MissingExtra, NumericsError, UnsupportedOperation: As :func:`whence.recipes.fit`.
    """
    started = time.monotonic()
    audited, known = findings_of(audit, findings)
    decided = decide(known, accept) if accept else known
    if any(one.verdict == "accepted" for one in decided):
        check_same_model(audited, model)
        check_same_data(audited, train)
    plan = plan_of(decided, audited, train)
    if resume and out is None:
        msg = "Without a folder there is nothing to resume. Give out=."
        raise SettingError(msg)
    whole = in_memory(train)
    usual, compared = FIX_PRIORS[plan.moves]
    mixing = plan.shortcut is not None and (plan.moves if exchange is None else exchange)
    kept, choosing = parts_of(plan, whole, validation, settings.seed, exchange=mixing)
    wanted = prior_of(plan, whole, prior or usual, method, model)
    converting = wanted is not None if convert is None else convert
    with folder_for(out) as folder:
        fitted = fit(
            model,
            kept,
            choosing,
            out=folder,
            settings=settings,
            prior=wanted,
            weights=(weights or compared) if wanted is not None else (),
            any_row=mixing,
            convert=converting,
            routes=routes,
            resume=resume,
            overwrite=overwrite,
            command=command,
            progress=progress,
        )
        record = record_of(
            plan,
            audited,
            fitted,
            train,
            started,
            command,
            prior=wanted,
            converted=converting,
            exchanged=mixing,
        )
        if is_first_process():
            save_fix(record, folder)
            details = fit_text(replace(fitted, notes=()), markdown=True)
            report = f"{fix_text(record, markdown=True)}\n\n## The training\n\n{details}\n"
            write_whole(folder / "report.md", report.encode())
        module = load_fixed(folder, model)
    return Fixed(module=module, record=record, folder=None if out is None else Path(out))


def findings_of(
    audit: AuditRecord | str | Path, given: Sequence[Finding] | None
) -> tuple[Audited, tuple[Finding, ...]]:
    """Return what was audited, and the findings."""
    if isinstance(audit, AuditRecord):
        return audit.audited, audit.findings if given is None else tuple(given)
    return load_audited(audit), load_findings(audit) if given is None else tuple(given)


def check_same_model(audited: Audited, model: nn.Module | LoadedModel) -> None:
    """Refuse a model that is not that of the audit.

    Raises:
        MismatchError: Its weights differ.
    """
    module = model.module if isinstance(model, LoadedModel) else model
    if fingerprint_model(module) != audited.model:
        msg = (
            "The model has other weights than the one that was audited (their fingerprints "
            "differ). Give the same model and weights, or audit this one."
        )
        raise MismatchError(msg)


def parts_of(
    plan: Plan, train: ImageData, validation: ImageData | None, seed: int, *, exchange: bool
) -> tuple[ImageData, ImageData]:
    """Return what to train on, and what to choose by."""
    left = plan.applied(train)
    if validation is None:
        kept, held = held_out(left, SHARE, seed)
    else:
        kept = Part(whole=left, places=tuple(range(len(left))), title=left.title)
        held = None
    if exchange and plan.shortcut is not None:
        generator = torch.Generator().manual_seed(seed)
        mixed = Exchanged(whole=train, inside=plan.shortcut, generator=generator)
        kept = replace(kept, whole=plan.applied(mixed))
    if held is None:
        return kept, choosing_by(plan, in_memory(validation or left), None, seed)
    return kept, choosing_by(plan, held, origins(held), seed)


def choosing_by(plan: Plan, data: ImageData, places: Sequence[int] | None, seed: int) -> ImageData:
    """Return images to choose by: where the regions are known of them, swapped as well.

    Args:
        plan: What was accepted.
        data: The images.
        places: Their places in the training data; None if they are not from there.
        seed: Of the donors.
    """
    if plan.shortcut is None or (plan.moves and places is None):
        return data
    known = tuple(range(len(data))) if places is None else tuple(places)
    return AlsoSwapped(
        data=data,
        inside=lambda rows: plan.masks(torch.tensor([known[k] for k in rows])),
        moves=plan.moves,
        wanted=plan.classes,
        seed=seed,
    )


def origins(part: Part) -> list[int]:
    """Return the places of a part's images in the innermost dataset."""
    places, data = list(part.places), part.whole
    while isinstance(data, Part):
        places, data = [data.places[k] for k in places], data.whole
    return places


def prior_of(
    plan: Plan, train: ImageData, name: str, method: Method | str, model: nn.Module | LoadedModel
) -> Prior | None:
    """Return the prior that keeps attributions out of the accepted regions; None without any."""
    if plan.shortcut is None:
        return None
    units = model.preprocessing.normalisation if isinstance(model, LoadedModel) else None
    how = method_named(method, normalisation=units) if isinstance(method, str) else method
    labels = [-1 if (one := train.label(k)) is None else one for k in range(len(train))]
    penalty = penalty_named(name, masks=~plan.shortcut, groups=torch.tensor(labels))
    options: dict[str, Any] = {"target": all_log_probabilities} if name == "right-reasons" else {}
    return Prior(method=how, penalty=penalty, **options)


def folder_for(out: str | Path | None) -> AbstractContextManager[Path]:
    """Return the folder to work in; one that is deleted afterwards, if none is given."""
    return nullcontext(Path(out)) if out is not None else temporary()


@contextmanager
def temporary() -> Iterator[Path]:
    """Yield a new folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="whence-fix-") as name:
        yield Path(name) / "fixed"


def record_of(
    plan: Plan,
    audited: Audited,
    fitted: FitRecord,
    train: ImageData,
    started: float,
    command: str,
    *,
    prior: Prior | None,
    converted: bool,
    exchanged: bool,
) -> FixRecord:
    """Return what was done as a record."""
    shortcut = plan.shortcut
    touched = None if shortcut is None else shortcut.flatten(1).double().mean(dim=1)
    each = 0 if touched is None else int((touched > 0).sum())
    masked = audited.images if shortcut is not None and len(shortcut) == 1 else each
    return FixRecord(
        model=fitted.model,
        data=train.title,
        audited=audited,
        findings=plan.accepted,
        masked=masked,
        area=0.0 if touched is None else float(touched[touched > 0].mean()),
        dropped=plan.dropped,
        relabelled=dict(plan.relabelled),
        converted=converted,
        exchanged=exchanged,
        x_dnn=fitted.after.homogeneous is True,
        prior=""
        if prior is None
        else f"{type(prior.penalty).__name__} on {type(prior.method).__name__}",
        trainings=tuple(
            FixTraining(
                name=row.name, weight=row.weight, accuracy=row.validation_accuracy, note=row.note
            )
            for row in fitted.rows
        ),
        chosen=fitted.chosen,
        notes=(*plan.notes, *fitted.notes),
        seconds=time.monotonic() - started,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def load_fixed(folder: str | Path, model: nn.Module | LoadedModel) -> nn.Module:
    """Return the network that a fix left, in eval mode on the CPU.

    Args:
        folder: What :func:`fix` wrote.
        model: The model that it started from, whose source is needed where it is no X-DNN.

    Raises:
        OutputError: The folder has no weights: the fix has not ended.
    """
    place = Path(folder)
    if (place / CERTIFIED).is_file():
        return load_x_dnn(place / CERTIFIED).module
    if not (place / "weights.safetensors").is_file():
        msg = f"{place} has no weights.safetensors. Let the fix end: run it again with --resume."
        raise OutputError(msg)
    module = copy.deepcopy(model.module if isinstance(model, LoadedModel) else model).cpu()
    module.load_state_dict(load_file(place / "weights.safetensors"))
    return module.eval()
