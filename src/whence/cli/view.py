"""`whence view`: a result folder as live pages on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from whence.cli.console import bold, faint, say
from whence.cli.options import Verbose

__all__ = ["view"]

FINE = 200
"""The status of an answer that is what was asked for."""


def view(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="What a command wrote: an audit, an explanation, an evaluation, a study of "
            "transfer, a training, an index.",
            show_default=False,
        ),
    ],
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
    verbose: Verbose = False,
) -> None:
    """Show a result in the browser, on this machine only, until Ctrl-C."""
    del verbose
    from whence.viewer import get as page
    from whence.viewer import serve

    if get is None:
        serve(folder, port, ready=announce)
        return
    answer = page(folder, get)
    if answer.status != FINE:
        typer.echo(answer.body.decode("utf-8", "replace").rstrip(), err=True)
        raise typer.Exit(1)
    sys.stdout.buffer.write(answer.body)


def announce(address: str) -> None:
    """Say where the pages are."""
    say(f"{bold('Viewer')}  {address}  {faint('Ctrl-C ends it')}")
