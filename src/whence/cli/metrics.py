"""`whence metrics`: what judges attributions, and how to read it."""

from typing import Annotated, Any

import typer

from whence.cli.console import bold, faint, say, say_json, table
from whence.cli.options import Json, Verbose

__all__ = ["metrics"]


def metrics(
    name: Annotated[
        str | None,
        typer.Argument(metavar="METRIC", help="Show this metric's settings.", show_default=False),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the metrics of `whence evaluate` with direction, range, chance and reference."""
    del verbose
    from whence.evaluation.catalogue import METRICS, TRAINED, metric_settings

    chosen = (*METRICS, *TRAINED) if name is None else (name,)
    found = {one: {**card(one), "settings": metric_settings(one)} for one in chosen}
    if as_json:
        listed = [{"name": key, **value} for key, value in found.items()]
        say_json(listed if name is None else listed[0])
        return
    for one, told in found.items():
        say(bold(one) + faint(f"  {told['group']}"))
        say(
            table(
                [
                    ("  measures", told["says"]),
                    ("  better", told["better"]),
                    ("  range", f"{bound(told['low'])} to {bound(told['high'])}"),
                    ("  chance", told["chance"]),
                    ("  control", told["control"]),
                    ("  needs", told["needs"]),
                    ("  reference", told["reference"]),
                ]
            )
        )
    if name is not None:
        say(f"\n{bold('Settings')}, behind a colon ({name}:key=value) or with --metric-set")
        say(table(list(found[name]["settings"].items()) or [("none", "")]))
    else:
        say(faint("\nSettings: whence metrics NAME"))


def bound(value: float) -> str:
    """Return an end of a range."""
    if value - value != 0:
        return "unbounded"
    return f"{value:g}"


def card(name: str) -> dict[str, Any]:
    """Return what is known of a metric.

    Raises:
        SettingError: There is none of this name.
    """
    from dataclasses import asdict

    from whence.evaluation.catalogue import entry_named, metric_named

    made = asdict(metric_named(name).card)
    entry = entry_named(name)
    return {
        "group": entry.group,
        "form": entry.form,
        "needs": entry.needs,
        "says": entry.says,
        "control": entry.control if made["better"] != "neither" else "none",
        "reads": entry.reads if entry.form == "function" else "",
        "usual": entry.usual,
        **made,
    }
