"""`whence audit`: where do these predictions come from?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whence.cli.audit_summary import overview, show_audit
from whence.cli.console import Report, bars, command_line, say_json, unseen
from whence.cli.dry_run import DryRun, show_cost
from whence.cli.options import (
    METHOD,
    OUTPUT,
    BatchSize,
    Classes,
    Device,
    Download,
    Input,
    Json,
    Model,
    Overwrite,
    Set,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from whence.recipes import Removal
    from whence.recipes.load import Case
    from whence.results import AuditRecord

__all__ = ["audit"]

DATA, CHOICE, REMOVAL = "Data", "What to look at", "Groups and removal"


def audit(  # noqa: PLR0913 - one argument for each option
    *,
    model: Model,
    train: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Training images: a folder of class folders, .zip, .npz, digits, "
            "torchvision/NAME:ROOT; a split is written behind it: data.npz#train.",
            rich_help_panel=DATA,
        ),
    ],
    test: Annotated[str, typer.Option(metavar="SOURCE", help="Test images.", rich_help_panel=DATA)],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for report.html, audit.json, arrays.npz and tables as CSV.",
            rich_help_panel=OUTPUT,
        ),
    ],
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    train_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the training images.", rich_help_panel=DATA),
    ] = None,
    test_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the test images.", rich_help_panel=DATA),
    ] = None,
    queries: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="wrong: test images that the model gets wrong (all without labels); all; or "
            "places in the test data: 3,17,42.",
            rich_help_panel=CHOICE,
        ),
    ] = "wrong",
    count: Annotated[
        int,
        typer.Option(min=1, help="At most so many test images, spread.", rich_help_panel=CHOICE),
    ] = 20,
    k: Annotated[
        int,
        typer.Option(
            "--k",
            "-k",
            min=1,
            help="Training images for, and as many against, each prediction.",
            rich_help_panel=CHOICE,
        ),
    ] = 5,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How pixels of test images are attributed; see `whence methods`. By default "
            "integrated gradients, with more steps where they miss more than a tenth.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    set_: Set = None,
    training_method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How pixels of training images are attributed: shared-evidence (the default), "
            "input-x-gradient, tfa, tfa-smoothed, additive, influence-lrp, occlusion, differences, "
            "x-gradient, integrated-gradients, or a method of `whence methods`.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    training_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting of that method, such as steps=8.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    score: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How gradients become scores: grad-cos, grad-dot, tracin, gas, trak, influence, "
            "lissa, explicit, arnoldi, datainf, kfac, ekfac, relatif, relatif-parameters, "
            "gauss-newton, empirical-fisher, trackstar, representer, representation.",
            rich_help_panel=METHOD,
        ),
    ] = "grad-cos",
    score_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting of the score, such as damping=0.1 or space.dimension=1024.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Weights at a moment of training, or of another run, over which scores are "
            "added up; give several in the order of training.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(
            "--rate",
            "--learning-rate",
            metavar="RATE",
            help="The learning rate at each checkpoint, for tracin and gas; 1 by default.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    parameters: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Gradients are compared over: all, last-block, last-layer, or patterns of "
            "names such as 'layer4.*'.",
            rich_help_panel=METHOD,
        ),
    ] = "all",
    hold_weights: Annotated[
        bool | None,
        typer.Option(
            "--hold-weights/--differentiate-weights",
            help="On training images explain the inner product of gradients alone, or the whole "
            "score with its norms; by default as the method of training images has it.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="A list of training images, one place or file name per line, whose influence is "
            "summed; may be given several times. Classes and findings are groups anyway.",
            rich_help_panel=REMOVAL,
        ),
    ] = None,
    removal: Annotated[
        str | None,
        typer.Option(
            metavar="COUNTS",
            help="Train again without so many of the images of highest score, such as 5,20,80, "
            "and without as many random ones, and see what becomes of the predictions.",
            rich_help_panel=REMOVAL,
        ),
    ] = None,
    removal_by: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="What is removed: proponents of each prediction; or harmful: of wrong ones, what "
            "speaks for them rather than for the label.",
            rich_help_panel=REMOVAL,
        ),
    ] = "proponents",
    removal_together: Annotated[
        bool,
        typer.Option(
            "--removal-together",
            help="One ranking for all predictions instead of each its own: fewer trainings.",
            rich_help_panel=REMOVAL,
        ),
    ] = False,
    removal_draws: Annotated[
        int,
        typer.Option(min=1, help="Random subsets of each count.", rich_help_panel=REMOVAL),
    ] = 3,
    retrain: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="last-layer: fit it anew on the features as they are; fine-tune: so many steps "
            "from the weights as they are. Neither is a training from scratch.",
            rich_help_panel=REMOVAL,
        ),
    ] = "last-layer",
    retrain_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting of it: penalty=0.003 of last-layer; steps=100, rate=0.001, "
            "batch_size=32, seed=0 of fine-tune.",
            rich_help_panel=REMOVAL,
        ),
    ] = None,
    batch_size: BatchSize = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Audit a classifier: which pixels, which training images, and which of their pixels.

    Writes a folder with a report for people (report.html, one file, works offline) and the
    same as JSON, NPZ and CSV for programs. The folder appears when the audit has ended well.
    """
    from dataclasses import replace

    from whence.attribution import method_named
    from whence.influence import scorer_named
    from whence.recipes import audit as run
    from whence.recipes import load_case, load_subject, read_group
    from whence.recipes.load import load_checkpoints, pairs
    from whence.recipes.rehearse_audit import rehearse_audit

    chosen = places(queries)
    groups = dict(read_group(text) for text in group or ())
    without = removed(
        removal,
        by=removal_by,
        together=removal_together,
        draws=removal_draws,
        retrain=retrain,
        settings=retrain_set or (),
    )
    loaded = load_subject(
        model,
        weights=weights,
        classes=classes,
        settings=input_ or (),
        device=device,
        download=download,
    )
    units = loaded.preprocessing.normalisation
    case = load_case(loaded, train, test, train_labels=train_labels, test_labels=test_labels)
    how = (
        None
        if method is None and not set_
        else method_named(
            method or "integrated-gradients", pairs(set_ or (), "steps=64"), normalisation=units
        )
    )
    inside = (
        training_method
        if not training_set
        else method_named(
            training_method or "input-x-gradient",
            pairs(training_set, "steps=8"),
            normalisation=units,
        )
    )
    scorer = scorer_named(score, pairs(score_set or (), "damping=0.1"))
    moments = load_checkpoints(loaded, checkpoint or (), learning_rate)

    def audited(case: "Case", at: Path, asked: str | list[int], progress: Report) -> "AuditRecord":
        whole = at == out
        return run(
            case.model,
            case.train,
            case.test,
            out=at,
            queries=asked,
            count=count,
            k=k,
            score=scorer,
            checkpoints=moments,
            parameters=parameters,
            method=how,
            training_method=inside,
            hold_weights=hold_weights,
            groups=groups if whole else {},
            removal=without if whole else fewest(without),
            batch_size=batch_size,
            overwrite=overwrite,
            command=command_line(),
            progress=progress,
        )

    if dry_run:
        found = rehearse_audit(
            lambda train, test, asked, at: audited(
                replace(case, train=train, test=test), at, list(asked), unseen
            ),
            case.model.module,
            case.train,
            case.test,
            queries=chosen,
            count=count,
            k=k,
            batch_size=batch_size or 32,
            weights=sum(one.numel() for one in case.model.module.parameters())
            if parameters == "all"
            else 0,
        )
        show_cost(found, out, unit="training images", as_json=as_json)
        return
    with bars(quiet=as_json) as progress:
        record = audited(case, out, chosen, progress)
    if as_json:
        say_json(overview(record, out))
    else:
        show_audit(record, out, verbose=verbose)


def places(queries: str) -> str | list[int]:
    """Return a word, or places in the test data."""
    from whence.errors import SettingError

    if queries in ("wrong", "all"):
        return queries
    try:
        return [int(part) for part in queries.split(",")]
    except ValueError as error:
        msg = f"--queries takes wrong, all, or places such as 3,17,42; got {queries!r}."
        raise SettingError(msg) from error


def fewest(removal: "Removal | None") -> "Removal | None":
    """Return the same number of trainings without the fewest images, for a rehearsal."""
    from dataclasses import replace

    return removal and replace(removal, counts=tuple(range(1, len(removal.counts) + 1)))


def removed(
    counts: str | None,
    *,
    by: str,
    together: bool,
    draws: int,
    retrain: str,
    settings: Sequence[str],
) -> "Removal | None":
    """Return what to remove, if anything."""
    from whence.errors import SettingError
    from whence.recipes import Removal
    from whence.recipes.load import pairs, parsed
    from whence.recipes.retrain import way_named

    given = {key: parsed(text) for key, text in pairs(settings, "steps=100").items()}
    if counts is None:
        if given:
            msg = "--retrain-set needs --removal with numbers of images, such as --removal 5,20,80."
            raise SettingError(msg)
        return None
    try:
        numbers = tuple(int(part) for part in counts.split(","))
    except ValueError as error:
        msg = f"--removal takes numbers of images such as 5,20,80; got {counts!r}."
        raise SettingError(msg) from error
    return Removal(
        counts=numbers,
        by=by,
        retrain=way_named(retrain, given),
        together=together,
        draws=draws,
    )
