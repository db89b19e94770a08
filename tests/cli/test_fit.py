"""`whence fit` as a person types it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

EXTRA = '''

def free():
    """Without biases, for three classes."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5, bias=False)
    )
    net.preprocessing = {"size": 12, "mean": 0.5, "std": 0.5}
    return net
'''


@pytest.fixture
def fit(whence, place):
    """Train the tiny model for an epoch into ``run/``; options given twice count last."""
    path = place / "model.py"
    path.write_text(path.read_text("utf-8") + EXTRA, "utf-8")

    def run(*words, model="model.py:tiny", train="train"):
        fixed = ("--model", model, "--train", train, "--validation", "test", "--out", "run")
        return whence("fit", *fixed, "--epochs", 1, "--batch-size", 6, *words)

    return run


def test_it_prints_what_was_compared_and_what_has_changed(fit, place):
    found = fit("--prior", "gini", "--prior-weights", "0.1,1", "--test", "test")
    assert found.exit_code == 0, found.output
    for text in ("no prior, bias-free", "weight 0.1", "weight 1", "homogeneous", "contrast"):
        assert text in found.stdout
    assert "run/weights.safetensors" in found.stdout
    assert found.stderr == ""
    assert {path.name for path in (place / "run").iterdir()} == {
        "fit.json", "report.md", "run.toml", "runs", "settings.json", "weights.safetensors",
    }  # fmt: skip


def test_the_weights_can_be_used_by_the_other_commands(fit, whence, document):
    assert fit().exit_code == 0
    words = ("--weights", "run/weights.safetensors", "--method", "gradient", "--json")
    explained = whence("explain", "test/plus/0.png", "--model", "model.py:tiny", *words)
    assert explained.exit_code == 0, explained.output
    document(explained)


def test_one_document_for_programs(fit, document):
    found = document(fit("--convert", "--json"))
    assert found["after"]["homogeneous"] is True
    assert found["rows"][0]["name"] == "no prior, bias-free"
    assert found["rows"][0]["penalty"] is None
    assert found["command"].startswith("whence")


def test_a_converted_network_is_kept_with_its_certificate_and_can_be_trained_on(
    fit, whence, document
):
    assert fit("--convert").exit_code == 0
    words = ("--method", "x-gradient", "--json")
    explained = whence("explain", "test/plus/0.png", "--model", "run/x-dnn.safetensors", *words)
    document(explained)
    again = document(fit("--out", "again", "--json", model="run/x-dnn.safetensors"))
    assert again["before"]["homogeneous"] is True
    assert again["after"]["homogeneous"] is True
    assert [row["name"] for row in again["rows"]] == ["no prior, bias-free"]


def test_routes_of_a_conversion_can_be_chosen(fit, document):
    found = document(fit("--convert", "--route", "strip-biases", "--json"))
    assert found["after"]["homogeneous"] is True


def test_a_new_head_on_a_network_without_biases_brings_none_back(fit, document):
    found = document(fit("--new-head", "--json", model="model.py:free"))
    assert found["classes"] == ["circle", "plus", "square"]
    assert found["before"] is None
    assert found["after"]["homogeneous"] is True
    state = load_file("run/weights.safetensors")
    assert set(state) == {"0.weight", "3.weight"}
    assert state["3.weight"].shape == (3, 400)


def test_a_network_of_a_library_is_trained_from_scratch(fit, document):
    pytest.importorskip("torchvision")
    words = ("--from-scratch", "--input", "size=32", "--json")
    found = document(fit(*words, model="torchvision/squeezenet1_1"))
    assert found["before"] is None
    assert found["after"]["images"] == 6


def test_a_box_and_a_file_of_masks_say_where_attributions_may_be(fit, place, document):
    words = ("--prior", "outside-mask", "--prior-weights", "1", "--json")
    boxed = document(fit(*words, "--box", "0,0,6,12"))
    mask = np.zeros((12, 12))
    mask[:, :6] = 1
    np.save(place / "mask.npy", mask)
    masked = document(fit(*words, "--masks", "mask.npy", "--overwrite"))
    assert boxed["rows"] == masked["rows"]


def test_ctrl_c_keeps_the_last_checkpoint_and_resume_goes_on(fit, document, monkeypatch):
    from whence.adapters.training import Loader

    words = ("--epochs", 3, "--json")
    whole = document(fit(*words))
    order, calls = Loader.order, []

    def stop(self):
        calls.append(1)
        if self.shuffled and int(self.trainer.current_epoch) == 2:
            raise KeyboardInterrupt
        return order(self)

    monkeypatch.setattr(Loader, "order", stop)
    stopped = fit(*words, "--overwrite")
    assert stopped.exit_code == 130
    assert "run/runs/no-prior/checkpoints/last.ckpt" in stopped.stderr
    assert "--resume" in stopped.stderr
    monkeypatch.setattr(Loader, "order", order)
    resumed = document(fit(*words, "--resume"))
    assert resumed["rows"] == whole["rows"]
    assert resumed["after"] == whole["after"]


REFUSED = {
    "an unknown prior": (("--prior", "ginni"), "There is no prior 'ginni'. Did you mean gini?"),
    "a prior without masks": (("--prior", "outside-mask"), "needs to know where"),
    "masks that are not used": (("--prior", "gini", "--box", "0,0,2,2"), "uses no masks"),
    "a box without a prior": (("--box", "0,0,2,2"), "and no prior"),
    "a box of three": (("--prior", "mask-energy", "--box", "0,0,2"), "left,top,right,bottom"),
    "a box outside": (("--prior", "mask-energy", "--box", "0,0,20,2"), "within 12 rows"),
    "weights in words": (("--prior", "gini", "--prior-weights", "some"), "numbers such as"),
    "an unknown optimiser": (("--optimiser", "adam"), "one of adamw, sgd; got 'adam'"),
    "a method that is not differentiable": (
        ("--prior", "gini", "--method", "occlusion", "--set", "window=8"),
        "Occlusion is not differentiable",
    ),
    "a route that adds to the images": (
        ("--convert", "--route", "homogeneous-coordinate"),
        "Train the network itself, then convert it",
    ),
    "an unknown route": (("--convert", "--route", "strip"), "Did you mean strip-biases"),
    "weights and none": (("--from-scratch", "--weights", "w.pt"), "takes no weights"),
    "images without labels": (("--train", "test/plus"), "have no labels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_ends_with_one_message(kind, fit):
    words, message = REFUSED[kind]
    found = fit(*words)
    assert found.exit_code == 1, found.output
    assert found.stderr.startswith("Error: ")
    assert message in found.stderr


def test_masks_of_another_size_are_refused_with_both(fit, place):
    np.save(place / "mask.npy", np.ones((5, 8, 8)))
    found = fit("--prior", "mask-l1", "--masks", "mask.npy")
    assert found.exit_code == 1
    assert "(5, 1, 8, 8); one of 12 x 12 for each of the 12 training images" in found.stderr


def test_a_training_is_the_same_twice(fit, place):
    assert fit("--seed", 3).exit_code == 0
    one = load_file("run/weights.safetensors")
    assert fit("--seed", 3, "--overwrite").exit_code == 0
    other = load_file("run/weights.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((place / "run" / "settings.json").read_text())["settings.seed"] == 3
