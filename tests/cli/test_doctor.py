"""`whence doctor`: what is broken is shown, and never breaks the doctor."""

import builtins
import json
import sys

import pytest

from whence.cli import diagnosis
from whence.cli.diagnosis import extras, libraries, pair_for, vision
from whence.cli.doctor import needs


@pytest.fixture
def sound_vision(monkeypatch):
    """Pretend that torchvision is not installed, so that its state does not matter."""
    found = diagnosis.version_of
    monkeypatch.setattr(
        diagnosis, "version_of", lambda name: None if name == "torchvision" else found(name)
    )


@pytest.mark.usefixtures("sound_vision")
def test_it_says_what_is_there_and_ends_with_0(whence, document):
    found = document(whence("doctor", "--json"))
    assert found["sound"] is True
    topics = {one["topic"] for one in found["checks"]}
    assert topics == {"installed", "extras", "devices", "places"}
    named = {one["name"]: one for one in found["checks"]}
    assert {"python", "torch", "whence", "cpu", "threads", "here", "temporary"} <= set(named)
    text = whence("doctor").stdout
    assert "All is well." in text
    assert named["torch"]["says"] in text


@pytest.mark.usefixtures("sound_vision")
def test_what_will_not_do_ends_with_1_and_says_what_to_do(whence):
    found = whence("doctor", "--device", "cuda:77", "--json")
    assert found.exit_code == 1
    (fault,) = [one for one in json.loads(found.stdout)["checks"] if one["state"] == "fault"]
    assert fault["name"] == "cuda:77"
    assert "--device cpu" in fault["advice"]
    assert "Will not do: cuda:77" in whence("doctor", "--device", "cuda:77").stdout


def broken(monkeypatch, package, error):
    """Let the import of a package fail."""
    real = builtins.__import__

    def fail(name, *arguments, **keywords):
        if name.split(".")[0] == package:
            raise error
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", fail)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(("works", "state"), [(True, "note"), (False, "fault")])
def test_a_torchvision_that_does_not_load_is_shown_with_the_pair_that_fits(
    monkeypatch, works, state
):
    monkeypatch.setattr(
        diagnosis, "version_of", {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}.get
    )

    def fail(name):
        msg = f"operator {name}::nms does not exist\nand more"
        raise RuntimeError(msg)

    monkeypatch.setattr(diagnosis.importlib, "import_module", fail)
    monkeypatch.setattr(diagnosis, "opens_without_operators", lambda: works)
    found = vision()
    assert found.state == state
    assert ("models, datasets and transforms work" in found.says) == works
    assert "the versions fit, but its compiled part does not load" in found.says
    assert "and more" not in found.says
    assert "'torch==2.13.*' 'torchvision==0.28.*'" in found.advice


def test_a_torch_that_does_not_import_is_a_finding(monkeypatch):
    broken(monkeypatch, "torch", OSError("libtorch.so: cannot open shared object file"))
    *_, found = libraries()
    assert (found.name, found.state) == ("torch", "fault")
    assert "libtorch.so" in found.says
    assert [one.name for one in diagnosis.devices("cpu")] == ["cpu"]


@pytest.mark.parametrize(("torch", "vision"), [("2.6.0", "0.21"), ("2.13.0+cpu", "0.28")])
def test_torchvision_goes_with_torch(torch, vision):
    assert pair_for(torch) == vision
    assert pair_for("3.0") is None


def test_each_extra_of_a_user_is_there_or_has_its_install_line(monkeypatch):
    lines = [
        "torch>=2.6",
        "timm>=1.0; extra == 'timm'",
        "torchvision>=0.21; extra == 'timm'",
        'nowhere-to-be-found>=1; extra == "ray"',
        "pytest>=8; extra == 'dev'",
    ]
    monkeypatch.setattr(diagnosis.metadata, "requires", lambda name: lines)
    found = {one.name: one for one in extras()}
    assert set(found) == {"timm", "ray"}
    assert found["ray"].advice == "pip install 'whence[ray]'"
    assert found["ray"].says == "nowhere-to-be-found missing"


@pytest.mark.usefixtures("sound_vision")
def test_a_planned_job_is_held_against_what_is_there(whence, place, document, monkeypatch):
    words = ("doctor", "--for", "audit", "--model", "model.py:tiny", "--json")
    found = document(whence(*words))
    (said,) = [one for one in found["checks"] if one["name"] == "memory"]
    assert (said["topic"], said["state"]) == ("job", "ok")
    monkeypatch.setattr("whence.cli.doctor.memory", lambda: (1000, 1000))
    small = whence(*words)
    assert small.exit_code == 1
    (said,) = [one for one in json.loads(small.stdout)["checks"] if one["name"] == "memory"]
    assert "--batch-size" in said["advice"]
    assert "projected" in said["advice"]


@pytest.mark.usefixtures("sound_vision")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--for", "sing"), "There is no job 'sing'"),
        (("--for", "fit", "--model", "nothing.py:x"), "There is no Python file"),
    ],
    ids=["job", "model"],
)
def test_a_job_that_cannot_be_planned_is_a_finding(whence, words, says):
    found = whence("doctor", *words, "--json")
    assert found.exit_code == 1
    assert says in json.loads(found.stdout)["checks"][-1]["says"]


def test_the_memory_of_a_job_is_the_sum_of_what_it_holds(place):
    from whence.recipes import load_subject

    model = load_subject("model.py:tiny")
    weights = 4 * 163
    audit, _, _ = needs("audit", model, 100, 8)
    explain, _, _ = needs("explain", model, 100, 8)
    assert audit - explain == 20 * 2 * weights
    _, disk, _ = needs("index", model, 100, 8)
    assert disk == 1e6 + 2 * 100 * 163
