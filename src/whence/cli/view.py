"""`whence view`: a result folder as live pages on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.console import bold, faint, say
from whence.cli.options import (
    MODEL,
    Device,
    Download,
    NamedClasses,
    NamedInputs,
    NamedModels,
    NamedWeights,
    Verbose,
)

if TYPE_CHECKING:
    from whence.recipes.live import LiveModels

__all__ = ["view"]

FINE = 200
"""The status of an answer that is what was asked for."""

DATA = "Data"


def view(  # noqa: PLR0913 - one argument for each option
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="What a command wrote: an audit, an explanation, an evaluation, a study of "
            "transfer, a training, a fix, a verification, an index.",
            show_default=False,
        ),
    ],
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 takes any free one.")
    ] = 8000,
    get: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Print one page (/, /audit.json, /figures/image-1.png) and end; needs no port.",
            show_default=False,
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Explain pictures on request, with the network and the data that the audit's "
            "run.toml names; this runs the model's code, so do it for folders of your own.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    model: NamedModels = None,
    weights: NamedWeights = None,
    classes: NamedClasses = None,
    input_: NamedInputs = None,
    download: Download = False,
    device: Device = "cpu",
    train: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Training images, to trace predictions to.",
            rich_help_panel=DATA,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Images to choose from.", rich_help_panel=DATA),
    ] = None,
    train_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the training images.", rich_help_panel=DATA),
    ] = None,
    test_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the test images.", rich_help_panel=DATA),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Show a result in the browser, on this machine only, until Ctrl-C.

    With a network (--model, or --live for the audited one) pictures can be explained, compared
    and traced to training images; an audit's findings can be accepted and rejected anyway.
    """
    del verbose
    from whence.viewer import get as page
    from whence.viewer import serve

    given: dict[str, Any] = {
        "model": model,
        "weights": weights,
        "classes": classes,
        "input_": input_,
        "train": train,
        "test": test,
        "train_labels": train_labels,
        "test_labels": test_labels,
    }
    networks = live_models(folder, given, live=live, device=device, download=download)
    if get is None:
        serve(folder, port, live=networks, ready=announce)
        return
    answer = page(folder, get, networks)
    if answer.status != FINE:
        typer.echo(answer.body.decode("utf-8", "replace").rstrip(), err=True)
        raise typer.Exit(1)
    sys.stdout.buffer.write(answer.body)


def live_models(
    folder: Path, given: dict[str, Any], *, live: bool, device: str, download: bool
) -> "LiveModels | None":
    """Return the networks and data to explain with; None where none are asked for."""
    from whence.errors import SettingError

    if not live and not given["model"]:
        alone = [name for name, value in given.items() if value]
        if alone:
            msg = f"--{alone[0].strip('_').replace('_', '-')} is for a network: give --model too."
            raise SettingError(msg)
        return None
    from whence.cli.evaluate import own
    from whence.recipes.live_load import load_live
    from whence.recipes.transfer_request import network_lines
    from whence.results import load_audit

    kept = remembered(folder) if live else {}
    models = given["model"] or [kept["model"]]
    if given["model"]:
        kept = {key: kept.get(key) for key in ("train", "test", "train_labels", "test_labels")}
    chosen = {key: value or kept.get(key) for key, value in given.items()}
    weights = chosen["weights"] or ()
    files = [str(weights)] if isinstance(weights, Path) else list(weights)
    classes = chosen["classes"] or ()
    return load_live(
        network_lines(
            models,
            [own(text, models) for text in files],
            [str(classes)] if isinstance(classes, Path) else list(classes),
            list(chosen["input_"] or ()),
            (),
        ),
        train=chosen["train"],
        test=chosen["test"],
        train_labels=chosen["train_labels"],
        test_labels=chosen["test_labels"],
        device=device if device != "cpu" else kept.get("device") or device,
        download=download or bool(kept.get("download")),
        score=kept.get("score") or "grad-cos",
        count=kept.get("k") or 5,
        audited=load_audit(folder) if (folder / "audit.json").is_file() else None,
        same=live and not given["model"],
    )


def remembered(folder: Path) -> dict[str, Any]:
    """Return the options of the audit that wrote a folder.

    Raises:
        SettingError: It does not say them.
    """
    from whence.cli.audit import audit
    from whence.cli.config import RUN_FILE
    from whence.cli.entries import entries_of
    from whence.cli.run_file import COMMAND, read_config
    from whence.cli.toml import read_toml
    from whence.errors import SettingError

    path = folder / RUN_FILE
    if not path.is_file():
        msg = (
            f"{folder} has no {RUN_FILE} that names its network, as `whence audit` writes it. "
            f"Give --model, and --train and --test for more."
        )
        raise SettingError(msg)
    if read_toml(path)[0].get(COMMAND) == "demo":
        data = folder / "data.npz"
        return {
            "model": f"{folder / 'network.py'}:network",
            "train": f"{data}#train",
            "test": f"{data}#test",
        }
    return read_config(path, entries_of(audit), "audit")[0]


def announce(address: str) -> None:
    """Say where the pages are."""
    say(f"{bold('Viewer')}  {address}  {faint('Ctrl-C ends it')}")
