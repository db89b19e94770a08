"""Exporting: a user's model becomes a plain graph, and stays as it was."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from whence.core import check_images, check_mode, logits_of
from whence.errors import ModeError, NumericsError, ReadError, SettingError, ShapeError
from whence.network import rewrite
from whence.network.operations import module_path, name_of
from whence.network.refusal import WITHOUT_GRAPH, why_not_exported

__all__ = ["check_alike", "check_model", "check_rows", "exported", "unwrapped"]

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
BATCH_NORM_TRAINING = 5
"""The place of ``training`` among the arguments of ``batch_norm``."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile`` and data-parallel wrappers, if it is in some."""
    if isinstance(model, torch.jit.ScriptModule):
        return model
    compiled = vars(model).get("_modules", {}).get("_orig_mod")
    if isinstance(compiled, nn.Module):
        return unwrapped(compiled)
    if isinstance(model, WRAPPERS):
        return unwrapped(model.module)
    return model


def check_model(model: nn.Module, images: Tensor) -> None:
    """Refuse a model in train mode, weights that are not finite, and images elsewhere."""
    check_mode(model)
    check_python(model)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, value in tensors:
        if value.device != images.device:
            msg = (
                f"The model's {name!r} is on {value.device}, but the images are on "
                f"{images.device}. Move one of them with .to(...)."
            )
            raise SettingError(msg)
    for name, value in tensors:
        if value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            msg = (
                f"{bad} of {value.numel()} values of the weight {name!r} are NaN or infinite. "
                f"Load an earlier checkpoint; a training run that diverged leaves such weights."
            )
            raise NumericsError(msg)


def check_python(model: nn.Module) -> None:
    """Refuse a model of which a part is TorchScript: its code is no longer Python."""
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = f"Its part {name!r}" if name else "The model"
            msg = (
                f"{where} is TorchScript (torch.jit.script or trace), of which no graph can be "
                f"read. Build the original model and load its weights: "
                f"model.load_state_dict(scripted.state_dict()). {WITHOUT_GRAPH}"
            )
            raise ReadError(msg)


def check_alike(images: Tensor, example: Tensor, weight: Tensor | None) -> None:
    """Refuse images, or weights, of another shape, type or device than was read.

    Args:
        images: The images.
        example: An image that the network was read with.
        weight: One of its weights; None if it has none.
    """
    check_images(images)
    if images.shape[1:] != example.shape[1:]:
        msg = (
            f"The network was read with images of shape {tuple(example.shape[1:])}; these are "
            f"{tuple(images.shape[1:])}. Resize them, or read the model again at their size."
        )
        raise ShapeError(msg)
    if (images.dtype, images.device) != (example.dtype, example.device):
        msg = (
            f"The network was read with images of {example.dtype} on {example.device}; these are "
            f"{images.dtype} on {images.device}. Convert them with .to(...), or read the model "
            f"again for them."
        )
        raise SettingError(msg)
    if weight is not None and weight.device != images.device:
        msg = (
            f"The model was moved to {weight.device} after the network was read on "
            f"{example.device}. Read it again where it is now."
        )
        raise SettingError(msg)


def twin(model: nn.Module) -> nn.Module:
    """Return a copy of a model's structure over the same parameters and buffers.

    Whatever a forward pass leaves on a module (caches, counters) is left on the copy. What
    cannot be copied (a lock, a generator, an open file) is shared.
    """
    kept: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        return copy.deepcopy(model, dict(kept))
    except Exception:  # noqa: BLE001 - an attribute may refuse to be copied in any way
        modules = list(model.modules())
    memo: dict[int, Any] = {id(m): type(m).__new__(type(m)) for m in modules} | kept
    for module in modules:
        memo[id(module)].__dict__.update(
            {name: loosely_copied(value, memo) for name, value in vars(module).items()}
        )
    new: nn.Module = memo[id(model)]
    return new


def loosely_copied(value: object, memo: dict[int, Any]) -> object:
    """Return a copy of an attribute, in which what cannot be copied is shared."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - as above
        if isinstance(value, dict):
            return type(value)((k, loosely_copied(v, memo)) for k, v in value.items())
        if isinstance(value, (list, set)):
            return type(value)(loosely_copied(v, memo) for v in value)
        return value


def exported(model: nn.Module, example: Tensor) -> GraphModule:
    """Return a model's graph, images in and logits out, for a batch of any size.

    Raises:
        ModeError: If an operation draws at random or mixes the images of a batch.
        ReadError: If the model cannot be exported, or takes or returns something else.
        SettingError: If the model needs images of another type.
        ShapeError: If the model cannot take the images, or returns no row per image.
    """
    copied = twin(model)
    try:
        with quietly(), rewrite.forgetting(), torch.enable_grad():
            module = torch.export.export(
                copied, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            ).module()
    except Exception as error:  # the exporter answers with almost any exception
        check_runs(model, example)
        raise ReadError(why_not_exported(copied, error)) from error
    graph = plain_graph(module)
    check_quiet(graph)
    return rewrite.compiled(module, graph)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what the exporter warns, logs and prints on its way from the user's terminal.

    Where it fails, it prints the graph; the error that it raises says the same in words.
    """
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Refuse images that the model itself cannot take, where it could not be exported."""
    try:
        with torch.no_grad():
            twin(model)(example)
    except Exception as error:
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
        if kinds and example.dtype not in kinds:
            names = ", ".join(sorted(map(str, kinds)))
            msg = (
                f"The model's weights are {names}, but the images are {example.dtype}. "
                f"Convert one of them with .to(...)."
            )
            raise SettingError(msg) from error
        reason = str(error).strip().split("\n")[0][:300]
        msg = (
            f"The model {type(model).__name__} cannot take images of shape "
            f"{tuple(example.shape)}: {reason}"
        )
        raise ShapeError(msg) from error


def check_rows(module: GraphModule, example: Tensor, logits: Tensor) -> None:
    """Refuse a network in which the images of a batch change each other's logits.

    The first image is shown again, beside another one.

    Args:
        module: Images in, logits out.
        example: Two images.
        logits: Their logits.
    """
    other = torch.stack([example[0], example[0].flip(-1, -2).roll(1, 0) / 2 + 0.25])
    again = module(other)[0]
    size = float(logits.abs().max())
    allowed = size * max(1e-3, 16 * torch.finfo(logits.dtype).eps)
    apart = float((again - logits[0]).abs().max())
    if apart > allowed:
        msg = (
            f"The model mixes the images of a batch: beside another image, the logits of the same "
            f"image change by {apart:.3g} (of {size:.3g}). Take means, norms and .item() over "
            f"each image's own axes, such as x.mean(dim=(1, 2, 3), keepdim=True)."
        )
        raise ModeError(msg)


def plain_graph(module: GraphModule) -> Graph:
    """Return the exported graph with images in and logits out, without checks and dropout."""
    graph, _ = rewrite.copied(module.graph)
    output = next(n for n in graph.nodes if n.op == "output")
    spec = module._out_spec  # noqa: SLF001 - where an exported module keeps its output's structure
    if spec is None:
        msg = "The exporter did not record what the model returns."
        raise ReadError(msg)
    logits = logits_in(pytree.tree_unflatten(list(output.args[0]), spec))
    if not isinstance(logits, Node):
        msg = "The model's output holds no logits tensor: return it, or an object with .logits."
        raise ReadError(msg)
    if logits not in rewrite.depends_on_images(graph):
        msg = "The model's logits do not depend on its images, so there is nothing to explain."
        raise ReadError(msg)
    output.args = (logits,)
    rewrite.tidied(graph)
    rewrite.unwritten(graph)
    rewrite.guarded(graph)
    return graph


def logits_in(structure: Any) -> Any:  # noqa: ANN401 - graph nodes in any container
    """Return the logits among a model's outputs."""
    return structure if isinstance(structure, Node) else logits_of(structure)


def check_quiet(graph: Graph) -> None:
    """Refuse operations that draw at random, or that mix the images of a batch."""
    for node in rewrite.depends_on_images(graph):
        if node.op != "call_function":
            continue
        where = f"its part {module_path(node)!r}" if module_path(node) else "its forward"
        name = name_of(node)
        if name in ("dropout", "feature_dropout", "alpha_dropout") and node.args[1] != 0:
            msg = (
                f"The model is in eval mode, but {where} drops values at random all the same. "
                f"Give F.dropout(..., training=self.training)."
            )
            raise ModeError(msg)
        if name == "batch_norm" and node.args[BATCH_NORM_TRAINING] is True:
            msg = (
                f"The model is in eval mode, but {where} normalises with the statistics of the "
                f"batch, so that images of a batch change each other's logits. Give it running "
                f"statistics (track_running_stats=True)."
            )
            raise ModeError(msg)
