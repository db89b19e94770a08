"""`whence verify`: a network before and after a fix, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whence.cli.console import bars, bold, command_line, say, say_json
from whence.cli.options import (
    METHOD,
    OUTPUT,
    Classes,
    Download,
    Input,
    Json,
    Model,
    Overwrite,
    Set,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whence.results.verify import VerifyRecord

__all__ = ["verify"]

DATA, CHOICE = "Data", "How much to look at"


def verify(  # noqa: PLR0913 - one argument for each option
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="The folder of the audit.")],
    fixed: Annotated[
        Path, typer.Argument(metavar="FIXED", help="The folder that `whence fix` wrote.")
    ],
    *,
    model: Model,
    train: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="The training images of the audit.", rich_help_panel=DATA
        ),
    ],
    test: Annotated[
        str, typer.Option(metavar="SOURCE", help="Labelled test images.", rich_help_panel=DATA)
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for verify.html, verify.json, verify.csv and verify.md.",
            rich_help_panel=OUTPUT,
        ),
    ],
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    train_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the training images.", rich_help_panel=DATA),
    ] = None,
    test_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the test images.", rich_help_panel=DATA),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="Further labelled images, such as some known to be free of the shortcut; may be "
            "given several times.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    test_masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the region is in each test image: .npy, 1 inside, (n, h, w).",
            rich_help_panel=DATA,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How pixels are attributed; see `whence methods`. By default integrated "
            "gradients, which the prior did not use.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    set_: Set = None,
    score: Annotated[
        str, typer.Option(metavar="NAME", help="As for `whence audit`.", rich_help_panel=METHOD)
    ] = "grad-cos",
    count: Annotated[
        int, typer.Option(min=1, help="Planted images, at most.", rich_help_panel=CHOICE)
    ] = 500,
    maps: Annotated[
        int,
        typer.Option(
            min=1, help="Images that are attributed, at most, of each kind.", rich_help_panel=CHOICE
        ),
    ] = 40,
    queries: Annotated[
        int,
        typer.Option(
            min=1,
            help="Predictions that are traced to training images, at most.",
            rich_help_panel=CHOICE,
        ),
    ] = 16,
    k: Annotated[
        int,
        typer.Option("--k", "-k", min=1, help="Proponents of each.", rich_help_panel=CHOICE),
    ] = 5,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", rich_help_panel=CHOICE)] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> Path:
    """Show a network before and after a fix, side by side, with intervals.

    Accuracy, also with the shortcut planted on other classes; attributions and training-feature
    maps in its region; homogeneity; faithfulness; and the influence of the images left out.
    """
    del verbose
    from whence.attribution import method_named
    from whence.influence import scorer_named
    from whence.recipes import load_case, load_images, load_subject
    from whence.recipes import verify as run
    from whence.recipes.load import pairs

    loaded = load_subject(
        model, weights=weights, classes=classes, settings=input_ or (), download=download
    )
    case = load_case(loaded, train, test, train_labels=train_labels, test_labels=test_labels)
    units = loaded.preprocessing.normalisation
    how = (
        None
        if method is None and not set_
        else method_named(
            method or "integrated-gradients", pairs(set_ or (), "steps=64"), normalisation=units
        )
    )
    others = {
        name: load_images(source, case.model)
        for name, source in pairs(also or (), "conflicting=photos/").items()
    }
    with bars(quiet=as_json) as progress:
        record = run(
            audit,
            case.model,
            fixed,
            case.train,
            case.test,
            out=out,
            also=others,
            test_masks=None if test_masks is None else read_masks(test_masks),
            method=how,
            score=scorer_named(score),
            k=k,
            count=count,
            maps=maps,
            queries=queries,
            seed=seed,
            overwrite=overwrite,
            command=command_line(),
            progress=progress,
        )
    show(record, out, as_json=as_json)
    return out


def read_masks(path: Path) -> "NDArray[np.bool_]":
    """Return masks of a file as truths."""
    from whence.adapters.tables import read_npy

    found: NDArray[np.bool_] = read_npy(path) > 0
    return found


def show(record: "VerifyRecord", out: Path, *, as_json: bool) -> None:
    """Print what can be said, and the figures."""
    from whence.recipes.fit_record import grid
    from whence.results.verify import figure_text

    if as_json:
        say_json({"out": str(out), **plain(record)})
        return
    for text in record.sentences:
        say(f"  {text}")
    rows = [["", "before", "after", "change", "images"]]
    for row in record.rows:
        found = next((f for f in (row.change, row.after, row.before) if f is not None), None)
        rows.append(
            [
                row.name if not row.finding else f"{row.name}, {row.finding}",
                figure_text(row.before, share=row.share),
                figure_text(row.after, share=row.share),
                figure_text(row.change, share=row.share, signed=True),
                "" if found is None else str(found.count),
            ]
        )
    say("\n" + "\n".join(grid(rows, markdown=False)))
    facts = [["", "before", "after"], *([one.name, one.before, one.after] for one in record.facts)]
    say("\n" + "\n".join(grid(facts, markdown=False)))
    for note in record.notes:
        say(f"\n  {note}")
    say(f"\n{bold('Report')}   {out / 'verify.html'}")


def plain(record: "VerifyRecord") -> dict[str, object]:
    """Return the figures as plain values."""
    from dataclasses import asdict

    return {
        "sentences": list(record.sentences),
        "rows": [asdict(row) for row in record.rows],
        "facts": [asdict(one) for one in record.facts],
        "notes": list(record.notes),
    }
