"""What a job would cost, held against what it does cost."""

import pytest
import torch
from torch import nn

from whence.core import TensorData
from whence.errors import DataError
from whence.gradients import Projection
from whence.influence import index_gradients
from whence.network import Network
from whence.recipes import evaluate, explain
from whence.recipes.rehearsal import (
    Multiplications,
    Trial,
    drawn_out,
    line,
    rehearse,
    some_of,
    work_of_a_pass,
    work_on,
)


def network():
    generator = torch.Generator().manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
    return made.eval()


def data(count):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    return TensorData(images=images, labels=torch.arange(count) % 3)


def passes_of(job, count, folder, work):
    """Count what a job really does."""
    with Multiplications() as counter:
        job(count, folder / "real")
    return counter.total / work.work


def test_the_multiplications_of_a_pass_are_those_of_its_layers():
    forward = 2 * (36 * 4 * 9) + 2 * 36 * 3  # 6 x 6 places, 4 filters of 9; 36 to 3
    assert work_of_a_pass(network(), data(1).images).work == 2 * forward


def test_a_model_that_reaches_a_module_with_the_image_itself_can_be_counted():
    # torch's own counter refuses this: the leaf enters a module whose hook it has set.
    module = nn.Sequential(nn.Identity(), network())
    assert work_of_a_pass(module, data(1).images).work > 0


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients", "occlusion", "grad-cam"])
def test_the_passes_of_an_explanation_are_exact(tmp_path, method):
    module, whole = network(), data(30)
    settings = {"window": 4, "stride": 4} if method == "occlusion" else {}

    def job(count, folder):
        explain(module, whole.images[:count], method=method, settings=settings).save(folder)

    work = work_on(module, whole)
    found = rehearse(job, 30, work=work, budget=0.2)
    assert found.passes == pytest.approx(passes_of(job, 30, tmp_path, work), rel=1e-6)
    real = explain(module, whole.images, method=method, settings=settings)
    if method == "gradient":
        assert found.passes == pytest.approx(30 * (real.cost + 0.5))  # and the prediction
    assert set(found.files) == {"explanation.json", "arrays.npz"}
    size = (tmp_path / "real" / "explanation.json").stat().st_size
    assert found.files["explanation.json"] == pytest.approx(size, rel=0.1)


def test_the_passes_of_an_index_are_exact_and_its_bytes_near(tmp_path):
    whole = data(60)
    net = Network.read(network(), whole.images[:2])

    def job(count, folder):
        index_gradients(
            net, some_of(whole, count), folder, projection=Projection(dimension=8, seed=0)
        )

    work = work_on(network(), whole)
    found = rehearse(job, 60, work=work, budget=0.2)
    assert found.passes == pytest.approx(passes_of(job, 60, tmp_path, work), rel=1e-6)
    real = sum(one.stat().st_size for one in (tmp_path / "real").iterdir())
    assert found.disk == pytest.approx(real, rel=0.1)


def test_the_passes_of_an_evaluation_are_exact(tmp_path):
    module, whole = network(), data(24)

    def job(count, folder):
        evaluate(
            module,
            whole,
            methods=["gradient", "integrated-gradients:steps=4"],
            metrics=["deletion:steps=3", "gini"],
            count=count,
            out=folder,
        )

    work = work_on(module, whole)
    found = rehearse(job, 24, work=work, least=4, budget=0.2)
    assert found.passes == pytest.approx(passes_of(job, 24, tmp_path, work), rel=1e-6)
    assert {"report.html", "values.csv", "cells/"} <= set(found.files)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rehearse(
        lambda count, folder: (folder / "a.bin").write_bytes(bytes(count)),
        1000,
        work=work_on(network(), data(2)),
        budget=0.01,
    )
    assert list(tmp_path.iterdir()) == []


def test_bytes_grow_with_the_images():
    found = rehearse(
        lambda count, folder: (folder / "a.bin").write_bytes(bytes(100 + 7 * count)),
        1000,
        work=work_on(network(), data(2)),
        budget=0.01,
    )
    assert found.files == {"a.bin": 100 + 7 * 1000}
    assert found.low <= found.seconds <= found.high
    assert found.memory > 1e6


def made(size, seconds):
    return Trial(size=size, seconds=seconds, cpu=0.0, passes=0.0, memory=None, files={})


def test_what_every_run_costs_once_is_not_drawn_out():
    seconds, low, high = drawn_out([made(10, 6.0), made(20, 7.0)], 100)
    assert seconds == pytest.approx(5 + 100 * 0.1)
    assert low < seconds < high < 100 * 7.0 / 20 * 1.4


def test_a_line_never_falls():
    trials = [made(10, 6.0), made(20, 5.0)]
    assert line(trials, [6.0, 5.0], 1000) == 5.0
    assert line(trials, [1.0, 2.0], 30) == 3.0


def test_some_images_are_numbered_anew_and_keep_names_and_labels():
    whole = data(10)
    part = some_of(whole, 4)
    (batch,) = part.batches(8)
    assert batch.indices.tolist() == [0, 1, 2, 3]
    assert torch.equal(batch.images, whole.images[list(part.places)])
    assert [part.label(k) for k in range(4)] == batch.labels.tolist()
    assert [part.name(k) for k in range(4)] == [str(place) for place in part.places]
    (last,) = part.batches(8, [3])
    assert torch.equal(last.images[0], whole.images[part.places[3]])


def test_data_without_images_have_no_pass():
    with pytest.raises(DataError, match="no usable image"):
        work_on(network(), TensorData(images=torch.zeros(0, 1, 8, 8)))
