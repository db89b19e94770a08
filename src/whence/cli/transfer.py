"""`whence transfer`: does one network see what the maps of another show?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.console import Report, bars, bold, command_line, faint, say, say_json, table, unseen
from whence.cli.dry_run import DryRun, show_cost
from whence.cli.guard import INTERRUPTED
from whence.cli.options import (
    METHOD,
    NETWORKS,
    OUTPUT,
    BatchSize,
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
    from whence.results.transfer import TransferRecord

__all__ = ["show_transfer", "transfer"]

DATA = "Data"
FEWEST = 4
"""Images of the smallest rehearsal."""


def transfer(  # noqa: PLR0913 - one argument for each option
    *,
    model: NamedModels = None,
    weights: NamedWeights = None,
    classes: NamedClasses = None,
    input_: NamedInputs = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KIND",
            help="Its kind in the tables; found from its operations if not given.",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    device: Device = "cpu",
    download: Download = False,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Test images with labels: a folder of class folders, .zip, .npz, digits.",
            rich_help_panel=DATA,
        ),
    ] = None,
    test_labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Their labels.", rich_help_panel=DATA),
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Other images: the fill `bank`, and what Soundness Saliency draws from; the test "
            "images if not given.",
            rich_help_panel=DATA,
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where the objects are: .npy, (n, h, w), one for each test image.",
            rich_help_panel=DATA,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=2, help="At most so many images, spread.", rich_help_panel=DATA),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="A method, with settings behind a colon; give several. ss-modified, ss-original, "
            "and all of `whence methods`. [default: these two, and grad-cam]",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    fill: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What stands where a mask is zero: zero (black), mean, blur, bank, white, "
            "uniform, shuffled; give several. [default: the first four]",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    coverage: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the pixels that hard features show; give several. "
            "[default: 0.1, 0.25, 0.5]",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="The class that is explained: predicted (by the generating network), or label.",
            rich_help_panel=METHOD,
        ),
    ] = "predicted",
    seed: Annotated[
        int,
        typer.Option(help="Of all that is drawn.", rich_help_panel=METHOD),
    ] = 0,
    batch_size: BatchSize = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for transfer.json, .csv and .md, report.html, heat.svg and "
            "heat.png. Without it nothing is written.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show every network the features that maps of every network find, and the controls.

    Accuracy, probability of the class and agreement, on soft features and at equal coverage, on
    several fills, beside masks of other images, random smooth masks, and what the masks hide.
    """
    from whence.recipes.rehearsal import rehearse, work_on
    from whence.recipes.transfer import transfer as run
    from whence.recipes.transfer_request import (
        TransferRequest,
        load_masks,
        load_networks,
        named_texts,
        network_lines,
    )

    begun(out, resume=resume, replaced=overwrite or dry_run)

    request = TransferRequest(
        networks=network_lines(
            model or (), weights or (), classes or (), input_ or (), family or ()
        ),
        test=test,
        test_labels=test_labels,
        bank=bank,
        masks=masks,
        methods=named_texts(method) if method else None,
        fills=tuple(fill) if fill else None,
        coverages=tuple(coverage) if coverage else None,
        target=target,
        count=count,
        seed=seed,
        batch_size=batch_size,
        device=device,
        download=download,
    )
    networks, objects = load_networks(request), load_masks(request)

    def transferred(at: Path | None, some: int | None, progress: Report) -> "TransferRecord":
        settings = {**request.settings(), **({} if some is None else {"count": some})}
        return run(
            networks,
            masks=objects,
            out=at,
            overwrite=overwrite,
            command=command_line(),
            progress=progress,
            **settings,
        )

    if dry_run:
        data = networks[0].data
        found = rehearse(
            lambda some, at: transferred(at / "study", some, unseen),
            min(count or len(data), len(data)),
            work=work_on(networks[0].model, data),
            least=FEWEST,
        )
        show_cost(found, out or Path("(nowhere)"), as_json=as_json)
        return
    try:
        with bars(quiet=as_json) as progress:
            record = transferred(out, None, progress)
    except KeyboardInterrupt as stop:
        if out is not None:
            msg = f"What is done is kept in {out}; go on with the same command and --resume."
            typer.echo(f"\nStopped. {msg}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if as_json:
        say_json(overview(record, out))
    else:
        show_transfer(record, out, verbose=verbose)


def begun(out: Path | None, *, resume: bool, replaced: bool) -> None:
    """Refuse a folder that holds something, unless it shall be gone on with or replaced.

    Raises:
        OutputError: It does.
    """
    from whence.errors import OutputError

    if out is None or resume or replaced or not out.is_dir() or not any(out.iterdir()):
        return
    msg = (
        f"{out} holds something already. Go on with a study (--resume), replace it (--overwrite), "
        f"or give another folder."
    )
    raise OutputError(msg)


def overview(record: "TransferRecord", out: Path | None) -> dict[str, Any]:
    """Return what a study found, as a program reads it."""
    from dataclasses import asdict

    whole = asdict(record)
    return {"out": None if out is None else str(out), **whole}


def show_transfer(record: "TransferRecord", out: Path | None, *, verbose: bool) -> None:
    """Print what a study found, in a screenful for each kind of mask."""
    from whence.results.transfer_tables import family_means

    fill = record.fills[0]
    say(f"{record.data.count} images of {record.data.name}, fill {fill}\n")
    rows = [
        (f"  {one.name}", one.family, f"{one.right} of {one.count} right")
        for one in record.networks
    ]
    say(table(rows))
    for mask in record.masks:
        means = family_means(record, mask, fill)
        if not means:
            continue
        say(f"\n{bold(f'{mask} features')}, means over pairs of networks, per cent")
        lines = [
            (
                f"  {one.method}",
                one.pairs,
                told(one.accuracy),
                told(one.probability),
                told(one.agreement),
                told(one.shuffled),
                f"{100 * one.advantage:+.1f}",
                f"{one.clear} of {one.count}",
            )
            for one in means
        ]
        numbers = ("accuracy", "probab.", "agree", "shuffled", "gain", "clear")
        say(table(lines, ("  maps by", "networks", *numbers)))
    say(
        faint(
            "\ngain: accuracy less that behind masks of other images; clear: pairs of networks in "
            "which its 95 % bootstrap interval lies above 0. Intervals of each are in the report."
        )
    )
    for note in record.notes:
        say(faint(f"\n{note}"))
    if verbose:
        say(f"\n{bold('Seconds')}")
        say(table([(f"  {stage}", f"{took:.1f}") for stage, took in record.run.seconds.items()]))
    if out is not None:
        say(f"\n{bold('Report')}  {out / 'report.html'}")


def told(value: float) -> str:
    """Return a share in per cent; a dash where it is undefined."""
    return "-" if value - value != 0 else f"{100 * value:.1f}"
