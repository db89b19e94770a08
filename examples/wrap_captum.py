"""An attribution of Captum as a method of whence: the same call, the same checks, one table.

Captum's object is made for the model that is explained, so that the sanity check below, which
draws the weights of a copy anew, explains that copy. Needs ``pip install whence[parity]``.
"""

from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from cut_and_gradcam import trained_on_digits

import whence
from whence.attribution import GradCAM, captum_method, method_named
from whence.core import Blur, Method, ModelScalar, logit
from whence.evaluation import Deletion, ParameterRandomisation, random_order

SHORT = {"n_steps": 32, "method": "riemann_trapezoid"}

METHODS: dict[str, Method] = {
    "captum IG": captum_method(IntegratedGradients, settings={"n_steps": 32}),
    "captum IG, trapezoid": captum_method(IntegratedGradients, settings=SHORT),
    "whence IG": method_named("integrated-gradients", {"steps": "32"}),
    "captum IG from a blur": captum_method(
        IntegratedGradients, settings={"n_steps": 32, "baselines": Blur()}
    ),
    "captum SmoothGrad": captum_method(
        lambda model: NoiseTunnel(Saliency(model)),
        settings={"nt_samples": 16, "stdevs": 0.3, "abs": False},
    ),
}


def main() -> None:
    """Explain images of digits, and judge every method alike."""
    model, data = trained_on_digits()
    (batch,) = data.batches(6, range(0, 60, 10))
    f = ModelScalar(model.module, logit(batch.labels))
    chance = float(Deletion()(f, batch.images, random_order(batch.images)).mean())
    print(
        f"{'':24}{'gap':>8}{'deletion':>10}{'randomised':>12}    (deletion by chance {chance:.2f})"
    )
    gaps = {}
    for name, method in METHODS.items():
        result = whence.explain(
            model, batch.images, target="label", labels=batch.labels, method=method
        )
        deletion = float(Deletion()(f, batch.images, result.values).mean())
        cascade = ParameterRandomisation()(model.module, batch.images, f.target, method)
        gaps[name] = float("nan") if result.gap is None else float(result.gap.median())
        kept = float(cascade.correlations[-1].mean())
        print(f"{name:24}{gaps[name]:8.3f}{deletion:10.2f}{kept:12.2f}")
        assert deletion < chance
    assert gaps["captum IG, trapezoid"] > 4 * max(gaps["captum IG"], gaps["whence IG"])

    # Hooks need modules: take the layer from the model that the function is handed.
    cam = captum_method(lambda model: LayerGradCam(model, model[5]))(f, batch.images)
    network = whence.Network.read(model.module, batch.images)
    ours = GradCAM(relu=False)(ModelScalar(network, f.target), batch.images)
    print(f"Grad-CAM of both differ by {float((cam - ours).abs().max()):.1e}")
    assert (cam - ours).abs().max() < 1e-5


if __name__ == "__main__":
    main()
