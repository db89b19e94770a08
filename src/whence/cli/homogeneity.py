"""`whence homogeneity`: does scaling the image scale the logits?"""

from whence.cli.console import bold, say, say_json
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

__all__ = ["homogeneity"]


def homogeneity(
    model: ModelArgument,
    weights: Weights = None,
    download: Download = False,
    classes: Classes = None,
    input_: Input = None,
    device: Device = "cpu",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say whether a model is an X-DNN, and if not, which operations break it and the cures.

    On an X-DNN (homogeneous of degree 1) input times gradient is axiomatic, in one pass.
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
    if not as_json:
        say(bold(loaded.name))
        say(str(found))
        return
    say_json(
        {
            "model": loaded.name,
            "holds": found.holds,
            "degree": found.degree,
            "offenders": [
                {
                    "node": one.node,
                    "operation": one.operation,
                    "path": one.path,
                    "reason": "" if one.offence is None else one.offence.reason,
                    "cure": "" if one.offence is None else one.offence.cure,
                }
                for one in found.offenders
            ],
        }
    )
