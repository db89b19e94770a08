"""The options that commands share, each with one name everywhere."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = [
    "BatchSize",
    "Classes",
    "Device",
    "Download",
    "Input",
    "Json",
    "Method",
    "Model",
    "ModelArgument",
    "NamedClasses",
    "NamedInputs",
    "NamedModels",
    "NamedWeights",
    "Overwrite",
    "Resume",
    "Set",
    "Verbose",
    "Weights",
]

MODELS = (
    "torchvision/NAME, timm/NAME, transformers/FOLDER, package.module:factory or "
    "path/to/file.py:factory"
)
MODEL, OUTPUT, METHOD = "Model", "Output", "Method"
NETWORKS = "Networks"

Model: TypeAlias = Annotated[
    str, typer.Option("--model", metavar="MODEL", help=f"{MODELS}.", rich_help_panel=MODEL)
]
ModelArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="MODEL", help=f"{MODELS}.", show_default=False)
]
Weights: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Local weights (.safetensors, .pt).",
        rich_help_panel=MODEL,
    ),
]
Download: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--download", help="Let the library fetch its own weights.", rich_help_panel=MODEL
    ),
]
Classes: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="Class names, one per line, in the order of the outputs.",
        rich_help_panel=MODEL,
    ),
]
Input: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="KEY=VALUE",
        help="How a picture becomes the model's input, instead of the model's own configuration: "
        "size=32, resize=none, crop=true, interpolation=bilinear, mean=0.5,0.5,0.5, std=0.5.",
        rich_help_panel=MODEL,
    ),
]
NamedModels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="[NAME=]MODEL",
        help=f"A network, and what to call it; may be given several times. {MODELS}.",
        rich_help_panel=NETWORKS,
    ),
]
NamedWeights: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="[NAME=]FILE",
        help="Local weights; with the name where there are several networks.",
        rich_help_panel=NETWORKS,
    ),
]
NamedClasses: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        metavar="[NAME=]FILE",
        help="Class names, one per line; for one network or for all.",
        rich_help_panel=NETWORKS,
    ),
]
NamedInputs: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="[NAME:]KEY=VALUE",
        help="How a picture becomes the input of one network, or of all: size=32.",
        rich_help_panel=NETWORKS,
    ),
]
Device: TypeAlias = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1.", rich_help_panel=MODEL)
]
Method: TypeAlias = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="How pixels are attributed; see `whence methods`.",
        rich_help_panel=METHOD,
    ),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the method, such as steps=64 or baseline=black.",
        rich_help_panel=METHOD,
    ),
]
BatchSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Images at a time; chosen by memory if not given.",
        show_default=False,
    ),
]
Overwrite: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace an earlier result of whence.", rich_help_panel=OUTPUT
    ),
]
Resume: TypeAlias = Annotated[
    bool,
    typer.Option("--resume", help="Go on with what is in the folder.", rich_help_panel=OUTPUT),
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document and nothing else.", rich_help_panel=OUTPUT
    ),
]
Verbose: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Show timings, and tracebacks of errors.", rich_help_panel=OUTPUT
    ),
]
