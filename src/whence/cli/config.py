"""A file for every run: what was asked for, saved as TOML and read back as defaults."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import typer

from whence.cli.entries import Entry, entries_of
from whence.cli.guard import complained
from whence.cli.options import OUTPUT
from whence.cli.run_file import NETWORK, config_text, read_config
from whence.errors import OutputError, WhenceError

__all__ = ["RUN_FILE", "configured"]

RUN_FILE = "run.toml"
"""The name under which a result folder holds what was asked for."""

Command = Callable[..., Path | None]


@runtime_checkable
class Context(Protocol):
    """What is used of the command line's context, which Typer passes under several classes."""

    default_map: Any
    meta: dict[str, Any]
    resilient_parsing: bool

    def get_parameter_source(self, name: str) -> Any:  # noqa: ANN401 - its own enumeration
        """Return where a value is from."""
        ...


def configured(command: Command, name: str) -> Callable[..., None]:
    """Return a command with ``--config`` and ``--save-config``.

    The file's keys are the long names of the flags. What is given on the command line wins; for
    an option that may be repeated, it replaces the file's list. The folder that the command
    wrote gets a ``run.toml``.

    Args:
        command: Returns the folder of its result if that is not its ``--out``.
        name: As it is typed, without the program: ``index build``.
    """
    entries = entries_of(command)

    def load(context: Context, value: Path | None) -> Path | None:
        if value is None or context.resilient_parsing:
            return value
        try:
            found, networks = read_config(value, entries, name)
        except WhenceError as error:
            complained(error)
            raise typer.Exit(1) from error
        context.default_map = {**(context.default_map or {}), **found}
        context.meta[NETWORK] = networks
        return value

    @functools.wraps(command)
    def run(
        *,
        context: Context,
        config: Path | None,
        save_config: Path | None,
        **options: Any,  # noqa: ANN401 - any command's options
    ) -> None:
        del config  # its callback has read it
        source = context.get_parameter_source("model")
        if source is not None and source.name == "COMMANDLINE":
            for one in context.meta.get(NETWORK, ()):
                given = context.get_parameter_source(one)
                if given is not None and given.name == "DEFAULT_MAP":
                    options[one] = None  # said of the file's networks, not of these
        if save_config is not None:
            save(options, entries, name, save_config, overwrite=bool(options.get("overwrite")))
        made = command(**options)
        folder = options.get("out") if made is None else made
        if folder is not None and not options.get("dry_run") and Path(folder).is_dir():
            from whence.results.folder import write_whole

            text = config_text(options, entries, name, Path(folder))
            write_whole(Path(folder) / RUN_FILE, text.encode())

    offer(run, command, load)
    return run


def offer(
    run: Callable[..., None],
    command: Command,
    load: Callable[[Context, Path | None], Path | None],
) -> None:
    """Give a function the signature of a command and the two options."""
    config = Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Take options from a TOML file, under the flags' long names; those given beside "
            "it win.",
            rich_help_panel=OUTPUT,
            callback=load,
            is_eager=True,
        ),
    ]
    save_config = Annotated[
        Path | None,
        typer.Option(
            "--save-config",
            metavar="FILE",
            help="Write all options of this run to a TOML file for --config.",
            rich_help_panel=OUTPUT,
        ),
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(command).parameters.values())
    added = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *(one.replace(kind=keyword) for one in own),
        inspect.Parameter("config", keyword, default=None, annotation=config),
        inspect.Parameter("save_config", keyword, default=None, annotation=save_config),
    ]
    run.__signature__ = inspect.Signature(added)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in added}


def save(
    options: Mapping[str, Any],
    entries: Sequence[Entry],
    name: str,
    path: Path,
    *,
    overwrite: bool,
) -> None:
    """Write the options of a run to a file; another file is replaced only if told to."""
    from whence.results.folder import write_whole

    if path.exists() and not overwrite:
        msg = f"{path} exists already. Give another name, or --overwrite to replace it."
        raise OutputError(msg)
    write_whole(path, config_text(options, entries, name, path.parent).encode())
    typer.echo(f"Options saved to {path}", err=True)
