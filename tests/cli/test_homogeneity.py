"""`whence homogeneity` as a person types it: the offenders, their cures, and caps that hide."""

import json

import pytest

EXTRA = """

def capped(cap):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), cap, nn.Flatten(),
                        nn.Linear(400, 3, bias=False))
    net.preprocessing = {"size": 12, "mean": 0.5, "std": 0.5}
    net.classes = ("circle", "plus", "square")
    return net

def relu6():
    return capped(nn.ReLU6())

def hardtanh():
    return capped(nn.Hardtanh(0.0, 50.0))

def bare():
    return capped(nn.ReLU()).train()
"""


@pytest.fixture
def extended(place):
    path = place / "model.py"
    path.write_text(path.read_text("utf-8") + EXTRA, "utf-8")


def test_the_first_offender_and_all_others_are_named_with_reason_and_cure(whence):
    found = whence("homogeneity", "model.py:tiny")
    assert found.exit_code == 0, found.output
    for text in (
        "Not an X-DNN: 2 operations break homogeneity.",
        "First offender: 0 (conv2d). It adds a bias",
        "1 x linear",
        "At 4;",
        "f(kx) = k f(x)",
        "f(0) = 0",
        "the offenders for",
    ):
        assert text in found.stdout
    every = whence("homogeneity", "model.py:tiny", "--all")
    for text in ("adaptive_avg_pool2d", "relu", "none", "Remove it"):
        assert text in every.stdout


def test_pixels_and_offenders_add_up_to_the_logit_in_the_json(whence, document):
    found = document(whence("homogeneity", "model.py:tiny", "--json"))
    assert found["holds"] is False
    tested = found["certificate"]
    for image, logit in enumerate(tested["logits"]):
        added = sum(offender["adds"][image] for offender in found["offenders"])
        assert added + tested["pixels"][image] == pytest.approx(logit, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["relu6", "hardtanh"])
def test_caps_are_refused_although_a_local_test_passes(name, whence, extended, document):
    found = document(whence("homogeneity", f"model.py:{name}", "--json"))
    assert found["holds"] is False
    assert [(one["path"], one["operation"]) for one in found["offenders"]] == [("1", "hardtanh")]
    assert found["certificate"]["euler_error"] < 1e-5
    assert json.loads(json.dumps(found["certificate"]["scale_errors"]))["1000.0"] > 0.1


def test_a_network_without_biases_is_one_also_if_its_maker_left_it_in_train_mode(whence, extended):
    found = whence("homogeneity", "model.py:bare")
    assert found.exit_code == 0, found.output
    assert "Nonnegatively homogeneous of degree 1: an X-DNN." in found.stdout


def test_a_model_that_cannot_be_read_is_one_message(whence):
    found = whence("homogeneity", "model.py:branching")
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr.startswith("Error: ")
