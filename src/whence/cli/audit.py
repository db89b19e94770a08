"""`whence audit`: where do these predictions come from?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.console import bars, bold, command_line, faint, say, say_json, table
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
    from whence.results import AuditRecord

__all__ = ["audit", "overview", "show_audit"]

DATA, CHOICE = "Data", "What to look at"
SHOWN = 5
"""Suspicious labels that are printed; the report has them all."""


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
            help="A new folder for report.html, audit.json, arrays.npz and influences.csv.",
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
    batch_size: BatchSize = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Audit a classifier: which pixels, which training images, and which of their pixels.

    Writes a folder with a report for people (report.html, one file, works offline) and the
    same as JSON, NPZ and CSV for programs. The folder appears when the audit has ended well.
    """
    from whence.attribution import method_named
    from whence.influence import scorer_named
    from whence.recipes import audit as run
    from whence.recipes import load_case, load_subject
    from whence.recipes.load import load_checkpoints, pairs

    chosen = places(queries)
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
    with bars(quiet=as_json) as progress:
        record = run(
            case.model,
            case.train,
            case.test,
            out=out,
            queries=chosen,
            count=count,
            k=k,
            score=scorer_named(score, pairs(score_set or (), "damping=0.1")),
            checkpoints=load_checkpoints(loaded, checkpoint or (), learning_rate),
            parameters=parameters,
            method=how,
            training_method=training_method
            if not training_set
            else method_named(
                training_method or "input-x-gradient",
                pairs(training_set, "steps=8"),
                normalisation=units,
            ),
            hold_weights=hold_weights,
            batch_size=batch_size,
            overwrite=overwrite,
            command=command_line(),
            progress=progress,
        )
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


def overview(record: "AuditRecord", out: Path) -> dict[str, Any]:
    """Return what an audit found, without pictures and maps, as a program reads it."""
    names = record.model.classes
    return {
        "out": str(out),
        "report": str(out / "report.html"),
        "model": {"name": record.model.name, "fingerprint": record.model.fingerprint},
        "accuracy": record.accuracy,
        "queries": [
            {
                "index": query.index,
                "name": query.name,
                "label": None if query.label is None else names[query.label],
                "prediction": names[query.prediction],
                "confidence": query.confidence,
                "proponents": [{"index": p.index, "score": p.score} for p in query.proponents],
                "opponents": [{"index": p.index, "score": p.score} for p in query.opponents],
            }
            for query in record.queries
        ],
        "suspect_labels": [
            {
                "index": one.index,
                "name": one.name,
                "label": names[one.label],
                "suggested": names[one.suggested],
                "confidence": one.confidence,
                "score": one.score,
            }
            for one in record.suspect_labels
        ],
        "regions": [
            {
                "box": list(region.box),
                "class": names[region.label],
                "mass": region.mass,
                "area": region.area,
                "images": list(region.images),
                "similarity": region.similarity,
            }
            for region in record.regions
        ],
        "skipped": [
            {"data": card.name, "name": name, "reason": reason}
            for card in (record.train, record.test)
            for name, reason in card.skipped
        ],
        "notes": list(record.notes),
        "seconds": record.run.seconds,
    }


def show_audit(record: "AuditRecord", out: Path, *, verbose: bool) -> None:
    """Print what an audit found, in a screenful."""
    names = record.model.classes
    accuracy = "" if record.accuracy is None else f", accuracy {100 * record.accuracy:.1f} %"
    say(bold(f"{record.model.name}") + f" on {record.test.name}{accuracy}")
    say(f"{len(record.queries)} test images traced to {record.train.count} training images.")
    if record.suspect_labels:
        say(f"\n{bold('Labels that look wrong')} ({len(record.suspect_labels)})")
        rows = [
            (
                f"  {one.name}",
                f"labelled {names[one.label]}",
                f"looks like {names[one.suggested]} ({100 * one.confidence:.0f} %)",
            )
            for one in record.suspect_labels[:SHOWN]
        ]
        say(table(rows))
        if len(record.suspect_labels) > SHOWN:
            say(faint(f"  and {len(record.suspect_labels) - SHOWN} more"))
    if record.regions:
        say(f"\n{bold('Regions that keep carrying influence')}")
        rows = [
            (
                f"  {names[region.label]}",
                (
                    f"columns {region.box[0]}-{region.box[2] - 1}, "
                    f"rows {region.box[1]}-{region.box[3] - 1}"
                ),
                (
                    f"{100 * region.mass:.0f} % of the influence on {100 * region.area:.1f} % of "
                    f"the area, in {len(region.images)} images; pixels alike "
                    f"{region.similarity:.2f}"
                ),
            )
            for region in record.regions
        ]
        say(table(rows))
    skipped = [*record.train.skipped, *record.test.skipped]
    if skipped:
        say(f"\n{bold('Left out')} ({len(skipped)})")
        say(table([(f"  {name}", reason) for name, reason in skipped[:SHOWN]]))
        if len(skipped) > SHOWN:
            say(faint(f"  and {len(skipped) - SHOWN} more"))
    if verbose:
        say(f"\n{bold('Seconds')}")
        say(table([(f"  {stage}", f"{took:.2f}") for stage, took in record.run.seconds.items()]))
    say(f"\n{bold('Report')}  {out / 'report.html'}")
