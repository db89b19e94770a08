"""`whence methods`: what is there, what it costs, what it needs."""

from typing import Annotated

import typer

from whence.cli.console import bold, faint, say, say_json, table
from whence.cli.options import Json, Verbose

__all__ = ["methods"]


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="METHOD", help="Show this method's settings.", show_default=False),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the attribution methods with family, cost, needs and reference."""
    del verbose
    from dataclasses import asdict

    from whence.attribution import cards, settings_of

    if name is not None:
        settings = settings_of(name)
        (card,) = [card for card in cards() if card.name == name]
        if as_json:
            say_json({**asdict(card), "settings": settings})
            return
        say(bold(card.name))
        say(
            table(
                [
                    ("family", card.family),
                    ("passes", card.passes),
                    ("needs", card.needs),
                    ("adds up to", card.complete),
                    ("reference", card.reference),
                ]
            )
        )
        say(f"\n{bold('Settings')}, with --set key=value")
        say(table(list(settings.items())))
        return
    if as_json:
        say_json([{**asdict(card), "settings": settings_of(card.name)} for card in cards()])
        return
    for card in cards():
        say(bold(card.name) + faint(f"  {card.family}"))
        say(
            table(
                [
                    ("  passes", card.passes),
                    ("  needs", card.needs),
                    ("  adds up to", card.complete),
                    ("  reference", card.reference),
                ]
            )
        )
    say(faint("\nA pass is a forward and an input-backward. Settings: whence methods NAME"))
