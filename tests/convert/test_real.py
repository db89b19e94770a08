"""A network that others trained: refused as it is, converted, fitted without labels, certified."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from whence.adapters import load_data, load_model
from whence.adapters.training import TrainingSettings
from whence.attribution import XGradient
from whence.convert import (
    ROUTES,
    RefitLayers,
    StripBiases,
    converted,
    load_x_dnn,
    save_x_dnn,
    x_dnn,
)
from whence.core import Logit, ModelScalar, TensorData
from whence.errors import UnsupportedOperation
from whence.network import Network
from whence.recipes.fit import fit

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


@pytest.fixture(scope="module")
def lenet(shared_data):
    loaded = load_model(
        f"{EXAMPLES / 'lenet_mnist.py'}:lenet",
        weights=shared_data / "weights" / "lenet_mnist_quanda.pt",
    )
    parts = {}
    for split, count in (("train", 1200), ("test", 600)):
        data = load_data(shared_data / "mnist.npz", loaded.preprocessing, split=split)
        (batch,) = data.batches(count, list(range(count)))
        parts[split] = TensorData(images=batch.images, labels=batch.labels, title=split)
    return loaded, parts


def test_a_plain_lenet_is_refused_with_all_its_offenders(lenet):
    loaded, parts = lenet
    images = parts["train"].images[:4]
    network = Network.read(loaded.module, images)
    verdict = network.homogeneity(images)
    assert [(o.path, o.operation) for o in verdict.offenders] == [
        ("conv_1", "conv2d"), ("conv_2", "conv2d"),
        ("fc_1", "linear"), ("fc_2", "linear"), ("fc_3", "linear"),
    ]  # fmt: skip
    identity = verdict.certificate.euler
    for image, (logit, pixels) in enumerate(zip(identity.explained, identity.total, strict=True)):
        assert pixels + sum(o.gaps[image] for o in verdict.offenders) == pytest.approx(
            logit, rel=1e-4
        )
    with pytest.raises(UnsupportedOperation, match=r"first offender is conv_1 \(conv2d\)"):
        XGradient()(ModelScalar(network, Logit(0)), images)


ELSEWHERE = """
import sys
import torch
import whence
from whence.convert import load_x_dnn
from whence.network import Network

assert "lenet_mnist" not in sys.modules and "examples" not in sys.modules
found = load_x_dnn("x.safetensors")
images, logits = torch.load("seen.pt", weights_only=True)
assert torch.equal(found.module(images), logits)
verdict = Network.read(found.module, images).homogeneity(images)
assert verdict.holds, verdict
assert max(found.certificate["scale_errors"].values()) <= found.certificate["tolerance"]
result = whence.explain(found.module, images, method="x-gradient")
assert result.cost == 1
print("proven", found.certificate["euler_error"])
"""


def test_converted_and_fine_tuned_it_is_certified_and_used_by_a_process_without_its_source(
    lenet, tmp_path
):
    loaded, parts = lenet
    record = fit(
        loaded,
        parts["train"],
        out=tmp_path / "run",
        test=parts["test"],
        settings=TrainingSettings(epochs=1, rate=3e-4),
        convert=True,
        routes=(StripBiases(), RefitLayers()),
    )
    assert record.before.homogeneous is False
    assert record.after.homogeneous is True
    assert record.before.accuracy > 0.97  # measured: 0.988
    assert record.after.accuracy > record.before.accuracy - 0.02  # measured: 0.983
    assert len(set(record.after.contrast)) == 1
    place = tmp_path / "elsewhere"
    place.mkdir()
    (tmp_path / "run" / "x-dnn.safetensors").rename(place / "x.safetensors")
    images = parts["test"].images[:4]
    made = load_x_dnn(place / "x.safetensors").module
    with torch.no_grad():
        torch.save((images, made(images)), place / "seen.pt")
    code = [sys.executable, "-c", ELSEWHERE]
    run = subprocess.run(code, cwd=place, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("proven")
