"""A method as a function of model, inputs and targets, which is what Quantus calls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.attribution.catalogue import CATALOGUE, method_named
from whence.attribution.explain import attribute
from whence.attribution.readings import Readings
from whence.core import Images, Labels, Method, ModelScalar, Target, check_images, logit
from whence.errors import SettingError, ShapeError, TargetError

__all__ = ["ExplainFunction", "as_quantus", "needs_network"]


def as_quantus(
    method: Method | str,
    *,
    sum_channels: bool = True,
    target: Callable[[Labels], Target] = logit,
    graph: bool | None = None,
) -> "ExplainFunction":
    """Return a method as the ``explain_func`` that the metrics of Quantus call.

    What it returns may be called with ``model=, inputs=, targets=, device=``: arrays in, arrays
    out. The maps are signed and never rescaled; Quantus takes absolute values and normalises as
    its metric says. The model is used where its weights lie and in their type, and is left as it
    was; in train mode a copy of its structure is explained in eval mode. A method that needs the
    graph reads each model once, and notices when weights or structure change, as in tests that
    randomise parameters.

    Args:
        method: A method, or a name of the catalogue.
        sum_channels: Add up each pixel's channels, ``(b, 1, h, w)``, as Quantus' own functions
            do; otherwise values are as the method gives them.
        target: What is explained of the classes that Quantus passes.
        graph: Whether the method needs a network's graph. None: as its card in the catalogue
            says, and no for methods without a card.

    Raises:
        SettingError: If there is no method of this name.

    Example:
        >>> function = as_quantus("gradient")
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> function(model, np.ones((2, 1, 2, 2), np.float32), np.array([0, 2])).shape
        (2, 1, 2, 2)
    """
    chosen = method_named(method) if isinstance(method, str) else method
    return ExplainFunction(
        method=chosen,
        sum_channels=sum_channels,
        target=target,
        graph=needs_network(chosen) if graph is None else graph,
    )


def needs_network(method: Method) -> bool:
    """Return whether a method, or one that it is made of, works on the network's graph.

    The catalogue knows; a method that is not in it is taken to work on any callable.
    """
    inner = getattr(method, "method", None)
    if isinstance(inner, Method) and needs_network(inner):
        return True
    return any(
        isinstance(method, entry.make) and entry.card.needs != "any callable" for entry in CATALOGUE
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ExplainFunction:
    """A method that is called with a model each time; made by :func:`as_quantus`.

    Args:
        method: The method.
        sum_channels: Whether each pixel's channels are added up.
        target: What is explained of a class.
        graph: Whether the method needs the graph.
        readings: The models that were read.
    """

    method: Method
    sum_channels: bool
    target: Callable[[Labels], Target]
    graph: bool
    readings: Readings = field(default_factory=Readings, repr=False)

    def __call__(
        self,
        model: object,
        inputs: object,
        targets: object,
        device: object = None,
        method: object = None,
        **others: object,
    ) -> NDArray[Any]:
        """Return the maps of images ``(b, c, h, w)``, one class each.

        Args:
            model: An ``nn.Module``, or Quantus' wrapper of one.
            inputs: Images as an array or a tensor.
            targets: One class per image, or one for all.
            device: Where Quantus would put the inputs; the model's own device counts.
            method: The name under which ``quantus.evaluate`` lists the method.
            others: Must be empty: a method has its settings already.

        Raises:
            SettingError: If the model is no module, or there are settings.
            ShapeError: If the inputs are no batch of images, or the maps do not fit them.
            TargetError: If the targets are no classes of this model.
            NumericsError: If a map is NaN or infinite.
        """
        del method
        if others:
            msg = (
                f"explain_func_kwargs holds {', '.join(others)}, but the settings are the "
                f"method's: give them there, as in as_quantus(IntegratedGradients(steps=64))."
            )
            raise SettingError(msg)
        module = module_of(model)
        images = images_of(inputs, module, device)
        known = self.target(classes_of(targets, len(images)).to(images.device))
        f = ModelScalar(self.readings.ready(module, images, graph=self.graph), known)
        values = attribute(self.method, f, images).values.detach()
        if values.shape[2:] != images.shape[2:]:
            msg = (
                f"Maps must have the images' size, {tuple(images.shape[2:])}; {self.method} "
                f"returned {tuple(values.shape)}. Activation maps need upsample=True."
            )
            raise ShapeError(msg)
        shown = values.sum(dim=1, keepdim=True) if self.sum_channels else values
        wide = shown.float() if shown.dtype == torch.bfloat16 else shown
        array: NDArray[Any] = wide.contiguous().cpu().numpy()
        return array


def module_of(model: object) -> nn.Module:
    """Return the module in what Quantus passes as a model."""
    if not isinstance(model, nn.Module) and callable(getattr(model, "get_model", None)):
        model = model.get_model()  # type: ignore[attr-defined]
    if isinstance(model, nn.Module):
        return model
    msg = f"The model must be an nn.Module; got {type(model).__name__}."
    raise SettingError(msg)


def images_of(inputs: object, model: nn.Module, device: object) -> Images:
    """Return inputs as images where the model is, and in the type of its weights."""
    if not isinstance(inputs, Tensor):
        array = np.array(inputs, order="C")
        if array.dtype.kind not in "fiub":
            msg = f"Inputs must be an array of numbers, (b, c, h, w); got {array.dtype}."
            raise ShapeError(msg)
        inputs = torch.from_numpy(array)
    images = check_images(inputs.detach())
    weights = [*model.parameters(), *model.buffers()]
    floats = [weight for weight in weights if weight.is_floating_point()]
    if floats:
        return images.to(floats[0].device, floats[0].dtype)
    return images.to(str(device)) if device is not None else images


def classes_of(targets: object, count: int) -> Labels:
    """Return targets as one class per image."""
    array = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
    if array.ndim == 0:
        array = np.full(count, array)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        msg = (
            f"Targets must be {count} integers, one class per image; got {array.dtype} of shape "
            f"{array.shape}. Of one-hot rows take targets.argmax(axis=1)."
        )
        raise TargetError(msg)
    return torch.from_numpy(array.astype(np.int64))
