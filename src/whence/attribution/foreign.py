"""Explainers of other libraries as methods; none of these libraries is imported here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from whence.attribution.foreign_explainers import (
    CaptumExplainer,
    FunctionExplainer,
    ZennitExplainer,
    name_of,
)
from whence.attribution.foreign_method import Foreign
from whence.core import Method
from whence.errors import SettingError

__all__ = ["captum_method", "function_method", "zennit_method"]

NOTHING: Mapping[str, Any] = MappingProxyType({})


def captum_method(
    explainer: object,
    *,
    settings: Mapping[str, object] = NOTHING,
    batch_size: int | None = None,
) -> Method:
    """Return an attribution object of Captum, or what makes one of a model, as a method.

    It explains the logit of a class. Give the class, ``captum_method(IntegratedGradients)``, or a
    function, ``captum_method(lambda model: LayerGradCam(model, model.layer4))``: the object is
    then made for the model that is explained, on a copy of its structure over the same weights,
    and Captum's hooks never touch the user's. An object that holds a model already is refused if
    that computes something else than what is explained.

    A convergence delta, where Captum has one, becomes the gap of the result. Maps of a layer are
    added up over the layer's channels and enlarged bilinearly. The cost in passes is not known.

    Args:
        explainer: An attribution object, or a class or function that makes one of a model.
        settings: Further arguments of ``attribute``, such as ``{"n_steps": 64}``. A baseline of
            whence may stand for ``baselines``.
        batch_size: Images at a time; all by default. Random draws of Captum depend on it.

    Raises:
        SettingError: If it is nothing of Captum's kind, or a setting is the method's to give.
    """
    given = {"inputs", "target", "return_convergence_delta"} & settings.keys()
    if given:
        msg = f"{', '.join(sorted(given))} is given by the method; leave it out of settings."
        raise SettingError(msg)
    chosen, bound = made_or_maker(explainer, "attribute", "Captum's")
    return Foreign(
        name=f"captum {name_of(explainer)}",
        settings=", ".join(f"{key}={value!r}" for key, value in settings.items()),
        explainer=CaptumExplainer(make=chosen, bound=bound, settings=dict(settings)),
        batch_size=batch_size,
    )


def zennit_method(
    attributor: object,
    *,
    start: str = "one",
    batch_size: int | None = None,
) -> Method:
    """Return an attributor of zennit, or what makes one of a model, as a method.

    It explains the logit of a class. As for :func:`captum_method`, a function such as
    ``lambda model: Gradient(model, EpsilonPlus())`` is called with a copy of the structure of the
    model that is explained; an attributor that holds another model is refused.

    Args:
        attributor: ``attributor(images, output_relevance) -> (output, relevance)``, or a class or
            function that makes one of a model.
        start: What is handed down from the class: ``one``, as gradients need and zennit's examples
            do, or ``value``, the logit, as relevance is defined; the result's gap then says how
            much of it did not arrive.
        batch_size: Images at a time; all by default.

    Raises:
        SettingError: If it is no attributor, or the start is none of these.
    """
    if start not in ("one", "value"):
        msg = f"start is one or value; got {start!r}."
        raise SettingError(msg)
    chosen, bound = made_or_maker(attributor, "attr_output_fn", "zennit's")
    return Foreign(
        name=f"zennit {name_of(attributor)}",
        settings=f"start={start!r}",
        explainer=ZennitExplainer(make=chosen, bound=bound, start=start),
        batch_size=batch_size,
    )


def function_method(
    function: Callable[[Any, Tensor, Tensor], Any],
    *,
    name: str | None = None,
    batch_size: int | None = None,
) -> Method:
    """Return a function ``(model, images, classes) -> maps`` as a method.

    Args:
        function: Is called with what is explained (the model, or its network where the function
            to explain has one), images ``(b, c, h, w)`` and one class per image ``(b,)``; returns
            a tensor or an array, ``(b, c, h, w)``, ``(b, 1, h, w)`` or ``(b, h, w)``.
        name: What to call it in results; the function's own name by default.
        batch_size: Images at a time; all by default.

    Example:
        >>> import torch
        >>> from whence.core import ModelScalar, logit
        >>> edges = function_method(lambda model, images, classes: images.diff(dim=3, prepend=
        ...     images[..., :1]).abs(), name="edges")
        >>> f = ModelScalar(torch.nn.Flatten().eval(), logit(0))
        >>> edges(f, torch.eye(3).view(1, 1, 3, 3)).sum()
        tensor(4.)
    """
    return Foreign(
        name=name or name_of(function),
        settings="",
        explainer=FunctionExplainer(function=function),
        batch_size=batch_size,
    )


def made_or_maker(explainer: object, mark: str, whose: str) -> tuple[Any, bool]:
    """Return an explainer, and whether it is one already or makes one of a model."""
    if not isinstance(explainer, type) and hasattr(explainer, mark):
        return explainer, True
    if callable(explainer):
        return explainer, False
    msg = (
        f"Needed is an object of {whose}, or a class or function that makes one of a model; got "
        f"{type(explainer).__name__}."
    )
    raise SettingError(msg)
