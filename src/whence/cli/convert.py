"""`whence convert`: a model becomes an X-DNN, in a file with its certificate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.console import bold, faint, say, say_json
from whence.cli.describe import noise_for
from whence.cli.options import (
    OUTPUT,
    Classes,
    Device,
    Download,
    Input,
    Json,
    ModelArgument,
    Overwrite,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from torch import Tensor

    from whence.adapters import LoadedModel
    from whence.convert import Conversion

__all__ = ["convert"]

CALIBRATE = 256
"""Images of a source to which weights and scales are fitted."""


def convert(  # noqa: PLR0913 - one argument for each option
    model: ModelArgument,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="A new file, NAME.safetensors.", rich_help_panel=OUTPUT
        ),
    ],
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to change, in this order; may be given several times. Without it: "
            "strip-biases, scale-batch-norms, activations, guards, attention, gates, norms, "
            "constants. Others: uncentred-batch-norms, drop-constants, homogeneous-coordinate, "
            "norm-wrapper, refit.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images, such as the training set (no labels are needed): weights and scales are "
            "fitted to what the original does on 256 of them (route refit), which keeps most of "
            "the accuracy. Noise without refit if not given.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Change a copy of a model until it is an X-DNN, and write it with its certificate.

    On an X-DNN input times gradient is axiomatic, in one pass. The changes cost accuracy that a
    short fine-tune gives back; only homogeneous-coordinate changes nothing at all. The file holds
    weights, graph and certificate, and can be loaded without the model's source.
    """
    del verbose
    import warnings

    from whence.convert import converted, routes_named, save_x_dnn
    from whence.convert.files import free_place
    from whence.convert.report import DivergenceWarning
    from whence.errors import UnsupportedOperation
    from whence.recipes import load_subject

    routes = routes_named(route or ())
    if images is not None and not route:
        routes = (*routes, *routes_named(["refit"]))
    place = free_place(out, overwrite=overwrite)
    loaded = load_subject(
        model,
        weights=weights,
        classes=classes,
        settings=input_ or (),
        device=device,
        download=download,
    )
    shown = images_for(loaded, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # the report says it, and is shown
        made = converted(loaded.module, shown, routes=routes)
    if not made.report.holds:
        msg = f"The model could not be made an X-DNN, so nothing was written.\n{made.report}"
        raise UnsupportedOperation(msg)
    certificate = save_x_dnn(
        made.model,
        taken(made, shown),
        place,
        changes=made.report.changes,
        classes=loaded.classes,
        preprocessing=loaded.preprocessing.describe(),
        overwrite=overwrite,
    )
    if as_json:
        say_json(document(loaded.name, place, made, certificate))
        return
    say(bold(loaded.name))
    say(str(made.report))
    say(f"\nWritten to {bold(str(place))} with its certificate.")
    if images is None:
        say(
            faint("Tested on noise; with --images SOURCE weights are fitted to what the model did.")
        )


def images_for(loaded: "LoadedModel", source: str | None) -> "Tensor":
    """Return the first images of a source, spread over it, or noise."""
    if source is None:
        return noise_for(loaded)
    import torch

    from whence.recipes import load_images
    from whence.recipes.load import spread

    data = load_images(source, loaded)
    batches = data.batches(CALIBRATE, spread(len(data), CALIBRATE))
    found = torch.cat([batch.images for batch in batches])
    place = next((p.device for p in loaded.module.parameters()), found.device)
    return found.to(place)


def taken(made: "Conversion", images: "Tensor") -> "Tensor":
    """Return the images as the converted model takes them: some routes add a channel."""
    from whence.convert import with_coordinate

    extra = made.network.shape[0] - images.shape[1]
    return with_coordinate(images) if extra else images


def document(
    name: str,
    place: Path,
    made: "Conversion",
    certificate: Any,  # noqa: ANN401 - any JSON
) -> dict[str, Any]:
    """Return what was done as JSON."""
    report = made.report
    return {
        "model": name,
        "file": str(place),
        "holds": report.holds,
        "kept": report.kept,
        "energy_share": report.energy_share,
        "bias_mass": None if report.bias_mass is None else list(report.bias_mass),
        "changes": [
            {"path": c.path, "what": c.what, "parameters": c.parameters} for c in report.changes
        ],
        "scales": [{"path": s.path, "before": s.before, "after": s.after} for s in report.scales],
        "diverging": [s.path for s in report.diverging],
        "certificate": dict(certificate),
    }
