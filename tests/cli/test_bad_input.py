"""What a person who gives something wrong gets: one clear message, and no half-written result."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image


def assert_refused(result, place, *words):
    """One message with these words, no traceback, exit code 1, and nothing written."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert_nothing_left(place)


def assert_nothing_left(place):
    left = {entry.name for entry in place.iterdir()}
    assert left <= {"model.py", "train", "test", "weights.pt", "data.npz", "empty", "__pycache__"}


def test_a_missing_weight_file_is_named(audit, place):
    result = audit("--weights", "nowhere.pt")
    assert_refused(result, place, "no weight file nowhere.pt")


def test_a_truncated_weight_file_is_refused(audit, place, weight_file):
    path = weight_file()
    path.write_bytes(path.read_bytes()[:700])
    assert_refused(audit("--weights", path), place, "truncated or corrupt")


def test_a_page_saved_as_a_weight_file_is_refused(audit, place):
    (place / "weights.pt").write_text("<!DOCTYPE html><html><body>404</body></html>")
    assert_refused(audit("--weights", "weights.pt"), place, "weights.pt")


def test_weights_that_do_not_fit_are_refused_with_their_keys(audit, place, weight_file):
    path = weight_file(lambda s: {k.replace("4.", "head."): v for k, v in s.items()})
    assert_refused(audit("--weights", path), place, "4.weight", "head.weight")


def test_nan_in_a_weight_file_is_refused_by_name(audit, place, weight_file):
    def spoil(state):
        state["0.weight"][0, 0, 0, 0] = float("nan")
        return state

    assert_refused(audit("--weights", weight_file(spoil)), place, "NaN", "0.weight")


@pytest.mark.parametrize("command", ["audit", "explain"])
def test_nan_in_a_factorys_weights_is_refused_by_name(audit, whence, place, command):
    if command == "audit":
        result = audit(model="model.py:nan")
    else:
        result = whence("explain", "test", "--model", "model.py:nan")
    assert_refused(result, place, "NaN", "4.weight")


def test_a_label_outside_the_classes_is_refused_with_the_image(audit, place):
    images = np.zeros((4, 12, 12, 3), dtype=np.uint8)
    np.savez(place / "data.npz", x=images, y=np.array([0, 1, 7, 2]))
    assert_refused(audit(train="data.npz"), place, "x[2]", "label 7", "3 classes")


def test_a_folder_without_images_is_refused(audit, place):
    (place / "empty").mkdir()
    (place / "empty" / "notes.txt").write_text("no picture here")
    assert_refused(audit(train="empty"), place, "holds no images", "among 1 files")


def test_training_images_without_labels_are_refused(audit, place):
    assert_refused(audit(train="train/plus"), place, "no labels")


def test_a_truncated_picture_in_the_middle_is_left_out_and_named(audit, place, document):
    whole = place / "train" / "plus" / "1.png"
    Image.open(whole).resize((64, 64)).save(place / "train" / "plus" / "broken.jpg", quality=95)
    broken = place / "train" / "plus" / "broken.jpg"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    found = document(audit("--json"))
    assert [one["name"] for one in found["skipped"]] == ["plus/broken.jpg"]
    assert "truncated" in found["skipped"][0]["reason"]
    assert "plus/broken.jpg" in (place / "audit" / "report.html").read_text(encoding="utf-8")


def test_pictures_of_16_bits_and_cmyk_are_used(audit, place, document):
    deep = np.random.default_rng(0).integers(0, 2**16, (12, 12), dtype=np.uint16)
    Image.fromarray(deep).save(place / "train" / "plus" / "deep.png")
    Image.open(place / "train" / "plus" / "0.png").convert("CMYK").save(
        place / "train" / "plus" / "print.jpg"
    )
    assert document(audit("--json"))["skipped"] == []


def test_a_model_that_cannot_be_exported_is_refused_with_what_still_works(audit, place):
    result = audit(model="model.py:branching")
    assert_refused(result, place, "could not be read as a graph", "integrated-gradients")


def test_a_gradient_method_explains_a_model_that_cannot_be_exported(whence, document):
    words = ("explain", "test", "--model", "model.py:branching", "--set", "steps=4", "--json")
    assert len(document(whence(*words))["images"]) == 6


@pytest.mark.parametrize("command", ["audit", "explain"])
def test_an_existing_result_is_only_replaced_on_request(audit, whence, place, document, command):
    def run(*more):
        if command == "audit":
            return audit("--json", *more)
        words = ("--model", "model.py:tiny", "--out", "audit", "--set", "steps=4", "--json")
        return whence("explain", "test", *words, *more)

    document(run())
    before = {path.name: path.read_bytes() for path in (place / "audit").iterdir()}
    result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--overwrite" in result.stderr
    assert {path.name: path.read_bytes() for path in (place / "audit").iterdir()} == before
    document(run("--overwrite"))
    assert {path.name for path in (place / "audit").iterdir()} == set(before)


def test_a_folder_of_somebody_else_is_never_replaced(audit, place):
    (place / "audit").mkdir()
    (place / "audit" / "thesis.tex").write_text("years of work")
    result = audit("--overwrite")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "thesis.tex" in result.stderr
    assert (place / "audit" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "integrated-gradient"), "Did you mean integrated-gradients"),
        (("--set", "stops=3"), "steps"),
        (("--set", "steps"), "key=value"),
        (("--set", "max_steps=few"), "a whole number"),
        (("--set", "steps=5"), "given twice"),
        (("--score", "grad-sum"), "grad-cos, grad-dot"),
        (("--parameters", "layer9.*"), "No parameter matches 'layer9.*'"),
        (("--queries", "some"), "wrong, all, or places"),
        (("--queries", "0,600"), "[600]"),
        (("--input", "sise=12"), "'sise'"),
        (("--device", "gpu"), "'gpu'"),
        (("--classes", "names.txt"), "names.txt"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_there_is(audit, place, words, message):
    assert_refused(audit(*words), place, message)


@pytest.mark.parametrize("words", [("audit",), ("explain", "test"), ("audit", "--count", "0")])
def test_wrong_usage_ends_with_2(whence, words):
    assert whence(*words).exit_code == 2


def test_verbose_shows_the_traceback(audit):
    result = audit("--weights", "nowhere.pt", "-v")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("stage", ["predicting", "influence", "attribution", "training features"])
def test_a_stop_in_any_stage_leaves_nothing_behind(audit, place, monkeypatch, stage):
    from contextlib import nullcontext

    def stop(now, done, total):
        if now == stage and done:
            raise KeyboardInterrupt

    monkeypatch.setattr("whence.cli.audit.bars", lambda *, quiet: nullcontext(stop))
    result = audit()
    assert result.exit_code == 130
    assert "Nothing was written to audit" in result.stderr
    assert_nothing_left(place)


def wait_for(condition, process):
    """Wait until a condition holds; fail if the process ends before, or after two minutes."""
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    pytest.fail("the program did not start to write within two minutes")


@pytest.mark.skipif(os.name != "posix", reason="signals are sent the POSIX way")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_leaves_nothing(place, name):
    number = getattr(signal, name)
    drawn = np.random.default_rng(0).integers(0, 256, (60_000, 12, 12, 3), dtype=np.uint8)
    np.savez(place / "data.npz", x=drawn, y=np.arange(60_000) % 3)
    words = ["--model", "model.py:tiny", "--train", "data.npz", "--test", "test", "--out", "audit"]
    with subprocess.Popen(
        [sys.executable, "-c", "from whence.cli import main; main()", "audit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs tests in the background may have switched the signal off.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        wait_for(lambda: any(place.glob(".audit.part-*")), process)
        time.sleep(0.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out == ""
    if name == "SIGINT":
        assert "Stopped. Nothing was written to audit." in err
    assert "Traceback" not in err
    assert_nothing_left(place)


def test_a_model_in_train_mode_is_refused_by_both_recipes():
    import whence
    from whence.core import TensorData
    from whence.errors import ModeError

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3), torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(200, 3)
    )
    data = TensorData(images=torch.zeros(3, 3, 12, 12), labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ModeError, match=r"model\.eval\(\)"):
        whence.explain(model, data.images)
    with pytest.raises(ModeError, match=r"model\.eval\(\)"):
        whence.audit(model, data, data)
