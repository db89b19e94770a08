"""Files: an X-DNN with its certificate, in one safetensors file.

The file holds the weights under their names; its metadata holds the graph (``whence.graph``) and
the certificate (``whence.certificate``), both JSON. So the network can be loaded where the
original's source is not: the graph names operations of PyTorch, and nothing in the file is a
pickle or code. Where the source is, any library that reads safetensors reads the weights.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor, nn
from torch.fx import GraphModule

from whence.convert.change import Change
from whence.convert.graph_text import graph_from_text, graph_to_text
from whence.core import Images
from whence.core.fingerprint import add_tensor
from whence.errors import OutputError, RecordError, SettingError, UnsupportedOperation
from whence.network import Homogeneity, Network, rewrite
from whence.results.folder import write_whole

__all__ = ["CertifiedModel", "load_x_dnn", "read_certificate", "save_x_dnn"]

TESTED = 16
"""Images on which the certificate is measured, at most."""

SCHEMA = 1
"""Raised when the certificate or the graph is written in another way."""

PACKAGES = ("whence", "torch", "numpy", "safetensors")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CertifiedModel:
    """A network from a file, with what the file says of it.

    Args:
        module: In eval mode; its parameters have the names that they had.
        certificate: Tolerances, measured errors, versions, the table of operations.
    """

    module: nn.Module
    certificate: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def save_x_dnn(
    model: nn.Module,
    images: Images,
    path: str | Path,
    *,
    changes: Sequence[Change] = (),
    classes: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Mapping[str, Any]:
    """Prove that a model is an X-DNN, and write it with its certificate: whole or not at all.

    Args:
        model: The X-DNN, in eval mode: converted, fine-tuned, or made as one.
        images: Some images ``(b, c, h, w)`` on which the certificate is measured.
        path: A new file, ``name.safetensors``.
        changes: What a conversion changed, for the certificate.
        classes: Names of the outputs.
        preprocessing: How a picture becomes its input.
        overwrite: Replace a file that whence wrote.

    Returns:
        The certificate.

    Raises:
        OutputError: There is a file already, or the place cannot be written.
        SettingError: The name has another ending.
        UnsupportedOperation: The model is no X-DNN, with the first offender, or calls what a file
            cannot hold.
    """
    place = free_place(path, overwrite=overwrite)
    if images.device.type != "cpu":  # so that the graph names no device that others lack
        model, images = copy.deepcopy(model).to("cpu"), images.to("cpu")
    network = Network.read(model, images)
    verdict = network.homogeneity(images[:TESTED])
    if not verdict.holds:
        msg = f"Only an X-DNN gets a certificate, and {type(model).__name__} is none.\n{verdict}"
        raise UnsupportedOperation(msg)
    rows = graph_to_text(network.graph)
    held = tensors_of(network.module)
    text = json.dumps(rows, allow_nan=False)
    certificate = {
        "whence": "x-dnn",
        "schema": SCHEMA,
        "fingerprint": fingerprint(held, text),
        "parameters": sorted(set(held) & {name for name, _ in network.module.named_parameters()}),
        "image": {"shape": list(network.shape), "dtype": str(images.dtype).removeprefix("torch.")},
        "changes": [{"path": c.path, "what": c.what} for c in changes],
        "classes": list(classes),
        "preprocessing": dict(preprocessing or {}),
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **measured(verdict),
    }
    metadata = {
        "format": "pt",
        "whence.certificate": json.dumps(certificate, allow_nan=False),
        "whence.graph": text,
    }
    write_whole(place, packed(held, metadata))
    return certificate


def measured(verdict: Homogeneity) -> dict[str, Any]:
    """Return the proof and the measurements of a verdict as plain values."""
    tested = verdict.certificate
    if tested is None:
        message = "a certificate needs numeric tests"
        raise TypeError(message)
    return {
        "degree": verdict.degree,
        "tolerance": tested.tolerance,
        "precision": tested.precision,
        "images": tested.images,
        "scale_errors": {f"{factor:g}": error for factor, error in tested.scale_errors.items()},
        "euler_error": tested.euler_error,
        "at_zero": tested.at_zero,
        "assumes_zero": list(verdict.assumes),
        "operations": [[row.path, row.operation, row.degree] for row in verdict.operations],
    }


def tensors_of(module: GraphModule) -> dict[str, Tensor]:
    """Return what a graph fetches, by name, each in memory of its own."""
    held = rewrite.attributes(module, module.graph)
    return {name: value.detach().clone().contiguous() for name, value in held.items()}


def versions() -> dict[str, str]:
    """Return the versions in use."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def free_place(path: str | Path, *, overwrite: bool) -> Path:
    """Return a path that can be written, before any work is done."""
    place = Path(path)
    if place.suffix != ".safetensors":
        msg = f"An X-DNN is written to a file NAME.safetensors; got {place.name!r}."
        raise SettingError(msg)
    if not place.parent.is_dir():
        msg = f"There is no folder {place.parent} for {place.name}. Make it, or give another place."
        raise OutputError(msg)
    if place.is_dir() or (place.exists() and not (overwrite and is_ours(place))):
        advice = "--overwrite (overwrite=True) replaces files of whence, and only those."
        msg = f"{place} exists already. Give another name; {advice}"
        raise OutputError(msg)
    return place


def is_ours(path: Path) -> bool:
    """Return whether a file was written here."""
    try:
        read_certificate(path)
    except RecordError:
        return False
    return True


def read_certificate(path: str | Path) -> Mapping[str, Any]:
    """Return the certificate of a file, without its weights.

    Raises:
        RecordError: There is no such file, or it was not written by whence.
    """
    return certificate_in(metadata_of(Path(path)), Path(path))


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError as error:
        msg = f"There is no file {path}. Check the path."
        raise RecordError(msg) from error
    except (OSError, SafetensorError) as error:
        msg = f"{path} is truncated, damaged, or no safetensors file: {error}. Write it again."
        raise RecordError(msg) from error


def certificate_in(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return the certificate among a file's metadata."""
    try:
        found = json.loads(metadata["whence.certificate"])
        kind, schema = found["whence"], found["schema"]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path} holds no certificate of whence. Write it with `whence convert`."
        raise RecordError(msg) from error
    if (kind, schema) != ("x-dnn", SCHEMA):
        msg = (
            f"{path} has schema {schema!r}, but this whence reads {SCHEMA}. Use the version of "
            f"whence that wrote it, {found.get('versions', {}).get('whence', 'unknown')}."
        )
        raise RecordError(msg)
    return dict(found)


def load_x_dnn(path: str | Path) -> CertifiedModel:
    """Load an X-DNN that :func:`save_x_dnn` wrote; the original's source is not needed.

    The weights and the graph are compared with the certificate's fingerprint.

    Args:
        path: The file.

    Raises:
        RecordError: There is no such file, it is damaged, or its weights were changed after it
            was certified.
    """
    path = Path(path)
    metadata = metadata_of(path)
    certificate = certificate_in(metadata, path)
    text = metadata.get("whence.graph", "")
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if fingerprint(held, text) != certificate.get("fingerprint"):
        msg = (
            f"The weights or the graph in {path} are not those of its certificate. Certify it "
            f"again with save_x_dnn, or fetch the original file."
        )
        raise RecordError(msg)
    wanted = set(certificate["parameters"])
    ready = {
        name: nn.Parameter(value, requires_grad=value.is_floating_point())
        if name in wanted
        else value
        for name, value in held.items()
    }
    module = graph_from_text(json.loads(text), ready)
    for part in module.modules():
        part.training = False
    return CertifiedModel(
        module=module,
        certificate=certificate,
        classes=tuple(certificate["classes"]),
        preprocessing=certificate["preprocessing"],
    )


def fingerprint(held: Mapping[str, Tensor], graph: str) -> str:
    """Return a SHA-256 of weights and graph."""
    digest = hashlib.sha256(graph.encode())
    for name in sorted(held):
        digest.update(f"{name}|".encode())
        add_tensor(digest, held[name])
    return digest.hexdigest()
