"""Verify: a network before and after a fix, side by side, on images it was not trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from whence.adapters import LoadedModel, Preprocessing
from whence.attribution import method_named
from whence.core import ImageData, Method, Progress, silent
from whence.errors import DataError, SettingError
from whence.influence import Scorer, scorer_named
from whence.recipes.audit import DEFAULT_METHOD, preprocessing_of
from whence.recipes.audit_subject import Subject
from whence.recipes.fix import Fixed, check_same_model, findings_of, load_fixed
from whence.recipes.fix_plan import check_same_data, plan_of
from whence.recipes.verify_study import Study
from whence.report import write_verify
from whence.results import Audited, AuditRecord, Finding, load_fix, new_folder
from whence.results.verify import VerifyRecord, save_verify

__all__ = ["verify"]


def verify(  # noqa: PLR0913 - the public face: every setting of a verification
    audit: AuditRecord | str | Path,
    before: nn.Module | LoadedModel,
    after: Fixed | nn.Module | str | Path,
    train: ImageData,
    test: ImageData,
    *,
    out: str | Path | None = None,
    findings: Sequence[Finding] | None = None,
    also: Mapping[str, ImageData] | None = None,
    test_masks: NDArray[np.bool_] | None = None,
    method: Method | str | None = None,
    score: Scorer | str = "grad-cos",
    k: int = 5,
    count: int = 500,
    maps: int = 40,
    queries: int = 16,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> VerifyRecord:
    """Show a network before and after a fix, side by side, with intervals.

    Accuracy on all test images, on those that do not show an accepted shortcut, and on images of
    other classes into which its pixels are planted, beside two controls: pixels of other images in
    the same place, and the shortcut's pixels at another place. The share of attributions, and of
    training-feature maps, inside the region; homogeneity; metrics of faithfulness; and the
    influence of the images that were left out or relabelled. Attributions are judged by a method
    that the prior did not use (integrated gradients), unless you choose another.

    What may be said stands in ``sentences``: only where the interval of the change over the same
    images lies on one side of 0.

    Cost: for each network predictions of all test images and of three times ``count`` more;
    attributions and some 170 passes of metrics for each of ``maps`` images; a forward and two
    backward passes per training image.

    Args:
        audit: What :func:`whence.audit` returned, or its folder.
        before: The model that was audited.
        after: What :func:`whence.fix` returned, its folder, or a network of yours; for that,
            the findings that are accepted in the audit count.
        train: The training data of the audit.
        test: Labelled test images.
        out: A folder for ``verify.html``, ``verify.json``, ``verify.csv`` and ``verify.md``.
            Nothing is written if None.
        findings: Accepted findings, instead of those that the fix or the audit knows.
        also: Further labelled images by name, such as some known to be free of the shortcut.
        test_masks: Where the region is in each test image, ``(n, h, w)``, for regions that are
            elsewhere in each image and take more than half of it.
        method: How pixels are attributed.
        score: How gradients become scores.
        k: Proponents of each prediction that is traced.
        count: Planted images, at most.
        maps: Images that are attributed, at most, of each kind.
        queries: Predictions that are traced to training images, at most.
        preprocessing: How pictures became images, to show them; known for a LoadedModel.
        seed: Of what is drawn.
        overwrite: Replace an earlier result in ``out``.
        command: What to note as the command.
        progress: Told how far each stage is.

    Raises:
        DataError: No test image has a label.
        MismatchError: Model or training data are not those of the audit.
        ModeError: A network is in train mode.
        OutputError: ``out`` holds something.
        RecordError: The findings cannot be read.
        SettingError: Nothing is accepted, or a number is out of range.
    """
    for name, value in (("k", k), ("count", count), ("maps", maps), ("queries", queries)):
        if value < 1:
            msg = f"{name} must be at least 1; got {value}."
            raise SettingError(msg)
    audited, known = accepted_of(audit, after, findings)
    check_same_model(audited, before)
    check_same_data(audited, train)
    plan = plan_of(known, audited, train)
    if test_masks is not None and test_masks.shape != (len(test), audited.height, audited.width):
        msg = (
            f"Masks of the test images are needed as ({len(test)}, {audited.height}, "
            f"{audited.width}), one for each; got {test_masks.shape}."
        )
        raise DataError(msg)
    units = preprocessing_of(before, preprocessing)
    how = (
        method_named(method, normalisation=None if units is None else units.normalisation)
        if isinstance(method, str)
        else method or DEFAULT_METHOD
    )
    study = Study(
        audited=audited,
        plan=plan,
        modules=(module_of(before), fixed_module(after, before)),
        subject=Subject.of(before, train, preprocessing, audited.classes, None),
        train=train,
        test=test,
        method=how,
        scorer=scorer_named(score) if isinstance(score, str) else score,
        k=k,
        count=count,
        most=maps,
        queries=queries,
        seed=seed,
        masks=test_masks,
        progress=progress,
    )
    if out is None:
        return study.run(also or {}, command)
    with new_folder(out, overwrite=overwrite) as part:
        record = study.run(also or {}, command)
        save_verify(record, part)
        write_verify(record, part / "verify.html")
    return record


def accepted_of(
    audit: AuditRecord | str | Path,
    after: Fixed | nn.Module | str | Path,
    findings: Sequence[Finding] | None,
) -> tuple[Audited, tuple[Finding, ...]]:
    """Return what was audited, and the findings that were put right."""
    audited, known = findings_of(audit, findings)
    if findings is not None or isinstance(after, nn.Module):
        return audited, known
    record = after.record if isinstance(after, Fixed) else load_fix(after)
    return audited, record.findings


def module_of(model: nn.Module | LoadedModel) -> nn.Module:
    """Return the module of a model."""
    return model.module if isinstance(model, LoadedModel) else model


def fixed_module(
    after: Fixed | nn.Module | str | Path, before: nn.Module | LoadedModel
) -> nn.Module:
    """Return the network after the fix."""
    if isinstance(after, Fixed):
        return after.module
    return after if isinstance(after, nn.Module) else load_fixed(after, before)
