"""An evaluation on trained weights and real photographs, where the shared data are there."""

from pathlib import Path

import pytest

import whence
from whence.recipes import load_images, load_subject

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "resnet20-12fca82f.th"


@pytest.mark.reproduction
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the trained weights in ../shared/data")
def test_on_a_trained_resnet_grad_cam_is_more_than_chance_and_raw_gradients_are_not_claimed():
    factory = f"{REPOSITORY / 'examples' / 'cifar_resnet.py'}:resnet20"
    model = load_subject(factory, weights=WEIGHTS)
    data = load_images(f"{SHARED / 'cifar10_lossless.npz'}#test", model)
    record = whence.evaluate(
        model,
        data,
        methods=("grad-cam", "gradient"),
        metrics=("insertion:steps=5", "idsds"),
        count=32,
        batch_size=32,
    )
    name = record.networks[0].name
    assert record.networks[0].accuracy > 0.85
    for metric in ("insertion:steps=5", "idsds"):
        assert record.score(name, metric, "grad-cam").verdict == "better"
        assert record.score(name, metric, "gradient").verdict != "better"
