"""`whence explain`: which pixels of these images does the prediction come from?"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.console import Report, bars, bold, command_line, faint, say, say_json, table, unseen
from whence.cli.dry_run import DryRun, show_cost
from whence.cli.options import (
    METHOD,
    OUTPUT,
    BatchSize,
    Classes,
    Device,
    Download,
    Input,
    Json,
    Method,
    Model,
    Overwrite,
    Set,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from whence.adapters import LoadedModel
    from whence.core import Method as AnyMethod
    from whence.recipes import Explanation

__all__ = ["explain"]


def explain(  # noqa: PLR0913 - one argument for each option
    source: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="An image, or any source of images: a folder, .zip, .npz, digits.",
            show_default=False,
        ),
    ],
    *,
    model: Model,
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    method: Method = "integrated-gradients",
    set_: Set = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="What is explained: predicted, label, or a class by number or name.",
            rich_help_panel=METHOD,
        ),
    ] = "predicted",
    versus: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Explain why not this class instead: runner-up, or a class.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of the images, for --target label."),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images, such as the training set, from which expected-gradients, gradient-shap "
            "and soundness-saliency draw what is seen in place of the image. At most 100, spread "
            "over the source.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="At most so many images, spread over the source.")
    ] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A new folder for report.html, explanation.json, arrays.npz and overlay.png, or "
            "a file name.png for the picture alone. Default: explain-NAME.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Fold batch norms and reorder memory first: the same maps to rounding, sooner.",
            rich_help_panel=METHOD,
        ),
    ] = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> Path:
    """Explain predictions: an attribution map over each image, with figures to trust it by."""
    import torch

    from whence.attribution import method_named
    from whence.recipes import explain as run
    from whence.recipes import load_images, load_subject
    from whence.recipes.load import pairs, spread
    from whence.recipes.rehearsal import rehearse, work_of_a_pass

    place = Path(f"explain-{stem_of(source)}") if out is None else out
    settings = pairs(set_ or (), "steps=64")
    method_named(method, settings)  # what is wrong with it is said before anything is loaded
    with nullcontext() if dry_run else reserved(place, overwrite=overwrite) as folder:
        loaded = load_subject(
            model,
            weights=weights,
            classes=classes,
            settings=input_ or (),
            device=device,
            download=download,
        )
        chosen = method_named(method, settings, normalisation=loaded.preprocessing.normalisation)
        if references is not None:
            chosen = with_references(chosen, references, loaded)
        data = load_images(source, loaded, labels=labels)
        batches = list(data.batches(count, spread(len(data), count)))
        images, known, indices = (
            torch.cat([getattr(batch, part) for batch in batches])
            for part in ("images", "labels", "indices")
        )
        names = [data.name(index) for index in indices.tolist()]

        def explained(count: int, progress: Report) -> "Explanation":
            return run(
                loaded,
                images[:count],
                target=class_of(target, loaded),
                versus=None if versus is None else class_of(versus, loaded),
                method=chosen,
                labels=known[:count] if data.labels is not None else None,
                batch_size=batch_size,
                fast=fast,
                names=names[:count],
                classes=data.classes or None,
                command=command_line(),
                progress=progress,
            )

        if dry_run:
            found = rehearse(
                lambda some, at: write_anew(explained(some, unseen), at / place.name),
                len(images),
                work=work_of_a_pass(loaded.module, images[:1]),
            )
            show_cost(found, place, as_json=as_json)
            return place
        with bars(quiet=as_json) as progress:
            result = explained(len(images), progress)
        written = write(result, place, folder)
    if as_json:
        say_json({**overview(result, written, data.skipped), "target": target, "versus": versus})
    else:
        asked = "" if target == "predicted" else f" of {target}"
        asked += "" if versus is None else f", not {versus}"
        show(result, written, data.skipped, asked=asked, verbose=verbose)
    return place


def stem_of(source: str) -> str:
    """Return what to call the result of a source."""
    return Path(source.partition("#")[0].rpartition(":")[2]).stem or "images"


@contextmanager
def reserved(place: Path, *, overwrite: bool) -> Iterator[Path | None]:
    """Yield a folder that takes its place in the end, or None for a picture alone.

    A place that is taken, or cannot be written, is refused before any work is done.
    """
    from whence.errors import OutputError
    from whence.results import new_folder

    if place.suffix.lower() != ".png":
        with new_folder(place, overwrite=overwrite) as folder:
            yield folder
        return
    if place.exists() and not overwrite:
        msg = f"{place} exists already. Give another name, or --overwrite to replace it."
        raise OutputError(msg)
    yield None


def class_of(text: str, model: "LoadedModel") -> str | int:
    """Return a class by its number or name; other words of the target grammar as they are."""
    if text in ("predicted", "label", "runner-up"):
        return text
    if text in model.classes:
        return model.classes.index(text)
    try:
        return int(text)
    except ValueError:
        from difflib import get_close_matches

        from whence.errors import TargetError

        near = get_close_matches(text, model.classes, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        msg = (
            f"The model has no class {text!r}.{hint} Give predicted, label, a number from 0 to "
            f"{len(model.classes) - 1}, or a name such as {model.classes[0]!r}."
        )
        raise TargetError(msg) from None


REFERENCES = 100
"""Images of a bank: what the methods' papers take."""


def with_references(method: "AnyMethod", source: str, model: "LoadedModel") -> "AnyMethod":
    """Return a method that draws from a bank of images with the bank in its place."""
    from dataclasses import replace

    import torch

    from whence.attribution import (
        ExpectedGradients,
        GradientSHAP,
        References,
        SoundnessSaliency,
    )
    from whence.errors import SettingError
    from whence.recipes import load_images
    from whence.recipes.load import spread

    if not isinstance(method, ExpectedGradients | GradientSHAP | SoundnessSaliency):
        msg = (
            f"--references are for methods that draw from a bank of images: expected-gradients, "
            f"gradient-shap and soundness-saliency; {type(method).__name__} does not. Leave them "
            f"out, or choose one of these with --method."
        )
        raise SettingError(msg)
    data = load_images(source, model)
    batches = data.batches(32, spread(len(data), REFERENCES))
    bank = References(images=torch.cat([batch.images for batch in batches]))
    if isinstance(method, SoundnessSaliency):
        return replace(method, fill=bank)
    return replace(method, references=bank)


def write(result: "Explanation", place: Path, folder: Path | None) -> dict[str, str]:
    """Write the picture, or everything into a folder; return what will lie where."""
    from whence.report import write_explanation
    from whence.results import save_explanation

    if folder is None:
        return {"overlay": str(result.plot(place))}
    save_explanation(result.record, folder)
    result.plot(folder / "overlay.png")
    write_explanation(result.record, folder / "report.html")
    return {
        "out": str(place),
        "report": str(place / "report.html"),
        "overlay": str(place / "overlay.png"),
    }


def write_anew(result: "Explanation", place: Path) -> None:
    """Write everything into a folder, or a picture, that is not there yet."""
    picture = place.suffix.lower() == ".png"
    (place.parent if picture else place).mkdir(parents=True)
    write(result, place, None if picture else place)


def overview(
    result: "Explanation", written: dict[str, str], skipped: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Return what was found, without maps, as a program reads it."""
    names = result.model.classes
    gaps = [None] * len(result.names) if result.gap is None else result.gap.tolist()
    found = [None] * len(result.names) if result.found is None else result.found.tolist()
    return {
        **written,
        "model": {"name": result.model.name, "fingerprint": result.model.fingerprint},
        "method": str(result.method),
        "cost": result.cost,
        "warning": result.warning,
        "images": [
            {
                "name": name,
                "prediction": names[prediction],
                "confidence": confidence,
                "explained": explained,
                "total": total,
                "gap": gap,
                "found": success,
            }
            for name, prediction, confidence, explained, total, gap, success in zip(
                result.names,
                result.predictions.tolist(),
                result.confidences.tolist(),
                result.explained.tolist(),
                result.total.tolist(),
                gaps,
                found,
                strict=True,
            )
        ],
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "seconds": result.run.seconds,
    }


def searched(*, found: bool, blank: bool) -> str:
    """Say how a search ended; an empty map that succeeds needed nothing."""
    if not found:
        return "the search failed"
    return "the search succeeded: nothing is needed" if blank else "the search succeeded"


def show(
    result: "Explanation",
    written: dict[str, str],
    skipped: tuple[tuple[str, str], ...],
    *,
    asked: str,
    verbose: bool,
) -> None:
    """Print what was found: one line per image; ``asked`` says what was explained, if told."""
    from whence.report.words import brief_method

    names = result.model.classes
    rows = []
    for at, name in enumerate(result.names):
        gap = "" if result.gap is None else f"gap {100 * float(result.gap[at]):.2f} %"
        if result.found is not None:
            gap = searched(found=bool(result.found[at]), blank=bool(result.blank[at]))
        elif bool(result.blank[at]):
            gap = "the map is zero everywhere"
        value = float(result.explained[at])
        rows.append(
            (
                name,
                names[int(result.predictions[at])],
                f"{100 * float(result.confidences[at]):.1f} %",
                f"explained{asked} {value:.4g}",
                gap,
            )
        )
    say(table(rows))
    unit = "pass" if result.cost <= 1 else "passes"
    say(faint(f"{brief_method(str(result.method))}, {result.cost:.4g} {unit} per image"))
    if result.warning:
        say(faint(result.warning))
    for name, reason in skipped:
        say(f"Left out {name}: {reason}")
    if verbose:
        say(f"{sum(result.run.seconds.values()):.2f} s")
    say(f"\n{bold('Picture')}  {written['overlay']}")
    if "report" in written:
        say(f"{bold('Report')}   {written['report']}")
