"""An X-DNN in a file: the same function, proven again, without the model's source."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import nn

from whence.convert import load_x_dnn, read_certificate, save_x_dnn, x_dnn
from whence.errors import OutputError, RecordError, SettingError, UnsupportedOperation
from whence.network import Network


@pytest.fixture
def images(generator):
    return torch.randn(3, 3, 8, 8, generator=generator)


@pytest.fixture
def model(generator):
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 5, bias=False),
    ).eval()  # fmt: skip
    for p in made.parameters():
        nn.init.normal_(p, std=0.3, generator=generator)
    return made


class Tokens(nn.Module):
    """A transformer block with what files find hard: sizes of the batch, infinities, constants."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.place = nn.Parameter(0.1 * torch.ones(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("mask", torch.ones(4, 4).triu(1) > 0)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.place
        mixed, _ = self.mix(*[self.norm(tokens)] * 3, attn_mask=self.mask, need_weights=False)
        padded = nn.functional.pad(tokens + mixed, (0, 0, 0, 1), value=0.0)
        return self.head(padded.amax(1))


@pytest.fixture
def transformer(images, generator):
    made = Tokens().eval()
    for p in made.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    return x_dnn(made, images)


def test_what_is_loaded_is_the_same_function_with_the_same_names(
    model, images, tmp_path, untouched
):
    with untouched(model):
        save_x_dnn(model, images, tmp_path / "x.safetensors")
    loaded = load_x_dnn(tmp_path / "x.safetensors").module
    assert torch.equal(loaded(images), model(images))
    torch.testing.assert_close(loaded(images[:1]), model(images[:1]))
    assert list(dict(loaded.named_parameters())) == ["0.weight", "4.weight"]
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )
    model.load_state_dict(load_file(tmp_path / "x.safetensors"))


def test_a_transformer_is_loaded_without_its_source_and_can_be_proven_and_trained(
    transformer, images, tmp_path
):
    path = tmp_path / "x.safetensors"
    save_x_dnn(transformer.model, images, path, changes=transformer.report.changes)
    loaded = load_x_dnn(path).module
    more = torch.cat([images, -images])
    assert torch.equal(loaded(more), transformer.model(more))
    assert Network.read(loaded, images).homogeneity().holds
    assert set(loaded.state_dict()) == set(transformer.model.state_dict())
    nn.functional.cross_entropy(loaded(images), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_the_certificate_says_what_was_measured_with_what(transformer, images, tmp_path):
    path = tmp_path / "x.safetensors"
    written = save_x_dnn(
        transformer.model, images, path, changes=transformer.report.changes, classes=list("abcde")
    )
    read = read_certificate(path)
    assert read == written == load_x_dnn(path).certificate
    assert read["degree"] == 1
    assert max(read["scale_errors"].values()) <= read["tolerance"] == 1e-4
    assert (read["at_zero"], read["precision"], read["images"]) == (0, "float32", 3)
    assert read["versions"]["torch"] == torch.__version__
    assert ["embed", "conv2d", 1.0] in read["operations"]
    assert {"path": "embed", "what": "Conv2d lost its bias"} in read["changes"]
    assert load_x_dnn(path).classes == tuple("abcde")


def test_only_an_x_dnn_is_certified(images, tmp_path):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    with pytest.raises(UnsupportedOperation, match=r"First offender: 1 \(linear\)"):
        save_x_dnn(plain, images, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_replaced_only_if_it_is_ours_and_that_is_wanted(
    model, images, tmp_path
):
    path = tmp_path / "x.safetensors"
    save_x_dnn(model, images, path)
    with pytest.raises(OutputError, match="exists already"):
        save_x_dnn(model, images, path)
    save_x_dnn(model, images, path, overwrite=True)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(OutputError, match="only those"):
        save_x_dnn(model, images, path, overwrite=True)
    assert torch.equal(load_file(path)["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("name", "error"),
    [("x.pt", SettingError), ("nowhere/x.safetensors", OutputError), ("x", SettingError)],
)
def test_bad_places_are_refused_before_any_work(name, error, tmp_path):
    with pytest.raises(error):
        save_x_dnn(nn.Linear(1, 1), torch.ones(1, 1, 1, 1), tmp_path / name)


def test_an_interrupted_write_leaves_nothing_and_keeps_the_old_file(
    model, images, tmp_path, monkeypatch
):
    from pathlib import Path

    path = tmp_path / "x.safetensors"
    save_x_dnn(model, images, path)
    before = path.read_bytes()

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_x_dnn(model, images, path, overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def rewritten(path, change):
    """Write a file again with other metadata or weights."""
    with safe_open(path, framework="pt") as file:
        metadata, held = dict(file.metadata()), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(metadata, held)
    save_file(held, path, metadata)


def test_weights_that_changed_after_the_certificate_are_refused(model, images, tmp_path):
    path = tmp_path / "x.safetensors"
    save_x_dnn(model, images, path)
    rewritten(path, lambda _, held: held["0.weight"].add_(1))
    with pytest.raises(RecordError, match="not those of its certificate"):
        load_x_dnn(path)


def test_damaged_and_foreign_files_are_refused(model, images, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(RecordError, match="There is no file"):
        load_x_dnn(path)
    path.write_bytes(b"what")
    with pytest.raises(RecordError, match="truncated, damaged"):
        load_x_dnn(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(RecordError, match="no certificate"):
        load_x_dnn(path)
    path.unlink()
    save_x_dnn(model, images, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match="truncated, damaged"):
        load_x_dnn(path)


def test_another_schema_names_the_version_that_wrote_it(model, images, tmp_path):
    path = tmp_path / "x.safetensors"
    save_x_dnn(model, images, path)

    def later(metadata, held):
        found = json.loads(metadata["whence.certificate"])
        metadata["whence.certificate"] = json.dumps(found | {"schema": 9})

    rewritten(path, later)
    with pytest.raises(RecordError, match="schema 9"):
        load_x_dnn(path)


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "aten.__class__.mro", "torch.load"]
)
def test_a_graph_in_a_file_can_call_nothing_but_operations(target):
    from whence.convert.graph_text import graph_from_text

    empty = {"args": [], "kwargs": {}, "path": ""}
    rows = [
        {"name": "images", "op": "placeholder", "target": "images", **empty},
        {"name": "call", "op": "call_function", "target": target, **empty},
    ]
    with pytest.raises(RecordError, match="cannot be read"):
        graph_from_text(rows, {})


def test_what_is_no_operation_of_pytorch_is_refused_when_written(images, tmp_path):
    from torch.fx import symbolic_trace

    from whence.convert.graph_text import graph_to_text

    def root(value):
        return math.sqrt(value)

    graph = symbolic_trace(root).graph
    with pytest.raises(UnsupportedOperation, match="which a file cannot hold"):
        graph_to_text(graph)
