"""The rows as other libraries compute them, each called as its manual says."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.attribution.ours import WINDOW
from benchmarks.attribution.setup import BATCH, Setup, Work
from whence.adapters.torchvision import open_torchvision

__all__ = ["PEERS", "captum_with_gap", "opened"]

LIBRARIES = ("captum.attr", "zennit", "pytorch_grad_cam", "torchcam.methods", "shap")
ZENNIT = ("attribution", "composites", "rules", "torchvision", "types")


def opened() -> dict[str, str]:
    """Import every library; return those that cannot be imported, with the reason."""
    open_torchvision()
    missing = {}
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
            for part in ZENNIT if name == "zennit" else ():
                importlib.import_module(f"zennit.{part}")
        except Exception as error:  # noqa: BLE001 - a table can do without a library
            missing[name.split(".")[0]] = f"{type(error).__name__}: {error}"
    return missing


def module(name: str) -> Any:  # noqa: ANN401 - a library without types
    """Return an imported module."""
    return importlib.import_module(name)


def captum(name: str, **settings: object) -> Callable[[Setup], Work]:
    """Return what calls an attribution of Captum."""

    def work(setup: Setup) -> Work:
        explainer = getattr(module("captum.attr"), name)(setup.model)
        given = {k: v(setup) if callable(v) else v for k, v in settings.items()}
        return lambda: explainer.attribute(
            setup.images.clone().requires_grad_(), target=setup.classes, **given
        )

    return work


def captum_with_gap(setup: Setup) -> Work:
    """Return what calls integrated gradients of Captum, which say how complete they are."""
    explainer = module("captum.attr").IntegratedGradients(setup.model)

    def run() -> Tensor:
        values, _ = explainer.attribute(
            setup.images,
            target=setup.classes,
            n_steps=setup.steps,
            internal_batch_size=BATCH,
            return_convergence_delta=True,
        )
        found: Tensor = values
        return found

    return run


def captum_noise(name: str, each: int | None) -> Callable[[Setup], Work]:
    """Return what calls SmoothGrad or GradientSHAP of Captum."""

    def work(setup: Setup) -> Work:
        attr = module("captum.attr")
        if name == "GradientShap":
            shap = attr.GradientShap(setup.model)
            return lambda: shap.attribute(
                setup.images,
                baselines=torch.zeros_like(setup.images[:1]),
                n_samples=setup.steps,
                stdevs=0.09,
                target=setup.classes,
            )
        tunnel = attr.NoiseTunnel(attr.Saliency(setup.model))
        return lambda: tunnel.attribute(
            setup.images,
            nt_type="smoothgrad",
            nt_samples=setup.steps,
            nt_samples_batch_size=each,
            stdevs=0.15,
            target=setup.classes,
            abs=False,
        )

    return work


def captum_lrp(rule: str | None) -> Callable[[Setup], Work]:
    """Return what calls LRP of Captum, with one rule at every convolution."""

    def work(setup: Setup) -> Work:
        rules = module("captum.attr._utils.lrp_rules")
        for layer in setup.model.modules():
            if rule is not None and isinstance(layer, nn.Conv2d):
                layer.rule = getattr(rules, rule)()
        lrp = module("captum.attr").LRP(setup.model)
        return lambda: lrp.attribute(setup.images.clone(), target=setup.classes)

    return work


def captum_cam(name: str) -> Callable[[Setup], Work]:
    """Return what calls Grad-CAM, or guided Grad-CAM, of Captum."""

    def work(setup: Setup) -> Work:
        explainer = getattr(module("captum.attr"), name)(setup.model, layer_of(setup))
        return lambda: explainer.attribute(setup.images.clone(), target=setup.classes)

    return work


def layer_of(setup: Setup) -> nn.Module:
    """Return the layer at which a user of these libraries would cut."""
    model: Any = setup.model
    found: nn.Module = model.blocks[-1].norm1 if setup.is_transformer else model.layer4[-1]
    return found


def zennit(
    attribution: str, rules: str | None = None, **settings: object
) -> Callable[[Setup], Work]:
    """Return what calls an attribution of zennit, under a composite if one is named."""

    def work(setup: Setup) -> Work:
        made = getattr(module("zennit.attribution"), attribution)
        given = {k: v(setup) if callable(v) else v for k, v in settings.items()}
        composite = None if rules is None else composite_of(setup, rules)

        def run() -> Tensor:
            with made(setup.model, composite, **given) as attributor:
                found: Tensor = attributor(setup.images.clone(), setup.one_hot)[1]
                return found

        return run

    return work


def composite_of(setup: Setup, name: str) -> Any:  # noqa: ANN401 - a library without types
    """Return a composite of zennit by name, with the canonizers that a ResNet needs."""
    composites, rules, types = (module(f"zennit.{m}") for m in ("composites", "rules", "types"))
    canonizers = [] if setup.is_transformer else [module("zennit.torchvision").ResNetCanonizer()]
    if name in ("Epsilon", "Gamma"):
        rule = rules.Epsilon() if name == "Epsilon" else rules.Gamma(gamma=0.25)
        pairs = [(types.Convolution, rule), (types.Linear, rules.Epsilon())]
        return composites.LayerMapComposite(
            [*composites.layer_map_base(), *pairs], canonizers=canonizers
        )
    return getattr(composites, name)(canonizers=canonizers)


def zennit_occlusion(setup: Setup) -> Work:
    """Return what calls occlusion of zennit."""
    made = module("zennit.attribution").Occlusion
    size = (WINDOW, WINDOW)

    def hidden(images: Tensor, mask: Tensor) -> Tensor:
        return images * ~mask

    def run() -> Tensor:
        with made(setup.model, occlusion_fn=hidden, window=size, stride=size) as attributor:
            found: Tensor = attributor(setup.images.clone(), setup.one_hot)[1]
            return found

    return run


def grad_cam(setup: Setup) -> Work:
    """Return what calls Grad-CAM of pytorch-grad-cam."""
    package = module("pytorch_grad_cam")
    output = module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    cam = package.GradCAM(
        model=setup.model,
        target_layers=[layer_of(setup)],
        reshape_transform=grid if setup.is_transformer else None,
    )
    targets = [output(int(k)) for k in setup.classes]
    return lambda: torch.from_numpy(cam(input_tensor=setup.images.clone(), targets=targets))


def grid(tokens: Tensor) -> Tensor:
    """Return patch tokens as maps, as the package's manual has it."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    patches = tokens[:, 1:].reshape(len(tokens), side, side, tokens.shape[2])
    return patches.permute(0, 3, 1, 2)


def grad_cam_guided(setup: Setup) -> Work:
    """Return what calls guided back-propagation of pytorch-grad-cam, image after image."""
    guided = module("pytorch_grad_cam").GuidedBackpropReLUModel(model=setup.model, device="cpu")

    def run() -> Tensor:
        maps = [
            guided(image[None].clone(), target_category=int(k))
            for image, k in zip(setup.images, setup.classes, strict=True)
        ]
        return torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in maps])

    return run


def torchcam(setup: Setup) -> Work:
    """Return what calls Grad-CAM of torchcam."""
    extractor = module("torchcam.methods").GradCAM(setup.model, layer_of(setup))

    def run() -> Tensor:
        scores = setup.model(setup.images.clone().requires_grad_())
        maps: list[Tensor] = extractor(setup.classes.tolist(), scores)
        return maps[0]

    return run


def shap(name: str, **settings: object) -> Callable[[Setup], Work]:
    """Return what calls an explainer of SHAP, for the class with the highest logit."""

    def work(setup: Setup) -> Work:
        explainer = getattr(module("shap"), name)(setup.model, torch.zeros_like(setup.images[:1]))
        given = {k: v(setup) if callable(v) else v for k, v in settings.items()}

        def run() -> Tensor:
            values, _ = explainer.shap_values(setup.images.clone(), ranked_outputs=1, **given)
            return torch.as_tensor(values[0] if isinstance(values, list) else values[..., 0])

        return run

    return work


def steps(setup: Setup) -> int:
    """Return the number of steps."""
    return setup.steps


SQUARE = (3, WINDOW, WINDOW)

PEERS: dict[str, dict[str, Callable[[Setup], Work]]] = {
    "gradient": {"captum": captum("Saliency", abs=False), "zennit": zennit("Gradient")},
    "input-x-gradient": {"captum": captum("InputXGradient")},
    "integrated-gradients": {
        "captum, batches of 8": captum(
            "IntegratedGradients", n_steps=steps, internal_batch_size=BATCH
        ),
        "captum, as it comes": captum("IntegratedGradients", n_steps=steps),
        "zennit": zennit("IntegratedGradients", n_iter=steps),
    },
    "smoothgrad": {
        "captum, one at a time": captum_noise("SmoothGrad", 1),
        "captum, as it comes": captum_noise("SmoothGrad", None),
        "zennit": zennit("SmoothGrad", n_iter=steps, noise_level=0.15),
    },
    "gradient-shap": {
        "captum": captum_noise("GradientShap", None),
        "shap": shap("GradientExplainer", nsamples=steps),
    },
    "guided-backpropagation": {
        "captum": captum("GuidedBackprop"),
        "zennit": zennit("Gradient", "GuidedBackprop"),
        "pytorch-grad-cam": grad_cam_guided,
    },
    "lrp-epsilon": {"captum": captum_lrp(None), "zennit": zennit("Gradient", "Epsilon")},
    "lrp-epsilon-plus": {
        "captum": captum_lrp("Alpha1_Beta0_Rule"),
        "zennit": zennit("Gradient", "EpsilonPlus"),
    },
    "lrp-epsilon-plus-flat": {"zennit": zennit("Gradient", "EpsilonPlusFlat")},
    "lrp-gamma": {"captum": captum_lrp("GammaRule"), "zennit": zennit("Gradient", "Gamma")},
    "deeplift": {
        "captum": captum("DeepLift"),
        "shap": shap("DeepExplainer", check_additivity=False),
    },
    "grad-cam": {
        "captum": captum_cam("LayerGradCam"),
        "pytorch-grad-cam": grad_cam,
        "torchcam": torchcam,
    },
    "guided-grad-cam": {"captum": captum_cam("GuidedGradCam")},
    "occlusion": {
        "captum": captum("Occlusion", sliding_window_shapes=SQUARE, strides=SQUARE),
        "zennit": zennit_occlusion,
    },
}
"""What each library does in each row."""
