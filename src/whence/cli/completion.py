"""What a shell completes: names of methods, metrics, scores, priors, routes, and of findings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer import Context
from typer.models import ParameterInfo

from whence.cli import names

__all__ = ["CHOICES", "completed"]

DOORS = ("torchvision/", "timm/", "transformers/")
METRICS, METHODS = names.METRICS, names.METHODS
CHOICES: dict[str, Sequence[str]] = {
    "METHOD": METHODS,
    "METRIC": METRICS,
    "--method": METHODS,
    "--training-method": (*names.MAPS, *METHODS),
    "--metric": METRICS,
    "--score": names.SCORES,
    "--prior": names.PENALTIES,
    "--route": names.ROUTES,
    "--fill": (*names.BASELINES, "bank"),
    "--control": ("redrawn-map", "input-map", "centre-map"),
    "--value": ("probability", "logit", "log-probability", "margin"),
    "--queries": ("wrong", "all"),
    "--target": ("predicted", "label"),
    "--versus": ("runner-up",),
    "--parameters": ("all", "last-block", "last-layer"),
    "--retrain": ("last-layer", "fine-tune"),
    "--removal-by": ("proponents", "harmful"),
    "--optimiser": ("adamw", "sgd"),
    "--schedule": ("cosine", "constant"),
    "--precision": ("32", "bf16-mixed", "16-mixed"),
    "--device": ("cpu", "cuda", "mps"),
    "--model": DOORS,
    "MODEL": DOORS,
    "--for": ("audit", "explain", "evaluate", "transfer", "index", "fit"),
}
"""Values by flag, or by the metavar of an argument."""
FINDINGS = "--accept"
"""The flag whose values are the findings of the audit that is the command's argument."""


def completed(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a shell complete a command's values; return the command."""
    for name, hint in get_type_hints(command, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        info = next((note for note in get_args(hint) if isinstance(note, ParameterInfo)), None)
        if info is None:
            continue
        # Typer takes the first name of an option for its default until it reads the signature.
        flags = (info.default, *(info.param_decls or ()), "--" + name.replace("_", "-"))
        for key in (*flags, info.metavar):
            if key == FINDINGS:
                info.autocompletion = finding_names
            elif isinstance(key, str) and key in CHOICES:
                info.autocompletion = starting(CHOICES[key])
                break
    return command


def starting(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what completes the beginning of one of some words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in choices if word.startswith(incomplete)]

    return complete


def finding_names(ctx: Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the findings of the audit that was named, each with what it says."""
    import tomllib

    # A line that ends in a flag without its value cannot be parsed; its arguments are left over.
    rest = [word for word in ctx.args if not word.startswith("-")]
    folder = ctx.params.get("audit") or next(iter(rest), "")
    try:
        content = tomllib.loads((Path(str(folder)) / "findings.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    before, comma, last = incomplete.rpartition(",")
    found = [one for one in content.get("finding", ()) if isinstance(one, dict) and "id" in one]
    return [
        (f"{before}{comma}{one['id']}", str(one.get("summary", "")))
        for one in found
        if str(one["id"]).startswith(last)
    ]
