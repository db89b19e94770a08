"""The program: its commands, and how it ends."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from whence import __version__
from whence.cli import index
from whence.cli.audit import audit
from whence.cli.completion import completed
from whence.cli.config import configured
from whence.cli.convert import convert
from whence.cli.demo import demo
from whence.cli.describe import describe
from whence.cli.doctor import doctor
from whence.cli.evaluate import evaluate
from whence.cli.explain import explain
from whence.cli.fit import fit
from whence.cli.fix import fix
from whence.cli.guard import guarded
from whence.cli.homogeneity import homogeneity
from whence.cli.methods import methods
from whence.cli.metrics import metrics
from whence.cli.transfer import transfer
from whence.cli.verify import verify
from whence.cli.view import view

__all__ = ["app", "main"]

RUNS: tuple[Callable[..., Path | None], ...] = (
    audit,
    explain,
    evaluate,
    transfer,
    convert,
    fit,
    fix,
    verify,
    demo,
)
"""Commands whose options can be saved to a file and taken from one."""
COMMANDS: tuple[Callable[..., Path | None], ...] = (
    audit,
    explain,
    methods,
    evaluate,
    metrics,
    describe,
    homogeneity,
    convert,
    fit,
    fix,
    verify,
    transfer,
    demo,
    view,
    doctor,
)

SIGNALLED = 128
"""What a shell adds to the number of the signal that ended a program."""

app = typer.Typer(
    name="whence",
    help="Where does a vision model's prediction come from: which pixels, which training images, "
    "and which pixels of those training images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
"""All commands, as Typer runs them; ``main`` is what the program calls."""


def flowing(text: str) -> str:
    """Return a docstring with one line for each paragraph, to be wrapped by the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


for command in COMMANDS:
    completed(command)
    made = configured(command, command.__name__) if command in RUNS else command
    app.command(name=command.__name__, help=flowing(command.__doc__ or ""))(guarded(made))

index_app = typer.Typer(
    name="index",
    help="The gradients of a training set: stored once, then asked where predictions come from.",
    no_args_is_help=True,
)
for part in index.COMMANDS:
    completed(part)
    made = configured(part, f"index {part.__name__}") if part in index.RUNS else part
    index_app.command(name=part.__name__, help=flowing(part.__doc__ or ""))(guarded(made))
app.add_typer(index_app)


def show_version(wanted: bool) -> bool:
    """Print the version and end, if that is wanted."""
    if wanted:
        typer.echo(f"whence {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=show_version, is_eager=True),
    ] = False,
) -> None:
    """Take the options that stand before a command."""
    del version


def main() -> None:
    """Run the program: 0 all is well, 1 an error of whence, 2 wrong usage, 130 Ctrl-C.

    A program that is told to end, or whose terminal closes, tidies up first, as after Ctrl-C.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
    app()


def stop(number: int, frame: FrameType | None) -> None:
    """End with what a shell expects of a program that a signal ended."""
    del frame
    raise SystemExit(SIGNALLED + number)
