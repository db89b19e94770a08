"""The masking table and IDSDS of the reproduction, on tiny networks instead of the trained ones."""

import pytest
import torch
from torch import nn

from reproductions.xdnn import idsds, masking
from reproductions.xdnn.networks import VGG
from reproductions.xdnn.pictures import DIGITS
from reproductions.xdnn.training import REGULAR, SCRATCH
from whence.convert import x_dnn
from whence.evaluation import MASKING

LABELS = torch.arange(12) % 3


@pytest.fixture
def images():
    return torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny(monkeypatch, images):
    """Stand-ins for the trained networks, the test images and the references."""
    parts = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
    net = nn.Sequential(*parts, nn.Linear(64, 3)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator))
    made = {REGULAR: net, SCRATCH: x_dnn(net, images).model}

    class Task:
        def some(self, count):
            return images[:5]

    def trained(dataset, architecture, variant, **_):
        return made[variant], None

    for part in (masking, idsds):
        monkeypatch.setattr(part, "trained", trained)
        monkeypatch.setattr(part, "chosen", lambda *_: (images, LABELS))
    monkeypatch.setattr(masking, "pictures", lambda _: Task())


def test_the_masking_row_of_x_gradient_is_that_of_ig_on_an_x_dnn_and_refused_elsewhere(tiny):
    rows = {}
    for variant in (REGULAR, SCRATCH):
        cell = masking.Cell(dataset=DIGITS, architecture=VGG, variant=variant)
        rows[cell.name] = masking.measure(cell)
    regular, x = (rows[f"{DIGITS}/{VGG}/{variant}"] for variant in (REGULAR, SCRATCH))
    assert masking.X_GRADIENT not in regular["methods"]
    assert "first offender is 0 (conv2d)" in regular["refused"]
    for metric in MASKING:
        one, many = (x["methods"][m][metric] for m in (masking.X_GRADIENT, masking.INTEGRATED))
        assert one == pytest.approx(many, abs=1e-5)
    for areas in x["methods"].values():
        assert all(low <= mean <= high for mean, low, high in areas.values())
        assert areas["KPM"][1] < areas["KPM"][2]
    random = regular["methods"]["Random"]
    assert random["KPM"] != regular["methods"]["Grad (1)"]["KPM"]
    text = masking.report(rows)
    assert text.count("| X from scratch, ") == 5
    assert text.count("| regular, ") == 4 + 4  # ours and the paper's
    assert "X-Gradient is refused" in text


def test_random_values_differ_between_images_and_not_between_calls(images):
    values = masking.RandomValues()(None, images)
    assert torch.equal(values, masking.RandomValues()(None, images))
    assert (values[0] != values[1]).all()
    assert -0.5 <= values.min() < -0.4 < 0.4 < values.max() <= 0.5


def test_idsds_says_of_each_x_dnn_what_is_above_x_gradient(tiny):
    rows = {}
    for variant in (REGULAR, SCRATCH):
        cell = idsds.Cell(dataset=DIGITS, architecture=VGG, variant=variant, tuned=False)
        rows[cell.name] = idsds.measure(cell)
    regular, x = rows.values()
    assert "X-Gradient" not in regular["scores"]
    assert x["scores"]["X-Gradient"] == pytest.approx(x["scores"]["Input x Gradient"])
    assert x["scores"]["X-Gradient"] == pytest.approx(x["scores"]["IG"])
    assert x["over"]["IG"] == pytest.approx([0, 0, 0])
    text = idsds.report(rows)
    assert "| X-Gradient | refused |" in text
    assert text.count("X-Gradient 0.") == 1
    assert "IG alike (+0.000)" in text
