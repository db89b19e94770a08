"""Files: a fitted operator on disk, in one file, with what it was fitted to."""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from whence.core.fingerprint import add_tensor
from whence.curvature.dense import ExplicitInverse, WoodburyInverse
from whence.curvature.diagonal import Diagonal
from whence.curvature.eigen import EigenLayer, KroneckerCurvature
from whence.curvature.gram import InverseSecondMoment, SecondMoment
from whence.curvature.krylov import LowRank
from whence.errors import MismatchError, OutputError, RecordError, SettingError
from whence.gradients.operator import Operator
from whence.results.folder import write_whole

__all__ = ["Provenance", "load_operator", "save_operator"]

FORMAT = 2
"""Number of the file format."""

Provenance = Mapping[str, str | int | float | bool | list[str] | None]
"""What an operator was fitted to: fingerprints of model and data, and every setting."""

Facts = dict[str, Any]


def save_operator(path: str | Path, operator: Operator, provenance: Provenance) -> None:
    """Write a fitted operator to a file, whole or not at all.

    Operators that hold numbers of their own can be written: Kronecker curvatures, diagonals,
    second moments and their inverses, explicit inverses, low-rank ones. The others (conjugate
    gradients, LiSSA, DataInf) have nothing to keep. Of a sandwich write the middle: its projector
    is made again from its settings.

    Args:
        path: A file; its folder is made. An old one is replaced.
        operator: What to write.
        provenance: What it was fitted to; :func:`load_operator` compares it.

    Raises:
        OutputError: If the file cannot be written.
        SettingError: If the operator is of a kind that holds no numbers of its own.
    """
    path = Path(path)
    facts, tensors = encoded(operator)
    held = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    header = {
        "whence": "operator",
        "format": FORMAT,
        "code": version("whence"),
        "provenance": dict(provenance),
        "operator": facts,
        "sha256": digest_of(held),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{path.parent} cannot be made: {error.strerror or error}. Give another place."
        raise OutputError(msg) from error
    # Copies, because safetensors refuses tensors that share memory.
    content = save({n: v.clone() for n, v in held.items()}, {"whence": json.dumps(header)})
    write_whole(path, content)


def load_operator(
    path: str | Path, provenance: Provenance, device: str | torch.device = "cpu"
) -> Operator:
    """Read a fitted operator, if it is of what it should be.

    Args:
        path: A file that :func:`save_operator` wrote.
        provenance: What the operator must have been fitted to.
        device: Where to put it.

    Raises:
        MismatchError: If it was fitted to something else; the message names what differs.
        RecordError: If there is no such file, or it is damaged.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["whence"])
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        known = header["whence"] == "operator" and header["format"] == FORMAT
        stored, facts, digest = header["provenance"], header["operator"], header["sha256"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        msg = f"{path} cannot be read as a fitted operator: {error}. Remove it and fit again."
        raise RecordError(msg) from error
    if not known or digest != digest_of(held):
        msg = f"{path} is damaged, or of another format. Remove it and fit again."
        raise RecordError(msg)
    check_same(path, stored, provenance)
    return decoded(facts, {name: value.to(device) for name, value in held.items()})


def check_same(path: Path, stored: Mapping[str, Any], now: Provenance) -> None:
    """Refuse an operator that was fitted to something else."""
    wanted = json.loads(json.dumps(dict(now)))
    names = [n for n in {**stored, **wanted} if stored.get(n) != wanted.get(n)]
    if names:
        lines = [f"  {n}: {brief(stored.get(n))} stored, {brief(wanted.get(n))} now" for n in names]
        msg = (
            f"{path} holds an operator that was fitted to something else; it differs in "
            f"{', '.join(names)}:\n" + "\n".join(lines) + "\nGive another file, or remove this one."
        )
        raise MismatchError(msg)


def brief(value: object) -> str:
    """Return a value in a few words."""
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."  # noqa: PLR2004 - a column


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of tensors with their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}|".encode())
        add_tensor(digest, tensors[name])
    return digest.hexdigest()


def encoded(operator: Operator) -> tuple[Facts, dict[str, Tensor]]:
    """Return an operator as a few facts and its tensors."""
    match operator:
        case KroneckerCurvature():
            tensors = {f"rest/{name}": value for name, value in operator.rest.items()}
            for name, layer in operator.layers.items():
                for part in ("outputs", "inputs", "values"):
                    tensors[f"{part}/{name}"] = getattr(layer, part)
            facts: Facts = {
                "layers": {name: layer.bias for name, layer in operator.layers.items()},
                "rest": list(operator.rest),
                "empty": list(operator.empty),
            }
        case Diagonal():
            tensors = dict(operator.values)
            facts = {}
        case SecondMoment():
            tensors = {"matrix": operator.matrix}
            facts = {"sizes": dict(operator.sizes), "count": operator.count}
        case InverseSecondMoment() | ExplicitInverse():
            tensors, facts = {"factor": operator.factor}, {"sizes": dict(operator.sizes)}
        case LowRank():
            tensors = {"basis": operator.basis, "values": operator.values}
            facts = {"sizes": dict(operator.sizes)}
        case WoodburyInverse():
            tensors = {"gradients": operator.gradients, "factor": operator.factor}
            facts = {"sizes": dict(operator.sizes), "damping": operator.damping}
        case _:
            msg = (
                f"An operator of kind {type(operator).__name__} holds no fitted numbers of its own "
                f"that could be written. Write its parts: the middle of a sandwich, the operators "
                f"of a product."
            )
            raise SettingError(msg)
    return {"kind": type(operator).__name__, **facts}, tensors


def decoded(facts: Facts, tensors: dict[str, Tensor]) -> Operator:
    """Return the operator that facts and tensors describe."""
    kind = facts.pop("kind")
    if kind == "Diagonal":
        return Diagonal(values=tensors)
    if kind in PLAIN:
        return PLAIN[kind](**tensors, **facts)
    if kind != "KroneckerCurvature":
        msg = f"This version of whence knows no operator of kind {kind!r}."
        raise RecordError(msg)
    layers = {
        name: EigenLayer(
            outputs=tensors[f"outputs/{name}"],
            inputs=tensors[f"inputs/{name}"],
            values=tensors[f"values/{name}"],
            bias=bias,
        )
        for name, bias in facts["layers"].items()
    }
    return KroneckerCurvature(
        layers=layers,
        rest={name: tensors[f"rest/{name}"] for name in facts["rest"]},
        empty=tuple(facts["empty"]),
    )


PLAIN: dict[str, Callable[..., Operator]] = {
    kind.__name__: kind
    for kind in (SecondMoment, InverseSecondMoment, ExplicitInverse, LowRank, WoodburyInverse)
}
"""Operators whose fields are tensors and facts, by name."""
