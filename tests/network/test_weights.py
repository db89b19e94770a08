import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from whence.errors import NumericsError, WeightsError
from whence.network.weights import count_classes, fit_names, load_weights, read_weights


def net(classes=3):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture
def state():
    return net().state_dict()


@pytest.mark.parametrize("ending", [".pt", ".pth", ".th", ".bin", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save_come_back(ending, zipped, state, tmp_path):
    path = tmp_path / f"w{ending}"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path), state)


def test_safetensors_come_back(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors"), state)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "ema"])
def test_a_checkpoint_is_unwrapped(key, state, tmp_path):
    options = argparse.Namespace(rate=0.1)
    torch.save({"epoch": 3, key: state, "best": 0.9, "args": options}, tmp_path / "w.pt")
    assert same(read_weights(tmp_path / "w.pt"), state)


def test_a_missing_file_is_named_with_those_beside_it(state, tmp_path):
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"no weight file .*w\.pt.*has other\.pt"):
        read_weights(tmp_path / "w.pt")


def test_a_folder_is_named_with_what_it_holds(state, tmp_path):
    torch.save(state, tmp_path / "inside.pt")
    with pytest.raises(WeightsError, match=r"is a folder.*inside\.pt"):
        read_weights(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_named_with_its_size(part, zipped, state, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(WeightsError, match=rf"truncated or corrupt.*{path.stat().st_size:,} bytes"):
        read_weights(path)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.97])
def test_truncated_safetensors_are_named(part, state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(WeightsError, match="truncated or corrupt"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"\n  <!DOCTYPE html><title>404</title>", "a web page"),
        (b"no weights at all, only some words", "truncated or corrupt, or no weight file"),
    ],
)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_is_no_weight_file_is_named(content, message, ending, tmp_path):
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


def test_an_unknown_ending_is_named(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"1234")
    with pytest.raises(WeightsError, match=r"does not end like a weight file.*\.safetensors"):
        read_weights(tmp_path / "w.onnx")


class Shell:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(zipped, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    torch.save({"model": state, "more": Shell()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"more than tensors \((posix|nt)\.mkdir\).*run code"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Shell(), protocol=2))
    with pytest.raises(WeightsError):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused_with_what_to_do(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"Linear\).*torch\.save\(model\.state_dict\(\)"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="TorchScript archive"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {"state_dict": {}}])
def test_a_file_without_named_tensors_is_named(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="named tensors were needed"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_the_first_tensor_that_is_not_finite_is_named(value, kind, state, tmp_path):
    state["1.weight"][2] = value
    state["3.weight"][0] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(NumericsError, match=rf"{kind}: 1 of 4 values of 1\.weight"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "backbone.", "module.model.", "model.net."]
)
def test_prefixes_of_wrappers_are_removed(prefix, state):
    model = net()
    load_weights(model, {prefix + k: v for k, v in state.items()}, "w.pt")
    assert same(dict(model.state_dict()), dict(state))


def test_a_prefix_that_belongs_to_the_model_stays():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    state = Wrapped().state_dict()
    assert fit_names(state, list(state)) == state


def test_old_files_without_the_counters_of_batch_norm_load(state):
    model = net()
    load_weights(model, {k: v for k, v in state.items() if "num_batches" not in k}, "w.pt")
    assert torch.equal(model[0].weight, state["0.weight"])


def test_half_precision_becomes_the_models_own(state):
    model = net()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    load_weights(model, halves, "w.pt")
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, state["0.weight"].half().float())


def test_weights_that_do_not_fit_say_which_keys_and_change_nothing(state):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wrong = dict(state)
    del wrong["0.bias"]
    wrong["3.weight"] = torch.ones(5, 4)
    wrong |= {f"extra.{k}": torch.ones(1) for k in range(4)}
    with pytest.raises(WeightsError) as error:
        load_weights(model, wrong, "w.pt")
    text = str(error.value)
    assert "1 key missing: 0.bias." in text
    assert "4 keys unexpected: extra.0; extra.1; extra.2, ...." in text
    assert "1 key of another shape: 3.weight is (5, 4), needed (3, 4)." in text
    assert same(before, dict(model.state_dict()))


def test_the_number_of_classes_is_read_from_the_head():
    state = {f"module.{k}": v for k, v in net(7).state_dict().items()}
    assert count_classes(state, net) == 7


def test_no_number_of_classes_is_made_up_where_the_head_is_missing():
    assert count_classes({"0.weight": torch.ones(4, 3, 3, 3)}, net) is None


def test_an_error_names_keys_as_they_are_in_the_file_if_no_prefix_helps():
    with pytest.raises(WeightsError, match=r"1 key unexpected: module\.stem\."):
        load_weights(net(), {"module.stem": torch.ones(1)}, "w.pt")
