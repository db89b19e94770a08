"""`whence describe`: a model as a table of operations."""

from typing import TYPE_CHECKING

from whence.cli.console import bold, say, say_json
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
    from torch import Tensor

    from whence.adapters import LoadedModel
    from whence.network import Network

__all__ = ["describe", "network_of", "noise_for"]


def describe(
    model: ModelArgument,
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show a model as it is read: operations, module paths, shapes, parameters, share of work.

    The table does not depend on weights, so a model of torchvision or timm needs none.
    """
    del verbose
    from dataclasses import asdict

    from whence.recipes import load_architecture, load_subject

    if weights is None and not download and classes is None:
        loaded = load_architecture(model, input_ or ())
    else:
        loaded = load_subject(
            model,
            weights=weights,
            classes=classes,
            settings=input_ or (),
            device=device,
            download=download,
        )
    network = network_of(loaded)
    found, cut = network.describe(), network.cut()
    if as_json:
        say_json(
            {
                "model": loaded.name,
                "fingerprint": network.fingerprint(),
                "parameters": found.parameters,
                "multiply_adds": found.multiply_adds,
                "cut": cut.node,
                "preprocessing": loaded.preprocessing.describe(),
                "operations": [asdict(row) for row in found.rows],
            }
        )
        return
    say(str(found))
    say(
        f"\n{bold(loaded.name)}: {found.parameters:,} parameters, {found.multiply_adds:,} "
        f"multiply-adds per image, {len(loaded.classes)} classes"
    )
    say(f"Grad-CAM cuts it at {cut.node} ({cut.path or 'forward'}).")


def network_of(model: "LoadedModel") -> "Network":
    """Read a model with two pictures of noise, which do not matter to its graph."""
    from whence.network import Network

    return Network.read(model.module, noise_for(model))


def noise_for(model: "LoadedModel") -> "Tensor":
    """Return two pictures of noise as the model takes them, the same every time."""
    import torch

    rows, columns = model.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, model.preprocessing.channels, rows, columns, generator=generator)
    place = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    return model.preprocessing.normalisation.to_model(pixels).to(place)
