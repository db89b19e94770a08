"""Explainers of other libraries as methods; none of these libraries is imported here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from whence.attribution.account import Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.cam import enlarged
from whence.attribution.gradient import evaluate, recording
from whence.core import (
    Attributions,
    Baseline,
    Images,
    Labels,
    Logit,
    Method,
    ModelScalar,
    ScalarFn,
    Scalars,
    check_images,
    check_mode,
    logits_of,
)
from whence.errors import SettingError, ShapeError
from whence.network import Network
from whence.network.export import twin

__all__ = ["Foreign", "captum_method", "function_method", "zennit_method"]

NOTHING: Mapping[str, Any] = MappingProxyType({})

OF_MODULES = ("DeepLift", "GuidedGradCam", "LRP", "ModifiedReluGradientAttribution")
"""Captum's classes that put hooks on a model's modules, beside those that have a layer."""


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
        >>> edges = function_method(lambda model, images, classes: images.diff(dim=3, prepend=
        ...     images[..., :1]).abs(), name="edges")
        >>> edges(ModelScalar(nn.Flatten().eval(), Logit(0)), torch.eye(3).view(1, 1, 3, 3)).sum()
        tensor(4.)
    """
    return Foreign(
        name=name or name_of(function),
        settings="",
        explainer=FunctionExplainer(function=function),
        batch_size=batch_size,
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked of a foreign explainer.

    Args:
        model: The model, or its network.
        images: The images, a leaf that requires its gradient.
        classes: One class per image.
        explained: The logit of each.
    """

    model: Any
    images: Images
    classes: Labels
    explained: Scalars


@runtime_checkable
class Explainer(Protocol):
    """Answers a question with maps, and what they should add up to, if that is known."""

    def __call__(self, question: Question) -> tuple[Any, Tensor | None]:
        """Return maps, and the reference ``(b,)`` or None."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """A method of another library; made by the functions of this module.

    Args:
        name: The library and its class.
        settings: How it is set, in words.
        explainer: What computes the maps.
        batch_size: Images at a time; all if None.
    """

    name: str
    settings: str
    explainer: Explainer = field(repr=False)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the maps."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps, and what they should add up to where the library knows."""
        scalar = of_a_logit(f, self.name)
        images = check_images(images).detach()
        pace = Pace(f=f, images=images, batch_size=self.batch_size or len(images))
        explained = evaluate(f, images, pace)
        maps, references = [], []
        with recording():
            for start, stop in pace.spans(len(images)):
                question = Question(
                    model=scalar.model,
                    images=images[start:stop].clone().requires_grad_(),
                    classes=classes_of(scalar, start, stop, images),
                    explained=explained[start:stop],
                )
                values, reference = self.explainer(question)
                maps.append(self.fitted(values, question.images))
                references += [] if reference is None else [reference.detach().to(explained)]
        return Account(
            values=torch.cat(maps),
            passes=float("nan"),
            explained=explained,
            reference=torch.cat(references) if len(references) == len(maps) else None,
        )

    def fitted(self, values: object, images: Images) -> Attributions:
        """Return maps as attributions of the images."""
        if isinstance(values, np.ndarray):
            values = torch.from_numpy(values)
        if isinstance(values, tuple) and len(values) == 1:
            (values,) = values
        size = tuple(images.shape[2:])
        if isinstance(values, Tensor) and values.shape == (len(images), *size):
            values = values[:, None]
        if not isinstance(values, Tensor) or values.ndim != 4 or len(values) != len(images):  # noqa: PLR2004 - the axes of images
            came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            msg = (
                f"{self.name} must return one map per image, for images of shape "
                f"{tuple(images.shape)}; it returned {came}. Of a transformer's tokens "
                f"whence's own activation maps make a grid: GradCAM()."
            )
            raise ShapeError(msg)
        values = values.detach().to(images.device, images.dtype)
        fits = tuple(values.shape[2:]) == size
        if values.shape[1] != 1 and not (fits and values.shape[1] == images.shape[1]):
            values = values.sum(dim=1, keepdim=True)
        return values if fits else enlarged(values, images)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CaptumExplainer:
    """Asks an attribution object of Captum.

    Args:
        make: The object, or what makes one of a model.
        bound: Whether it is the object.
        settings: Further arguments of its ``attribute``.
    """

    make: Any
    bound: bool
    settings: Mapping[str, Any]

    def __call__(self, question: Question) -> tuple[Any, Tensor | None]:
        """Return the maps, and their sum less Captum's delta."""
        explainer = self.bound_to(question) if self.bound else self.made_for(question)
        settings = dict(self.settings)
        baseline = settings.get("baselines")
        if isinstance(baseline, Baseline) and not isinstance(baseline, (Tensor, float, int)):
            settings["baselines"] = baseline(question.images.detach())
        if takes(explainer.attribute, "target"):
            settings["target"] = question.classes
        if not gives_delta(explainer, settings):
            return explainer.attribute(question.images, **settings), None
        settings["return_convergence_delta"] = True
        maps, delta = explainer.attribute(question.images, **settings)
        total = maps.detach().flatten(1).sum(dim=1, dtype=torch.float64)
        return maps, total - delta.detach().reshape(len(total), -1).mean(dim=1)

    def bound_to(self, question: Question) -> Any:  # noqa: ANN401 - an object of Captum's
        """Return the object, if it explains what is asked."""
        forward = getattr(self.make, "forward_func", None)
        if forward is not question.model:
            check_same(forward, question, "The object of Captum")
        return self.make

    def made_for(self, question: Question) -> Any:  # noqa: ANN401 - an object of Captum's
        """Return an object made for the model that is explained."""
        model = handed(question.model)
        try:
            explainer = self.make(model)
        except (AttributeError, TypeError) as error:
            if isinstance(model, Network):
                raise SettingError(needs_modules(name_of(self.make))) from error
            raise
        if not callable(getattr(explainer, "attribute", None)):
            msg = (
                f"The function must return an attribution object of Captum, with attribute(); "
                f"it returned {type(explainer).__name__}."
            )
            raise SettingError(msg)
        check_modules(explainer, model)
        if isinstance(model, nn.Module) and "LRP" in kinds_of(explainer):
            own_weights(model)
        return explainer


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ZennitExplainer:
    """Asks an attributor of zennit.

    Args:
        make: The attributor, or what makes one of a model.
        bound: Whether it is the attributor.
        start: What is handed down from the class.
    """

    make: Any
    bound: bool
    start: str

    def __call__(self, question: Question) -> tuple[Any, Tensor | None]:
        """Return the relevance, and the logit if that was handed down."""
        if isinstance(question.model, Network):
            raise SettingError(needs_modules("zennit"))
        attributor = self.make if self.bound else self.make(handed(question.model))
        if self.bound and attributor.model is not question.model:
            check_same(attributor.model, question, "The attributor")

        def relevance(output: Tensor) -> Tensor:
            picked = nn.functional.one_hot(question.classes, output.shape[1]).to(output)
            return picked * output.detach() if self.start == "value" else picked

        _, maps = attributor(question.images, relevance)
        return maps, question.explained if self.start == "value" else None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionExplainer:
    """Asks a function.

    Args:
        function: Takes model, images and classes.
    """

    function: Callable[[Any, Tensor, Tensor], Any]

    def __call__(self, question: Question) -> tuple[Any, Tensor | None]:
        """Return its maps."""
        return self.function(question.model, question.images, question.classes), None


def of_a_logit(f: ScalarFn, name: str) -> ModelScalar:
    """Return a function that explains the logit of a class; refuse others."""
    if isinstance(f, ModelScalar) and isinstance(f.target, Logit):
        return f
    came = type(f.target if isinstance(f, ModelScalar) else f).__name__
    msg = (
        f"{name} takes the logit of a class, ModelScalar(model, logit(class)); got {came}. For a "
        f"contrast, a probability or a loss use a method of whence, or subtract the maps of two "
        f"logits where the method is linear in what it explains."
    )
    raise SettingError(msg)


def classes_of(f: ModelScalar, start: int, stop: int, images: Images) -> Tensor:
    """Return the classes of some images, one each."""
    classes = f.at(torch.arange(start, stop, device=images.device)).target.classes  # type: ignore[attr-defined]
    if isinstance(classes, int):
        return torch.full((stop - start,), classes, device=images.device)
    found: Tensor = classes.to(images.device)
    return found


def handed(model: Any) -> Any:  # noqa: ANN401 - a model may be any callable
    """Return what a foreign explainer may put hooks on: a copy of a module's structure."""
    return twin(model) if isinstance(model, nn.Module) else model


def own_weights(model: nn.Module) -> None:
    """Give a copy of a structure weights of its own: Captum's LRP writes on them for a while."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            new = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
            setattr(module, name, made.setdefault(id(weight), new))


def kinds_of(explainer: Any) -> set[str]:  # noqa: ANN401 - an object of Captum's
    """Return the names of an explainer's class and of all that it inherits from."""
    return {kind.__name__ for kind in type(explainer).__mro__}


def check_same(forward: Any, question: Question, what: str) -> None:  # noqa: ANN401 - any callable
    """Refuse an explainer whose own model computes another value than is explained."""
    if isinstance(forward, nn.Module):
        check_mode(forward)
    if callable(forward):
        with torch.no_grad():
            output = logits_of(forward(question.images.detach().clone()))
        if isinstance(output, Tensor) and output.ndim == 2:  # noqa: PLR2004 - images and classes
            theirs = output.gather(1, question.classes[:, None])[:, 0]
            scale = float(question.explained.abs().max())
            if torch.allclose(theirs, question.explained.to(theirs), rtol=1e-3, atol=1e-4 * scale):
                return
    msg = (
        f"{what} holds a model of its own, which does not compute the logits that are explained. "
        f"Let it be made for the model that is: captum_method(IntegratedGradients), "
        f"zennit_method(lambda model: Gradient(model, composite))."
    )
    raise SettingError(msg)


def check_modules(explainer: Any, model: Any) -> None:  # noqa: ANN401 - an object of Captum's
    """Refuse an object that would put hooks on modules which the model does not run."""
    inner = getattr(explainer, "attribution_method", None)
    if inner is not None:
        check_modules(inner, model)
    layer = getattr(explainer, "layer", None)
    hooked = layer is not None or bool(kinds_of(explainer) & set(OF_MODULES))
    if isinstance(model, Network) and hooked:
        raise SettingError(needs_modules(name_of(explainer)))
    wanted = layer if isinstance(layer, (list, tuple)) else [layer]
    if isinstance(model, nn.Module):
        own = {id(module) for module in model.modules()}
        if any(isinstance(module, nn.Module) and id(module) not in own for module in wanted):
            msg = (
                f"The layer of {name_of(explainer)} is not in the model that it was made for. Take "
                f"it from the function's argument: "
                f"captum_method(lambda model: LayerGradCam(model, model.layer4))."
            )
            raise SettingError(msg)


def needs_modules(name: str) -> str:
    """Say that an explainer puts hooks on modules, which a network's graph does not have."""
    return (
        f"{name} puts hooks on a model's modules, and a network read as a graph has none: "
        f"explain the model itself, ModelScalar(model, logit(class))."
    )


def takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has a parameter of this name; some of Captum explain no class."""
    parameters = signature(function).parameters.values()
    return any(p.name == name or p.kind is Parameter.VAR_KEYWORD for p in parameters)


def gives_delta(explainer: Any, settings: Mapping[str, Any]) -> bool:  # noqa: ANN401 - of Captum's
    """Return whether Captum says what the maps of the images lack to completeness."""
    known = getattr(explainer, "has_convergence_delta", None)
    inner = getattr(explainer, "attribution_method", explainer)
    return (
        callable(known)
        and bool(known())
        and getattr(inner, "layer", None) is None
        and settings.get("nt_type", "smoothgrad") == "smoothgrad"
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


def name_of(explainer: object) -> str:
    """Return what to call an explainer."""
    inner = getattr(explainer, "attribution_method", None)
    own = getattr(explainer, "__name__", type(explainer).__name__)
    own = "made by a function" if own == "<lambda>" else own
    return f"{own}({name_of(inner)})" if inner is not None else own
