"""`whence fit`: train or fine-tune a classifier, with or without a prior."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whence.cli.console import Report, bars, bold, command_line, say, say_json, unseen
from whence.cli.dry_run import DryRun, show_cost
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
    from whence.recipes.fit_load import FitData
    from whence.recipes.fit_record import FitRecord
    from whence.recipes.rehearse_fit import Parts

__all__ = ["fit"]

DATA, CHANGE, TRAINING = "Data", "What to change", "Training"
SOURCES = "as for `whence audit`: a folder of class folders, .zip, .npz#SPLIT, digits#SPLIT, ..."


def fit(  # noqa: PLR0913 - one argument for each option
    *,
    model: Model,
    train: Annotated[
        str,
        typer.Option(metavar="SOURCE", help=f"Training images, {SOURCES}", rich_help_panel=DATA),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for weights.safetensors, fit.json, report.md, and the checkpoints "
            "and logs of each run.",
            rich_help_panel=OUTPUT,
        ),
    ],
    weights: Weights = None,
    download: Download = False,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Start from random weights.", rich_help_panel=CHANGE),
    ] = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images to choose by; a fifth of the training images if not given.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images to measure before and after on; the validation images if not given.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    train_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the training images.", rich_help_panel=DATA),
    ] = None,
    convert: Annotated[
        bool,
        typer.Option("--convert", help="Make the model an X-DNN first.", rich_help_panel=CHANGE),
    ] = False,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What a conversion changes, in this order, as for `whence convert`; may be given "
            "several times.",
            rich_help_panel=CHANGE,
            show_default=False,
        ),
    ] = None,
    new_head: Annotated[
        bool,
        typer.Option(
            "--new-head",
            help="Replace the last layer for the data's classes; without a bias if it had none.",
            rich_help_panel=CHANGE,
        ),
    ] = False,
    intercept: Annotated[
        bool,
        typer.Option(
            "--intercept",
            help="For imbalanced classes: add the logarithm of their shares to the logits in the "
            "loss, outside the network.",
            rich_help_panel=CHANGE,
        ),
    ] = False,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What attributions shall look like: entropy, gini, l1, l2, magnitude, mean-gini, "
            "total-variation; with masks outside-mask, right-reasons, mask-energy, mask-l1, "
            "mask-cross-entropy; pairwise-similarity, alike within a class.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    prior_weights: Annotated[
        str,
        typer.Option(
            "--prior-weights",
            metavar="NUMBERS",
            help="The weights to compare; the most accurate on the validation images is kept.",
            rich_help_panel=METHOD,
        ),
    ] = "0.01,0.1,1",
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
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where attributions may be: .npy, 1 inside, (n, h, w) or (h, w).",
            rich_help_panel=METHOD,
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="L,T,R,B",
            help="The same, as a box in pixels of the model's input, for all images.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the data, at most.", rich_help_panel=TRAINING)
    ] = 10,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per step.", rich_help_panel=TRAINING)
    ] = 64,
    optimiser: Annotated[
        str, typer.Option(help="adamw or sgd (momentum 0.9).", rich_help_panel=TRAINING)
    ] = "adamw",
    rate: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=TRAINING)] = 1e-3,
    decay: Annotated[float, typer.Option(help="Weight decay.", rich_help_panel=TRAINING)] = 1e-4,
    schedule: Annotated[
        str, typer.Option(help="cosine or constant.", rich_help_panel=TRAINING)
    ] = "cosine",
    clip: Annotated[
        float | None,
        typer.Option(help="Largest norm of the gradient.", rich_help_panel=TRAINING),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after so many epochs without a better validation accuracy.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    vary: Annotated[
        bool,
        typer.Option(
            "--vary", help="Move and mirror training images by chance.", rich_help_panel=TRAINING
        ),
    ] = False,
    precision: Annotated[
        str, typer.Option(help="32, bf16-mixed or 16-mixed.", rich_help_panel=TRAINING)
    ] = "32",
    devices: Annotated[
        int, typer.Option(min=1, help="Devices on each machine.", rich_help_panel=TRAINING)
    ] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.", rich_help_panel=TRAINING)] = 1,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", rich_help_panel=TRAINING)] = 0,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train or fine-tune a classifier; compare weights of a prior; tell what has changed.

    The report has accuracy, homogeneity and the contrast curve before and after. With a prior, the
    training without one and without biases is in the table, too.
    """
    del verbose
    from dataclasses import replace

    from whence.adapters.lightning import is_first_process
    from whence.adapters.training import TrainingSettings
    from whence.recipes.fit import fit as run
    from whence.recipes.fit_load import load_fit_data, load_for_fit, load_prior, load_routes
    from whence.recipes.rehearse_fit import rehearse_fit

    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        optimiser=optimiser,
        rate=rate,
        decay=decay,
        schedule=schedule,
        clip=clip,
        patience=patience,
        vary=vary,
        precision=precision,
        device=device,
        devices=devices,
        nodes=nodes,
        seed=seed,
    )
    loaded = load_for_fit(
        model,
        weights=weights,
        classes=classes,
        settings=input_ or (),
        download=download,
        from_scratch=from_scratch,
        seed=seed,
    )
    data = load_fit_data(
        loaded,
        train,
        validation,
        test,
        new_head=new_head,
        from_scratch=from_scratch,
        train_labels=train_labels,
    )
    wanted = load_prior(
        prior,
        data.train,
        method=method,
        method_settings=set_ or (),
        masks=masks,
        box=box,
        model=loaded,
    )

    def fitted(parts: "FitData | Parts", at: Path, epochs: int, progress: Report) -> "FitRecord":
        return run(
            loaded,
            parts.train,
            parts.validation,
            out=at,
            test=parts.test,
            settings=replace(settings, epochs=epochs),
            prior=wanted,
            weights=() if wanted is None else numbers(prior_weights),
            convert=convert,
            routes=load_routes(route or ()),
            new_head=data.new_head,
            intercept=intercept,
            resume=resume and at == out,
            overwrite=overwrite,
            command=command_line(),
            progress=progress,
        )

    if dry_run:
        found = rehearse_fit(
            lambda parts, at, some: fitted(parts, at, some, unseen),
            loaded.module,
            data.train,
            data.validation,
            data.test,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
        )
        show_cost(found, out, unit="training images", as_json=as_json)
        return
    try:
        with bars(quiet=as_json) as progress:
            record = fitted(data, out, epochs, progress)
    except KeyboardInterrupt as stop:
        typer.echo(f"\nStopped. {left_in(out)}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if is_first_process():
        show(record, out, as_json=as_json)


def numbers(text: str) -> list[float]:
    """Return numbers separated by commas."""
    from whence.errors import SettingError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        msg = f"--prior-weights takes numbers such as 0.01,0.1,1; got {text!r}."
        raise SettingError(msg) from error


def left_in(out: Path) -> str:
    """Say what is left after a training was stopped."""
    kept = sorted(out.glob("runs/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not kept:
        return f"There is no checkpoint in {out} yet."
    return f"The last checkpoint is {kept[-1]}; go on with the same command and --resume."


def show(record: "FitRecord", out: Path, *, as_json: bool) -> None:
    """Print what came of a training."""
    from dataclasses import asdict

    from whence.recipes.fit_record import fit_text

    if as_json:
        say_json({"out": str(out), **asdict(record)})
        return
    say(fit_text(record))
    say(f"\n{bold('Weights')}  {out / 'weights.safetensors'}")
    if record.after.homogeneous:
        say(f"{bold('X-DNN')}    {out / 'x-dnn.safetensors'}, with its certificate")
    say(f"{bold('Report')}   {out / 'report.md'}")
