"""Methods of whence inside Quantus: its metrics call them as ``explain_func``.

MPRT draws the weights of copies of the model anew, layer by layer, and explains every copy: a map
that stays the same (1.0) explains nothing that was learnt. FaithfulnessCorrelation compares a
map with what happens when random pixels are removed. Needs ``pip install whence[parity]``.
"""

import numpy as np
from cut_and_gradcam import trained_on_digits
from torch import Tensor, nn

from whence.adapters.torchvision import open_torchvision
from whence.attribution import IntegratedGradients, as_quantus, function_method
from whence.core import Blur

open_torchvision()  # Quantus imports it; a build that does not fit the installed torch is mended
import quantus  # noqa: E402


def edges(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return where an image changes from left to right: a map that asks no model."""
    del model, classes
    return images.detach().diff(dim=3, prepend=images[..., :1].detach()).abs()


METHODS = {
    "gradient": as_quantus("gradient"),
    "integrated gradients": as_quantus(IntegratedGradients(steps=16, baseline=Blur())),
    "LRP": as_quantus("lrp"),
    "edges": as_quantus(function_method(edges)),
}


def main() -> None:
    """Print both scores of each method, averaged over images of digits."""
    model, data = trained_on_digits()
    (batch,) = data.batches(6, range(0, 60, 10))
    call = {"model": model.module, "x_batch": batch.images.numpy()}
    call["y_batch"] = batch.labels.numpy()
    randomised = quantus.MPRT(return_last_correlation=True, disable_warnings=True)
    faithful = quantus.FaithfulnessCorrelation(subset_size=50, nr_runs=40, disable_warnings=True)

    kept, score = {}, {}
    print(f"{'':22}{'same after randomising':>24}{'faithfulness':>14}")
    for name, function in METHODS.items():
        np.random.seed(0)  # noqa: NPY002 - Quantus draws from the global generator
        kept[name] = np.mean(randomised(**call, explain_func=function))
        score[name] = np.mean(faithful(**call, explain_func=function))
        print(f"{name:22}{kept[name]:24.2f}{score[name]:14.2f}")
    assert kept["edges"] > 0.999 > kept["gradient"]
    assert score["integrated gradients"] > score["edges"]


if __name__ == "__main__":
    main()
