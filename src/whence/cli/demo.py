"""`whence demo`: an audit of a network whose faults are known."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.audit_summary import overview, show_audit
from whence.cli.console import bars, bold, command_line, faint, say, say_json, table
from whence.cli.options import OUTPUT, Json, Verbose

if TYPE_CHECKING:
    from whence.recipes import Demonstration

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to write.", rich_help_panel=OUTPUT)
    ] = Path("demo-audit"),
    seed: Annotated[int, typer.Option(help="Of the data, the network and its training.")] = 0,
    score: Annotated[
        str,
        typer.Option(metavar="NAME", help="How gradients become scores; as in whence audit."),
    ] = "grad-cos",
    overwrite: Annotated[
        bool,
        typer.Option(help="Replace an earlier demonstration.", rich_help_panel=OUTPUT),
    ] = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Plant a shortcut and wrong labels in handwritten digits, train on them, and audit.

    Needs no data, no internet and less than a minute. The audit is told nothing of what was
    planted; what it finds is then held against the truth.
    """
    from whence.recipes import demonstrate

    with bars(quiet=as_json) as progress:
        shown = demonstrate(
            out,
            seed=seed,
            score=score,
            overwrite=overwrite,
            command=command_line(),
            progress=progress,
        )
    if as_json:
        say_json({**figures(shown), "audit": overview(shown.record, out)})
        return
    say(bold("What was planted"))
    digits = shown.digits
    say(
        table(
            [
                (
                    "  shortcut",
                    (
                        f"a red patch in {len(digits.carriers)} training images of class "
                        f"{digits.shortcut}, on {100 * digits.area:.1f} % of the area"
                    ),
                ),
                ("  labels", f"{len(digits.flipped)} training images have a wrong label"),
                ("  probes", f"{len(digits.probes)} test images of other classes have the patch"),
            ]
        )
    )
    say(f"\n{bold('What the audit says')}")
    show_audit(shown.record, out, verbose=verbose)
    say(f"\n{bold('Held against the truth')}")
    say(table([(f"  {label}", value) for label, value in verdict(shown)]))
    say(faint("  figures of one seed; try another: whence demo --seed 1"))
    given = f"--model {out}/network.py:network --train {out}/data.npz#train"
    say(f"\n{bold('Put it right')}")
    say(f"  accept findings in {out / 'findings.toml'}, or with --accept, then")
    say(f"  whence fix {out} {given} --accept shortcut-1 --out fixed")
    say(f"  whence verify {out} fixed {given} --test {out}/data.npz#test --out verified")


def figures(shown: "Demonstration") -> dict[str, Any]:
    """Return the comparison with the truth, as a program reads it."""
    return {
        "test_accuracy": shown.accuracy,
        "probes_taken_for_the_shortcut": shown.fooled,
        "proponents_with_the_patch": shown.carriers,
        "patch_area": shown.digits.area,
        "patch_mass": shown.with_patch.mass,
        "patch_ratio": shown.with_patch.ratio,
        "patch_ratio_all_proponents": shown.all_maps.ratio,
        "patch_is_a_marked_region": shown.region,
        "flipped_labels": len(shown.digits.flipped),
        "flipped_label_precision": shown.precision,
    }


def verdict(shown: "Demonstration") -> list[tuple[str, str]]:
    """Return the comparison with the truth in words."""
    with_patch, every = shown.with_patch, shown.all_maps
    return [
        ("test accuracy", f"{100 * shown.accuracy:.1f} % of the test images without the patch"),
        (
            "shortcut learnt",
            f"{100 * shown.fooled:.0f} % of the probes are taken for class {shown.digits.shortcut}",
        ),
        (
            "training images",
            (
                f"{100 * shown.carriers:.0f} % of the top proponents of these predictions carry "
                f"the patch"
            ),
        ),
        (
            "training features",
            (
                f"the patch holds {100 * with_patch.mass:.1f} % of the positive mass of their maps "
                f"on {100 * with_patch.area:.1f} % of the area: {with_patch.ratio:.1f} times its "
                f"share ({with_patch.maps} maps; {every.ratio:.1f} times over all {every.maps} "
                f"proponents)"
            ),
        ),
        (
            "region",
            "the patch is one of the marked regions"
            if shown.region
            else "the patch is not among the marked regions",
        ),
        (
            "wrong labels",
            (
                f"{100 * shown.precision:.0f} % of the first {len(shown.digits.flipped)} flagged "
                f"images were flipped (precision {shown.precision:.2f})"
            ),
        ),
    ]
