"""`whence evaluate`: can attributions be trusted?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.console import Report, bars, bold, command_line, faint, say, say_json, table, unseen
from whence.cli.dry_run import DryRun, show_cost
from whence.cli.guard import INTERRUPTED
from whence.cli.options import (
    METHOD,
    OUTPUT,
    Device,
    Download,
    Json,
    NamedClasses,
    NamedInputs,
    NamedModels,
    NamedWeights,
    Overwrite,
    Resume,
    Verbose,
)

if TYPE_CHECKING:
    from whence.results.evaluation import EvaluationRecord

__all__ = ["evaluate"]

DATA, METRIC, TRAINING = "Data", "Metrics", "Metrics that train networks again"
FEWEST = 4
"""Images of the smallest rehearsal."""
SHOWN = 8
"""Reasons and notes that are printed; the report has them all."""


def evaluate(  # noqa: PLR0913 - one argument for each option
    source: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES", help="Images: a folder, .zip, .npz, digits.", show_default=False
        ),
    ],
    *,
    model: NamedModels = None,
    weights: NamedWeights = None,
    classes: NamedClasses = None,
    input_: NamedInputs = None,
    device: Device = "cpu",
    download: Download = False,
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Labels of the images.", rich_help_panel=DATA),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the objects are: a folder or .zip of pictures with the images' names, or "
            "an array .npy, .npz#KEY, (n, h, w).",
            rich_help_panel=DATA,
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            min=1,
            help="At most so many images, spread over the source.",
            rich_help_panel=DATA,
        ),
    ] = 64,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="A method of `whence methods`, with settings behind a colon; give several. "
            "[default: gradient, input-x-gradient, integrated-gradients, grad-cam]",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting for every method that has it.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Maps that somebody else made of all images: .npy or .npz#KEY, (n, h, w) or "
            "(n, c, h, w).",
            rich_help_panel=METHOD,
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A control beside random, constant and edge map: redrawn-map, input-map, "
            "centre-map.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="What is explained: predicted, label, or a class by number.",
            rich_help_panel=METHOD,
        ),
    ] = "predicted",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="A metric of `whence metrics`; give several. [default: insertion, deletion, srg, "
            "gini; with masks also relevance-mass, relevance-rank, pointing-game]",
            rich_help_panel=METRIC,
            show_default=False,
        ),
    ] = None,
    metric_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting for every metric that has it, such as fill=black or steps=10.",
            rich_help_panel=METRIC,
        ),
    ] = None,
    value: Annotated[
        str,
        typer.Option(
            help="What metrics look at: probability, logit, log-probability, margin.",
            rich_help_panel=METRIC,
        ),
    ] = "probability",
    train: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Training images with labels, for the metrics roar and data-randomisation.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    train_labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Their labels.", rich_help_panel=TRAINING),
    ] = None,
    train_count: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="At most so many of them, spread; they are held in memory.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    retrain: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="How: scratch (epochs, rate, batch_size, decay), fine-tune (steps, rate, "
            "batch_size) or last-layer (penalty). [default: scratch:epochs=20]",
            rich_help_panel=TRAINING,
            show_default=False,
        ),
    ] = None,
    permuted: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Weights of the network after training on permuted labels; trained here, on "
            "--train, if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(help="Of the intervals.", rich_help_panel=METRIC),
    ] = 0.95,
    draws: Annotated[
        int,
        typer.Option(
            min=1,
            help="Resamples of the bootstrap.",
            rich_help_panel=METRIC,
        ),
    ] = 1000,
    seed: Annotated[
        int,
        typer.Option(help="Of the bootstrap.", rich_help_panel=METRIC),
    ] = 0,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images of a cell, which is what is lost at most when it is stopped.",
        ),
    ] = 16,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for report.html, evaluation.json, values.csv, table.csv, "
            "comparisons.csv and table.md.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("evaluation"),
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge attributions, ours or anyone's: methods x metrics x networks on some images.

    Random, constant and edge maps stand in every table. A method is called better than its
    metric's control, or than another method, only where the bootstrap interval of the difference,
    image by image, lies on one side of zero. Work is kept as it is done; --resume goes on.
    """
    from whence.recipes.evaluate import evaluate as run
    from whence.recipes.evaluate_request import EvaluationRequest, load_request
    from whence.recipes.load import pairs
    from whence.recipes.rehearsal import rehearse, work_on
    from whence.recipes.transfer_request import named_texts, network_lines

    refuse_file(source)
    lines = network_lines(
        model or (),
        [own(text, model or ()) for text in weights or ()],
        classes or (),
        input_ or (),
        (),
    )
    request = EvaluationRequest(
        networks=lines,
        data=source,
        labels=labels,
        masks=masks,
        methods=named_texts(method) if method else None,
        metrics=named_texts(metric) if metric else None,
        controls=tuple(control) if control else None,
        maps=dict(pairs(maps or (), "theirs=maps.npy")),
        method_settings=dict(pairs(set_ or (), "steps=64")),
        metric_settings=dict(pairs(metric_set or (), "fill=black")),
        target=int(target) if target.lstrip("-").isdecimal() else target,
        value=value,
        count=count,
        batch_size=batch_size,
        train=train,
        train_labels=train_labels,
        train_count=train_count,
        retrain=retrain,
        permuted=dict(
            pairs([own(text, model or ()) for text in permuted or ()], "resnet=permuted.pt")
        ),
        confidence=confidence,
        draws=draws,
        seed=seed,
        device=device,
        download=download,
    )
    loaded = load_request(request)

    def evaluated(at: Path, some: int, images: int, progress: Report) -> "EvaluationRecord":
        settings = {**request.settings(), "count": some}
        if some < images and train_count is not None:
            settings["train_count"] = max(FEWEST, train_count * some // images)
        return run(
            loaded.models,
            loaded.data,
            maps=loaded.maps,
            masks=loaded.masks,
            train=loaded.train,
            permuted=loaded.permuted,
            bootstrap=request.bootstrap,
            out=at,
            resume=resume and at == out,
            overwrite=overwrite,
            command=command_line(),
            progress=progress,
            **settings,
        )

    if dry_run:
        first = next(iter(loaded.data.values()))
        size = min(count, len(first))
        found = rehearse(
            lambda some, at: evaluated(at / "evaluation", some, size, unseen),
            size,
            work=work_on(next(iter(loaded.models.values())).module, first),
            least=FEWEST,
            batch=batch_size,
        )
        show_cost(found, out, as_json=as_json)
        return
    try:
        with bars(quiet=as_json) as progress:
            record = evaluated(out, count, count, progress)
    except KeyboardInterrupt as stop:
        kept = len(list((out / "cells").glob("*.json")))
        typer.echo(
            f"\nStopped. {kept} finished cells are kept in {out}; go on with the same command "
            f"and --resume.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from stop
    if as_json:
        say_json(overview(record, out))
    else:
        show(record, out, verbose=verbose)


def refuse_file(source: str) -> None:
    """Refuse a file of settings in the place of images, and say where it goes.

    Raises:
        SettingError: It is one.
    """
    from whence.errors import SettingError

    if source.lower().endswith(".toml"):
        msg = f"{source} is a file of settings; give it as --config {source}."
        raise SettingError(msg)


def own(text: str, models: list[str] | tuple[str, ...]) -> str:
    """Return a weight file with the name of the network before it, if there is only one."""
    from whence.recipes.transfer_request import split_name

    if len(models) != 1:
        return text
    name = split_name(models[0])[0]
    return text if text.startswith(f"{name}=") else f"{name}={text}"


def overview(record: "EvaluationRecord", place: Path) -> dict[str, Any]:
    """Return what an evaluation found, without the values of images, as a program reads it."""
    from dataclasses import asdict

    return {
        "out": str(place),
        "report": str(place / "report.html"),
        "data": record.data.name,
        "images": len(record.images),
        "confidence": record.confidence,
        "networks": [
            {
                "name": one.name,
                "model": one.card.name,
                "fingerprint": one.card.fingerprint,
                "accuracy": one.accuracy,
            }
            for one in record.networks
        ],
        "methods": [asdict(one) for one in record.methods],
        "metrics": [asdict(one) for one in record.metrics],
        "scores": [
            {
                "network": one.network,
                "metric": one.metric,
                "method": one.method,
                "estimate": None if one.estimate is None else asdict(one.estimate),
                "difference": None if one.difference is None else asdict(one.difference),
                "rank": record.ranks(one.network, one.metric).get(one.method),
                "verdict": one.verdict,
                "reason": one.reason,
                "undefined": one.undefined,
            }
            for one in record.scores
        ],
        "comparisons": [asdict(one) for one in record.comparisons],
        "agreements": [
            {
                "metric": one.metric,
                "first": list(one.first),
                "second": list(one.second),
                "estimate": None if one.estimate is None else asdict(one.estimate),
            }
            for one in record.agreements
        ],
        "notes": list(record.notes),
        "seconds": record.run.seconds,
    }


def show(record: "EvaluationRecord", place: Path, *, verbose: bool) -> None:
    """Print the table of each network, and what does not apply."""
    from whence.report.evaluation_pairs import pair_lines
    from whence.report.evaluation_tables import (
        agreement_rows,
        overtaken,
        refusals,
        silences,
        summary_rows,
    )

    number = len(record.images)
    say(f"{number} {'image' if number == 1 else 'images'} of {record.data.name}")
    for network in record.networks:
        told = "" if network.accuracy is None else f", accuracy {100 * network.accuracy:.1f} %"
        say(f"\n{bold(network.name)}{told}")
        head, rows = summary_rows(record, network.name)
        say(table(rows, head))
        lines = pair_lines(record, network.name)
        if lines:
            say(faint("\nMethod against method"))
        for line in lines:
            say(line)
    if record.agreements:
        say(f"\n{bold('Agreement')}")
        say(table(agreement_rows(record)[:SHOWN], ("metric", "first", "second", "mean")))
    say(
        faint(
            "\n+ better than the metric's control, - worse, ? no claim; "
            f"{100 * record.confidence:g} % bootstrap intervals are in the report"
        )
    )
    lines = [*silences(record), *refusals(record), *record.notes, *overtaken(record)]
    for line in lines if verbose else lines[:SHOWN]:
        say(faint(line))
    if len(lines) > SHOWN and not verbose:
        say(faint(f"and {len(lines) - SHOWN} more lines of this kind, in the report"))
    if verbose:
        say(f"{sum(record.run.seconds.values()):.2f} s")
    say(f"\n{bold('Report')}  {place / 'report.html'}")
