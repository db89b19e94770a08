"""Live answers are those of explain and of influence, about one picture at a time."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from whence.adapters import LoadedModel, declared_preprocessing
from whence.attribution import InputXGradient
from whence.core import Margin, TensorData
from whence.errors import ImageError, MismatchError, SettingError, TargetError
from whence.influence import GradCos, influence
from whence.network import Network
from whence.recipes import explain
from whence.recipes.live import LiveModels
from whence.recipes.live_load import load_live
from whence.recipes.transfer_request import NetworkLine

CLASSES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    net.append(nn.Linear(16, 3))
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
    return LoadedModel(
        module=net.eval(),
        name="tiny",
        classes=CLASSES,
        preprocessing=declared_preprocessing({"size": 8, "mean": 0.5, "std": 0.5}, "a test"),
    )


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(12, 3, 8, 8, generator=generator) * 2 - 1
    return TensorData(images=images, labels=torch.arange(12) % 3, classes=CLASSES)


@pytest.fixture(scope="module")
def live(model, data):
    return LiveModels(models={"tiny": model}, train=data, test=data, count=3)


def picture_file():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue(), torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def test_the_map_of_an_uploaded_picture_is_that_of_explain(live, model, untouched):
    content, images = picture_file()
    with untouched(model.module):
        found = live.explain(
            content, "a.png", network="tiny", method="input-x-gradient", target="dog", versus="cat"
        )
    expected = explain(model, images, target=1, versus=0, method=InputXGradient())
    np.testing.assert_allclose(
        found.maps[0].values, expected.values.sum(dim=1)[0].detach().numpy(), atol=1e-6
    )
    assert found.names == ("a.png",)
    assert found.model.fingerprint == expected.model.fingerprint


def test_an_image_of_the_data_is_traced_to_the_training_images_of_influence(live, model, data):
    image = ("test", 4)
    explained = live.explain(image, "4", network="tiny", method="gradient")
    record = live.trace(image, explained, target="eel")
    network = Network.read(model.module, data.images[:1])
    scores = influence(
        network, data, data.images[4:5], Margin(torch.tensor([2])), scorer=GradCos()
    ).scores[:, 0]
    (query,) = record.queries
    top = scores.topk(3)
    assert [one.index for one in query.proponents] == top.indices.tolist()
    assert [one.score for one in query.proponents] == pytest.approx(top.values.tolist())
    assert [one.index for one in query.opponents] == (-scores).topk(3).indices.tolist()
    assert query.prediction == 2
    assert set(record.training_images) >= {one.index for one in query.proponents}
    with torch.no_grad():
        logits = model.module(data.images[4:5])
    assert query.confidence == pytest.approx(float(logits.softmax(1)[0, 2]), abs=1e-6)


def test_what_speaks_for_one_class_rather_than_another_is_a_difference(live):
    explained = live.explain(("test", 1), "1", network="tiny", method="gradient")
    first = live.trace(("test", 1), explained, target="dog", versus="cat").queries[0]
    second = live.trace(("test", 1), explained, target="cat", versus="dog").queries[0]
    assert [one.index for one in first.proponents] == [one.index for one in second.opponents]
    assert [one.score for one in first.proponents] == pytest.approx(
        [-one.score for one in second.opponents], rel=1e-4
    )


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"target": "dgo"}, TargetError, "Did you mean dog"),
        ({"target": "3"}, TargetError, "a number from 0 to 2"),
        ({"network": "other"}, SettingError, "There are: tiny"),
        ({"method": "gradeint"}, SettingError, "Did you mean gradient"),
        ({"image": ("nowhere", 0)}, SettingError, "There are: test, train"),
        ({"image": b"no picture"}, ImageError, "no image"),
    ],
)
def test_what_does_not_exist_is_named(live, change, error, says):
    asked = {"image": ("test", 0), "network": "tiny", "method": "gradient"} | change
    with pytest.raises(error, match=says):
        live.explain(asked.pop("image"), "0", **asked)


def test_progress_may_stop_a_trace(live):
    explained = live.explain(("test", 0), "0", network="tiny", method="gradient")

    def stop(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.trace(("test", 0), explained, progress=stop)


def test_without_training_images_nothing_is_traced(model):
    live = LiveModels(models={"tiny": model})
    content, _ = picture_file()
    explained = live.explain(content, "a.png", network="tiny", method="gradient")
    assert not live.traces
    with pytest.raises(SettingError, match="--train"):
        live.trace(content, explained)


def test_another_network_than_the_audited_one_is_refused_or_told(tmp_path, data):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n"
        "    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))\n"
        "    nn.init.ones_(net[2].weight)\n"
        "    nn.init.zeros_(net[2].bias)\n"
        "    net.preprocessing = {'size': 8, 'mean': 0.5, 'std': 0.5}\n"
        "    net.classes = ('cat', 'dog', 'eel')\n"
        "    return net.eval()\n",
        "utf-8",
    )
    from whence import audit

    line = NetworkLine(name="net", model=f"{tmp_path / 'net.py'}:make")
    same = load_live([line])
    record = audit(same.main, data, data, queries=[0], count=1, k=1)
    assert load_live([line], audited=record, same=True).note == ""
    with torch.no_grad():
        same.main.module[2].bias += 1
    record = audit(same.main, data, data, queries=[0], count=1, k=1)
    assert "other weights" in load_live([line], audited=record).note
    with pytest.raises(MismatchError, match="other weights"):
        load_live([line], audited=record, same=True)
