"""`whence homogeneity`: does scaling the image scale the logits?"""

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from whence.cli.console import bold, faint, say, say_json, table
from whence.cli.describe import network_of
from whence.cli.options import (
    Classes,
    Device,
    Download,
    Input,
    Json,
    ModelArgument,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from whence.network import Homogeneity, OperationDegree

All: TypeAlias = Annotated[
    bool, typer.Option("--all", help="Show every operation with its degree, not kinds of change.")
]

__all__ = ["homogeneity"]


def homogeneity(
    model: ModelArgument,
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    every: All = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say whether a model is an X-DNN, and if not, which operations break it and the cures.

    On an X-DNN (homogeneous of degree 1) input times gradient is axiomatic, in one pass. Every
    operation's degree is derived from its inputs' degrees; beside this proof stand tests with
    numbers, and what each offender adds to the logit beyond what pixels account for.
    """
    del verbose
    from whence.recipes import load_subject

    loaded = load_subject(
        model,
        weights=weights,
        classes=classes,
        settings=input_ or (),
        device=device,
        download=download,
    )
    found = network_of(loaded).homogeneity()
    if as_json:
        say_json(document(loaded.name, found))
        return
    say(bold(loaded.name))
    if every:
        rows = [
            (
                row.path or "forward",
                row.operation,
                "none" if row.degree is None else f"{row.degree:g}",
                f"{row.gap:+.2e}" if row.gaps else "",
                "" if row.offence is None else f"{row.offence.reason} {row.offence.cure}",
            )
            for row in found.operations
        ]
        say(table(rows, ("module", "operation", "degree", "adds", "why, and what to do")))
        say()
    say(str(found))
    if found.offenders and not every:
        say(faint("\n--all shows every operation; `whence convert MODEL --out FILE` changes them."))


def document(name: str, found: "Homogeneity") -> dict[str, Any]:
    """Return the verdict as JSON."""
    tested = found.certificate
    return {
        "model": name,
        "holds": found.holds,
        "degree": found.degree,
        "first_offender": None if found.first_offender is None else entry(found.first_offender),
        "offenders": [entry(one) for one in found.offenders],
        "needed": [
            {
                "operation": kind.operation,
                "count": len(kind.paths),
                "paths": list(kind.paths),
                "reason": kind.offence.reason,
                "cure": kind.offence.cure,
                "adds": kind.gap,
            }
            for kind in found.needed
        ],
        "operations": [
            {"node": one.node, "operation": one.operation, "path": one.path, "degree": one.degree}
            for one in found.operations
        ],
        "assumes_zero": list(found.assumes),
        "certificate": None
        if tested is None
        else {
            "passes": tested.passes,
            "degree": tested.degree,
            "scale_errors": tested.scale_errors,
            "euler_error": tested.euler_error,
            "at_zero": tested.at_zero,
            "tolerance": tested.tolerance,
            "precision": tested.precision,
            "logits": list(tested.euler.explained),
            "pixels": list(tested.euler.total),
        },
    }


def entry(one: "OperationDegree") -> dict[str, Any]:
    """Return an offender as JSON."""
    return {
        "node": one.node,
        "operation": one.operation,
        "path": one.path,
        "reason": "" if one.offence is None else one.offence.reason,
        "cure": "" if one.offence is None else one.offence.cure,
        "adds": list(one.gaps),
    }
