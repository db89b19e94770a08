"""How explainers of Captum and zennit, and plain functions, are asked for maps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, final

import torch
from torch import Tensor, nn

from whence.attribution.foreign_method import Question
from whence.core import Baseline, check_mode, logits_of
from whence.errors import SettingError
from whence.network import Network
from whence.network.export import twin

__all__ = ["CaptumExplainer", "FunctionExplainer", "ZennitExplainer", "name_of"]

OF_MODULES = ("DeepLift", "GuidedGradCam", "LRP", "ModifiedReluGradientAttribution")
"""Captum's classes that put hooks on a model's modules, beside those that have a layer."""


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


def name_of(explainer: object) -> str:
    """Return what to call an explainer."""
    inner = getattr(explainer, "attribution_method", None)
    own = getattr(explainer, "__name__", type(explainer).__name__)
    own = "made by a function" if own == "<lambda>" else own
    return f"{own}({name_of(inner)})" if inner is not None else own
