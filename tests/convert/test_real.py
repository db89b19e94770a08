"""A network that others trained: refused as it is, converted, fitted without labels, certified."""

from pathlib import Path

import pytest
import torch

from whence.adapters import load_data, load_model
from whence.attribution import XGradient
from whence.convert import ROUTES, RefitLayers, converted, load_x_dnn, save_x_dnn, x_dnn
from whence.core import Logit, ModelScalar
from whence.errors import UnsupportedOperation
from whence.network import Network

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.reproduction


@pytest.fixture(scope="module")
def subject(shared_data):
    loaded = load_model(
        f"{EXAMPLES / 'cifar_resnet.py'}:resnet20",
        weights=shared_data / "weights" / "resnet20-12fca82f.th",
    )
    parts = {}
    for split in ("train", "test"):
        data = load_data(
            shared_data / "cifar10_lossless.npz",
            loaded.preprocessing,
            classes=loaded.classes,
            split=split,
        )
        batches = list(data.batches(256, list(range(256 if split == "train" else 500))))
        parts[split] = tuple(
            torch.cat([getattr(b, name) for b in batches]) for name in ("images", "labels")
        )
    return loaded.module, parts


def accuracy(model, part):
    images, labels = part
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def test_the_trained_network_is_refused_and_its_biases_make_up_most_of_the_logit(subject):
    model, parts = subject
    images = parts["train"][0][:4]
    network = Network.read(model, images)
    verdict = network.homogeneity(images)
    assert verdict.first_offender.path == "bn1"
    assert [(kind.operation, len(kind.paths)) for kind in verdict.needed] == [
        ("batch_norm", 19),
        ("linear", 1),
    ]
    identity = verdict.certificate.euler
    for image, (logit, pixels) in enumerate(zip(identity.explained, identity.total, strict=True)):
        assert pixels + sum(o.gaps[image] for o in verdict.offenders) == pytest.approx(
            logit, rel=1e-4
        )
    assert sum(identity.total) < 0.5 * sum(identity.explained)
    with pytest.raises(UnsupportedOperation, match=r"first offender is bn1 \(batch_norm\)"):
        XGradient()(ModelScalar(network, Logit(0)), images)


def test_without_its_shifts_it_guesses_and_fitted_without_labels_it_does_not(subject, tmp_path):
    model, parts = subject
    images = parts["train"][0]
    assert accuracy(model, parts["test"]) == pytest.approx(0.91, abs=0.002)
    assert accuracy(converted(model, images[:16]).model, parts["test"]) < 0.2
    made = x_dnn(model, images, routes=(*ROUTES, RefitLayers()))
    assert accuracy(made.model, parts["test"]) > 0.83  # measured: 0.850
    path = tmp_path / "x.safetensors"
    certificate = save_x_dnn(made.model, images, path, changes=made.report.changes)
    assert max(certificate["scale_errors"].values()) <= 1e-5
    assert certificate["euler_error"] <= 1e-5
    loaded = load_x_dnn(path).module
    few = parts["test"][0][:8]
    assert torch.equal(loaded(few), made.model(few))
    network = Network.read(loaded, few)
    logits, classes = network(few).max(1)
    maps = XGradient()(ModelScalar(network, Logit(classes)), few)
    gap = (maps.sum((1, 2, 3)) - logits).abs() / maps.abs().sum((1, 2, 3))
    assert gap.max() <= 1e-5
