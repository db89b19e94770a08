"""`whence index`: the gradients of a training set, stored once and asked often."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.console import Report, bars, bold, faint, say, say_json, table, unseen
from whence.cli.dry_run import DryRun, show_cost
from whence.cli.options import (
    OUTPUT,
    Classes,
    Device,
    Download,
    Input,
    Json,
    Model,
    Overwrite,
    Resume,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from whence.core import ImageData
    from whence.index import Manifest
    from whence.recipes.index import Answer

__all__ = ["COMMANDS", "RUNS", "build", "describe", "query", "verify"]

DATA, CHOICE = "Data", "What to look at"

Train = Annotated[
    str,
    typer.Option(
        "--train",
        metavar="SOURCE",
        help="Training images: a folder of class folders, .zip, .npz, digits, "
        "torchvision/NAME:ROOT; a split is written behind it: data.npz#train.",
        rich_help_panel=DATA,
    ),
]
TrainLabels = Annotated[
    Path | None,
    typer.Option(
        "--train-labels",
        metavar="FILE",
        help="Labels of the training images.",
        rich_help_panel=DATA,
    ),
]
Folder = Annotated[
    Path, typer.Argument(metavar="INDEX", help="The folder of the index.", show_default=False)
]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")]


def build(  # noqa: PLR0913 - one argument for each option
    *,
    model: Model,
    train: Train,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FOLDER", help="A new folder for the index.", rich_help_panel=OUTPUT
        ),
    ],
    train_labels: TrainLabels = None,
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    parameters: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Gradients are kept of: all, last-block, last-layer, or patterns of names.",
        ),
    ] = "all",
    dimension: Annotated[
        int, typer.Option(min=1, help="Numbers kept of each parameter's gradient, at most.")
    ] = 256,
    spread: Annotated[
        int,
        typer.Option(
            min=0,
            help="0: project both sides of a weight, the cheapest way. 1 or more: form gradients "
            "and add each element to so many sums, which is closer and costs more.",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the projection.")] = 0,
    exact_norms: Annotated[
        bool,
        typer.Option(
            "--exact-norms/--projected-norms",
            help="Divide gradients by their own length, which costs more, or by that of their "
            "projection.",
        ),
    ] = False,
    batch_size: Batch = 32,
    shard_size: Annotated[int, typer.Option(min=1, help="Training images per file.")] = 4096,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Store the projected gradients of a training set, in one pass over it.

    Costs less than one epoch of training. Stop it at any time: --resume goes on.
    """
    del verbose
    from whence.errors import OutputError
    from whence.gradients import Projection, SparseProjection
    from whence.index import begun, cleared
    from whence.recipes import load_images, load_subject
    from whence.recipes.index import build_index
    from whence.recipes.rehearsal import rehearse, some_of, work_on

    if begun(out) and not (resume or overwrite or dry_run):
        msg = (
            f"{out} holds an index already, or the start of one. Go on with it (--resume), replace "
            f"it (--overwrite), or give another folder."
        )
        raise OutputError(msg)
    loaded = load_subject(
        model,
        weights=weights,
        classes=classes,
        settings=input_ or (),
        device=device,
        download=download,
    )
    data = load_images(train, loaded, labels=train_labels)

    def built(images: "ImageData", at: Path, progress: Report) -> "Manifest":
        return build_index(
            loaded,
            images,
            at,
            projection=SparseProjection(dimension=dimension, seed=seed, spread=spread)
            if spread
            else Projection(dimension=dimension, seed=seed, oversampling=2),
            parameters=parameters,
            norms="exact" if exact_norms else "projected",
            batch_size=batch_size,
            shard_size=shard_size,
            progress=progress,
        )

    if dry_run:
        found = rehearse(
            lambda count, at: built(some_of(data, count), at / "index", unseen),
            len(data),
            work=work_on(loaded.module, data),
            batch=batch_size,
        )
        show_cost(found, out, as_json=as_json)
        return
    if overwrite:
        cleared(out)
    with bars(quiet=as_json) as progress:
        manifest = built(data, out, progress)
    if as_json:
        say_json(overview(manifest, out))
        return
    show(manifest, out)
    for name, reason in data.skipped[:5]:
        say(faint(f"left out: {name}: {reason}"))


def query(  # noqa: PLR0913 - one argument for each option
    folder: Folder,
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="Images to ask about: a file, a folder, .zip, .npz.",
            show_default=False,
        ),
    ],
    *,
    model: Model,
    train: Train,
    train_labels: TrainLabels = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Labels of the images, for --true.", rich_help_panel=DATA
        ),
    ] = None,
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    k: Annotated[
        int,
        typer.Option(
            "--k", "-k", min=1, help="Training images for each image.", rich_help_panel=CHOICE
        ),
    ] = 5,
    count: Annotated[
        int, typer.Option(min=1, help="At most so many images, spread.", rich_help_panel=CHOICE)
    ] = 20,
    against: Annotated[
        bool,
        typer.Option(
            "--against/--for",
            help="Training images that speak against, or for, each prediction.",
            rich_help_panel=CHOICE,
        ),
    ] = False,
    true_label: Annotated[
        bool,
        typer.Option(
            "--true/--predicted",
            help="Ask about the images' own labels, or about what the model predicts.",
            rich_help_panel=CHOICE,
        ),
    ] = False,
    score: Annotated[
        str, typer.Option(metavar="NAME", help="grad-cos or grad-dot.", rich_help_panel=CHOICE)
    ] = "grad-cos",
    candidates: Annotated[
        int, typer.Option(min=1, help="Candidates of the index that are scored exactly.")
    ] = 100,
    sample: Annotated[
        int,
        typer.Option(
            min=0, help="Training images drawn to measure the recall of the candidates; 0: none."
        ),
    ] = 200,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    batch_size: Batch = 32,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find the training images behind predictions: candidates from the index, scored exactly.

    Scores are exactly those of `whence audit`: cosines of loss gradients, or their inner products.
    Some more training images are scored to see what the index missed: the recall that is printed.
    """
    del verbose
    from whence.recipes import load_images, load_subject
    from whence.recipes.index import query_index
    from whence.recipes.load import spread

    loaded = load_subject(
        model,
        weights=weights,
        classes=classes,
        settings=input_ or (),
        device=device,
        download=download,
    )
    data = load_images(train, loaded, labels=train_labels)
    asked = load_images(images, loaded, labels=labels)
    with bars(quiet=as_json) as progress:
        answers = query_index(
            loaded,
            data,
            asked,
            folder,
            places=spread(len(asked), count),
            label="true" if true_label else "predicted",
            score=score,
            side="opponents" if against else "proponents",
            k=k,
            candidates=candidates,
            sample=sample,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    names = tuple(data.classes) or loaded.classes
    if as_json:
        say_json([told(answer, names) for answer in answers])
    else:
        show_answers(answers, names)


def verify(  # noqa: PLR0913 - one argument for each option
    folder: Folder,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild damaged shards; needs --model and --train.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model of the index, to repair it.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Its training images, to repair it.")
    ] = None,
    train_labels: TrainLabels = None,
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check every shard of an index by its checksum; with --repair rebuild the damaged ones.

    Ends with 1 if a shard is damaged and was not rebuilt.
    """
    del verbose
    from whence.errors import SettingError
    from whence.recipes import load_images, load_subject
    from whence.recipes.index import verify_index

    loaded = data = None
    if repair:
        if model is None or train is None:
            msg = "--repair needs --model and --train, to make the damaged rows again."
            raise SettingError(msg)
        loaded = load_subject(
            model,
            weights=weights,
            classes=classes,
            settings=input_ or (),
            device=device,
            download=download,
        )
        data = load_images(train, loaded, labels=train_labels)
    damaged = verify_index(folder, model=loaded, train=data)
    if as_json:
        say_json({"index": str(folder), "damaged": list(damaged), "repaired": repair})
    elif not damaged:
        say(f"{folder}: every shard is as it was written.")
    else:
        what = "rebuilt" if repair else "damaged"
        say(f"{folder}: {what}: {', '.join(damaged)}")
    if damaged and not repair:
        raise typer.Exit(1)


def describe(folder: Folder, *, as_json: Json = False, verbose: Verbose = False) -> None:
    """Say what an index holds: of which model and data, in how many files."""
    del verbose
    from whence.index import manifest_of

    manifest = manifest_of(folder)
    if as_json:
        say_json(overview(manifest, folder))
    else:
        show(manifest, folder)


COMMANDS = (build, query, verify, describe)
"""The commands of `whence index`."""
RUNS = (build, query)
"""Those whose options can be saved to a file and taken from one."""


def overview(manifest: "Manifest", folder: Path) -> dict[str, Any]:
    """Return what an index holds, as a program reads it."""
    made = manifest.provenance
    return {
        "index": str(folder),
        "images": manifest.rows,
        "without_gradient": sum(shard.zeros for shard in manifest.shards),
        "numbers": manifest.dimension,
        "bytes": sum(shard.size for shard in manifest.shards),
        "shards": len(manifest.shards),
        "parameters": len(made.parameters),
        "model": made.model,
        "data": made.data,
        "settings": dict(made.settings),
        "code": made.code,
    }


def show(manifest: "Manifest", folder: Path) -> None:
    """Print what an index holds."""
    found = overview(manifest, folder)
    each = found["bytes"] / max(1, found["images"])
    say(bold(str(folder)))
    rows = [
        ("  images", f"{found['images']:,}"),
        ("  numbers per image", f"{found['numbers']:,} of {found['parameters']} parameters"),
        ("  size", f"{found['bytes'] / 1e6:.1f} MB, {each / 1e3:.1f} kB per image"),
        ("  files", f"{found['shards']} shards of at most {manifest.shard_size:,} images"),
        ("  model", str(found["model"])[:16]),
        ("  data", str(found["data"])[:16]),
        ("  settings", ", ".join(f"{n} {v}" for n, v in found["settings"].items())),
        ("  made by", f"whence {found['code']}"),
    ]
    if found["without_gradient"]:
        rows.append(("  without gradient", f"{found['without_gradient']} images, scored 0"))
    say(table(rows))


def told(answer: "Answer", names: tuple[str, ...]) -> dict[str, Any]:
    """Return an answer as a program reads it."""
    return {
        "index": answer.index,
        "name": answer.name,
        "prediction": names[answer.prediction],
        "confidence": answer.confidence,
        "found": [
            {"index": f.index, "name": f.name, "label": names[f.label], "score": f.score}
            for f in answer.found
        ],
        "recall": answer.recall,
        "candidates": answer.candidates,
        "scored": answer.scored,
        "images": answer.rows,
    }


def show_answers(answers: "tuple[Answer, ...]", names: tuple[str, ...]) -> None:
    """Print the training images behind each prediction, and what the index missed."""
    for answer in answers:
        sure = f"{100 * answer.confidence:.0f} %"
        say(bold(answer.name) + f"  predicted {names[answer.prediction]} ({sure})")
        say(table([(f"  {f.score:+.4g}", names[f.label], f.name) for f in answer.found]))
    first = answers[0]
    say(
        faint(
            f"\n{first.candidates} candidates each of {first.rows:,} images; "
            f"{first.scored:,} images scored exactly."
        )
    )
    if first.recall is not None:
        mean = sum(answer.recall or 0.0 for answer in answers) / len(answers)
        whole = first.scored >= first.rows
        among = "the whole training set" if whole else "all that was scored, a random sample too"
        say(f"Recall {mean:.2f}: share of the best {len(first.found)}, among {among}, that the")
        say("index had proposed.")
