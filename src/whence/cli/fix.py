"""`whence fix`: put right what was accepted of an audit's findings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whence.cli.console import bars, bold, command_line, say, say_json
from whence.cli.fit import left_in, numbers
from whence.cli.guard import INTERRUPTED
from whence.cli.options import (
    METHOD,
    OUTPUT,
    Classes,
    Device,
    Download,
    Input,
    Json,
    Model,
    Overwrite,
    Resume,
    Set,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from whence.recipes import Fixed

__all__ = ["fix"]

DATA, CHOICE, TRAINING = "Data", "What to put right", "Training"


def fix(  # noqa: PLR0913 - one argument for each option
    audit: Annotated[
        Path,
        typer.Argument(metavar="AUDIT", help="The folder of an audit, with its findings.toml."),
    ],
    *,
    model: Model,
    train: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="The training images of the audit.", rich_help_panel=DATA
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for the weights, the X-DNN with its certificate, fix.json, "
            "report.md, and the checkpoints and logs of each run.",
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
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images to choose by; a fifth of the training images if not given. They may show "
            "the shortcut.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Accept findings beside those that findings.toml accepts: shortcut-1, several "
            "with commas, a pattern such as 'label-*', or all; may be given several times.",
            rich_help_panel=CHOICE,
            show_default=False,
        ),
    ] = None,
    no_convert: Annotated[
        bool,
        typer.Option(
            "--no-convert",
            help="Train the network as it is, instead of an X-DNN of it.",
            rich_help_panel=CHOICE,
        ),
    ] = False,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What a conversion changes, in this order, as for `whence convert`; may be given "
            "several times.",
            rich_help_panel=CHOICE,
            show_default=False,
        ),
    ] = None,
    exchange: Annotated[
        bool | None,
        typer.Option(
            "--exchange/--no-exchange",
            help="Exchange the region's pixels among the training images as well, anew in every "
            "epoch. By default for regions that are elsewhere in each image.",
            rich_help_panel=CHOICE,
            show_default=False,
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What attributions shall not do in an accepted region: outside-mask (the default "
            "for a region in one place), mask-energy (for one that is elsewhere in each image), "
            "right-reasons, mask-l1, mask-cross-entropy.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    prior_weights: Annotated[
        str | None,
        typer.Option(
            "--prior-weights",
            metavar="NUMBERS",
            help="The weights to compare, on validation images as they are and with the region "
            "of another image: 10,100,1000 for a region in one place, otherwise 1,3,10.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Which attributions: input-x-gradient, gradient, expected-gradients, "
            "integrated-gradients, grad-cam.",
            rich_help_panel=METHOD,
        ),
    ] = "input-x-gradient",
    set_: Set = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the data.", rich_help_panel=TRAINING)
    ] = 6,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per step.", rich_help_panel=TRAINING)
    ] = 32,
    optimiser: Annotated[
        str, typer.Option(help="adamw or sgd (momentum 0.9).", rich_help_panel=TRAINING)
    ] = "adamw",
    rate: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=TRAINING)] = 2e-3,
    decay: Annotated[float, typer.Option(help="Weight decay.", rich_help_panel=TRAINING)] = 0.05,
    vary: Annotated[
        bool,
        typer.Option(
            "--vary",
            help="Move and mirror training images by chance, and masks with them.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", rich_help_panel=TRAINING)] = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> Path:
    """Put right what was accepted of an audit's findings, by training on.

    Accepted regions become masks that attributions are kept out of, on an X-DNN of the network;
    images are left out, or get another label. Accept in findings.toml, in the viewer, or with
    --accept. Then `whence verify` shows before and after side by side.
    """
    del verbose
    from whence.adapters.training import TrainingSettings
    from whence.attribution import method_named
    from whence.recipes import fix as run
    from whence.recipes import load_images, load_subject
    from whence.recipes.fit_load import load_routes
    from whence.recipes.load import pairs

    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        optimiser=optimiser,
        rate=rate,
        decay=decay,
        vary=vary,
        device=device,
        seed=seed,
    )
    loaded = load_subject(
        model,
        weights=weights,
        classes=classes,
        settings=input_ or (),
        download=download,
    )
    training = load_images(train, loaded, labels=train_labels)
    units = loaded.preprocessing.normalisation
    try:
        with bars(quiet=as_json) as progress:
            fixed = run(
                audit,
                loaded,
                training,
                None if validation is None else load_images(validation, loaded),
                out=out,
                accept=[name for text in accept or () for name in text.split(",")],
                prior=prior,
                weights=() if prior_weights is None else numbers(prior_weights),
                exchange=exchange,
                method=method_named(method, pairs(set_ or (), "steps=8"), normalisation=units),
                convert=False if no_convert else None,
                routes=load_routes(route or ()),
                settings=settings,
                resume=resume,
                overwrite=overwrite,
                command=command_line(),
                progress=progress,
            )
    except KeyboardInterrupt as stop:
        typer.echo(f"\nStopped. {left_in(out)}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    show(fixed, audit, out, as_json=as_json)
    return out


def show(fixed: "Fixed", audit: Path, out: Path, *, as_json: bool) -> None:
    """Print what was done."""
    from dataclasses import asdict, replace

    from whence.recipes.fix_text import fix_text

    record = fixed.record
    if as_json:
        plain = asdict(replace(record, findings=()))
        plain["findings"] = [one.id for one in record.findings]
        say_json({"out": str(out), **plain})
        return
    say(fix_text(record))
    say(f"\n{bold('Weights')}  {out / 'weights.safetensors'}")
    if record.x_dnn:
        say(f"{bold('X-DNN')}    {out / 'x-dnn.safetensors'}, with its certificate")
    say(f"{bold('Report')}   {out / 'report.md'}")
    say(f"{bold('Next')}     whence verify {audit} {out} --model ... --train ... --test ...")
