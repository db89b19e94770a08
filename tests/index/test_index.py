import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from whence.errors import (
    DataError,
    MismatchError,
    NumericsError,
    OutputError,
    RecordError,
    SettingError,
    ShapeError,
)
from whence.index import Provenance, Rows, build, query, verify

COUNT, WIDTH = 23, 6
PROVENANCE = Provenance(
    model="a" * 64,
    data="b" * 64,
    parameters=("conv.weight", "fc.bias"),
    settings={"projection": 6, "seed": 0, "target": "margin"},
    code="0.1.0",
)


class Source:
    """Makes rows from a matrix of gradients, and remembers what it was asked for."""

    def __init__(self, *, stop_at=None, unusable=()):
        generator = torch.Generator().manual_seed(0)
        self.gradients = torch.randn(COUNT, WIDTH, generator=generator) * torch.logspace(
            -4, 4, COUNT
        ).view(-1, 1)
        self.gradients[7] = 0
        self.labels = torch.arange(COUNT) % 4
        self.asked = []
        self.stop_at = stop_at
        self.unusable = set(unusable)

    def __call__(self, indices):
        self.asked.append(list(indices))
        for start in range(0, len(indices), 2):
            at = [i for i in indices[start : start + 2] if i not in self.unusable]
            if self.stop_at in at:
                raise KeyboardInterrupt
            chosen = torch.tensor(at, dtype=torch.int64)
            yield Rows(
                indices=chosen,
                labels=self.labels[chosen],
                norms=self.gradients[chosen].norm(dim=1),
                projected=self.gradients[chosen],
            )


def built(folder, source=None, **options):
    defaults = {
        "provenance": PROVENANCE,
        "indices": range(COUNT),
        "rows": source or Source(),
        "dimension": WIDTH,
        "shard_size": 5,
    }
    return build(folder, **{**defaults, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "some" / "index"


def test_a_shard_holds_directions_norms_labels_and_places(folder):
    source = Source()
    manifest = built(folder, source)
    assert [s.rows for s in manifest.shards] == [5, 5, 5, 5, 3]
    assert [s.zeros for s in manifest.shards] == [0, 1, 0, 0, 0]
    assert source.asked[1] == [5, 6, 7, 8, 9]
    tensors = load_file(folder / manifest.shards[1].file)
    some = source.gradients[5:10]
    assert tensors["indices"].tolist() == [5, 6, 7, 8, 9]
    assert tensors["labels"].tolist() == [1, 2, 3, 0, 1]
    assert tensors["norms"].dtype == torch.float32
    assert tensors["directions"].dtype == torch.float16
    torch.testing.assert_close(tensors["norms"], some.norm(dim=1))
    unit = some / some.norm(dim=1, keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(tensors["directions"].float(), unit, atol=5e-4, rtol=1e-3)


def test_nothing_but_shards_and_a_manifest_is_left(folder):
    built(folder)
    assert sorted(contents(folder)) == ["manifest.json"] + [
        f"shard-{n:05d}.safetensors" for n in range(5)
    ]


@pytest.mark.parametrize("score", ["cosine", "dot"])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_a_query_finds_what_brute_force_finds(folder, score, count, generator):
    source = Source()
    built(folder, source)
    queries = torch.randn(3, WIDTH, generator=generator)
    found = query(folder, queries, count=count, score=score)
    norms = source.gradients.norm(dim=1)
    unit = (source.gradients / norms.clamp(min=1e-30)[:, None]).half().float()
    scores = queries @ unit.T * (norms if score == "dot" else 1)
    expected = scores.sort(dim=1, descending=True)
    torch.testing.assert_close(found.scores, expected.values[:, :count])
    assert torch.equal(found.indices, expected.indices[:, :count])
    assert torch.equal(found.labels, source.labels[found.indices])


def test_equal_scores_go_by_the_images_place(folder):
    source = Source()
    source.gradients[:] = 1
    built(folder, source)
    found = query(folder, torch.ones(1, WIDTH), count=7)
    assert found.indices.tolist() == [list(range(7))]


def test_any_images_in_any_order_can_be_indexed(folder):
    source = Source(unusable=[4])
    manifest = built(folder, source, indices=[9, 3, 4, 5, 20, 0], shard_size=4)
    assert source.asked == [[9, 3, 4, 5], [20, 0]]
    assert manifest.rows == 5
    found = query(folder, source.gradients[[20]], count=6).indices[0].tolist()
    assert found[0] == 20
    assert sorted(found) == [0, 3, 5, 9, 20]


@pytest.mark.parametrize("stop_at", [0, 4, 5, 9, 13, 22])
def test_a_build_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(folder, stop_at, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        built(folder, Source(stop_at=stop_at))
    assert "manifest.json" not in contents(folder)
    with pytest.raises(RecordError, match=r"manifest\.json"):
        query(folder, torch.ones(1, WIDTH), count=1)
    source = Source()
    manifest = built(folder, source)
    assert source.asked[0][0] == stop_at // 5 * 5  # finished shards are not made again
    other = tmp_path / "other"
    assert built(other) == manifest
    assert contents(folder) == contents(other)


@pytest.mark.parametrize("call", range(11))
def test_a_kill_between_any_two_writes_does_no_harm(folder, call, monkeypatch, tmp_path):
    from whence.index import manifest, shard
    from whence.results.folder import write_whole

    calls = []

    def killed(path, content):
        calls.append(path)
        if len(calls) - 1 == call:
            path.with_name(f".{path.name}.part-12ab").write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt
        write_whole(path, content)

    for place in (manifest, shard):
        monkeypatch.setattr(place, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        built(folder)
    for place in (manifest, shard):
        monkeypatch.setattr(place, "write_whole", write_whole)
    built(folder)
    other = tmp_path / "other"
    built(other)
    assert contents(folder) == contents(other)


def test_an_interrupted_build_says_how_to_go_on(folder):
    with pytest.raises(KeyboardInterrupt):
        built(folder, Source(stop_at=12))
    with pytest.raises(RecordError, match="was interrupted: run it again"):
        verify(folder)


def test_a_complete_index_is_not_built_again(folder):
    first = built(folder)
    before = contents(folder)
    source = Source()
    assert built(folder, source) == first
    assert source.asked == []
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "c" * 64}, "model: aaaaaaaaaaaa... stored, cccccccccccc... now"),
        ({"data": "c" * 64}, "data: "),
        ({"code": "0.2.0"}, "code: 0.1.0 stored, 0.2.0 now"),
        ({"parameters": ("fc.bias",)}, r"parameters: 2 names \(conv.weight, fc.bias\) stored, 1"),
        ({"settings": {"projection": 6, "seed": 1, "target": "margin"}}, "settings.seed: 0 stored"),
        ({"settings": {"projection": 6, "seed": 0}}, "settings.target: margin stored, absent now"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("stop_at", [None, 12])
def test_other_settings_are_refused_by_the_fields_that_differ(folder, change, field, stop_at):
    source = Source(stop_at=stop_at)
    if stop_at is None:
        built(folder, source)
    else:
        with pytest.raises(KeyboardInterrupt):
            built(folder, source)
    before = contents(folder)
    with pytest.raises(MismatchError, match=field) as caught:
        built(folder, provenance=replace(PROVENANCE, **change))
    assert len(str(caught.value).splitlines()) == 3
    assert contents(folder) == before


@pytest.mark.parametrize(
    "change", [{"dimension": 5}, {"shard_size": 4}, {"indices": range(COUNT - 1)}], ids=str
)
def test_another_plan_is_refused(folder, change):
    built(folder)
    name = "runs" if "indices" in change else next(iter(change))
    with pytest.raises(MismatchError, match=f"differs in {name}"):
        built(folder, **change)


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "one bit"])
def test_a_damaged_shard_is_named_and_rebuilt_alone(folder, how):
    manifest = built(folder)
    before = contents(folder)
    assert verify(folder) == ()
    file = manifest.shards[2].file
    damage(folder / file, how)
    assert verify(folder) == (file,)
    if how != "one bit":
        with pytest.raises(RecordError, match=f"{file} is missing or damaged"):
            query(folder, torch.ones(1, WIDTH), count=1)
    source = Source()
    assert verify(folder, repair=source) == (file,)
    assert source.asked == [[10, 11, 12, 13, 14]]
    assert verify(folder) == ()
    assert contents(folder) == before


def test_building_again_rebuilds_a_damaged_shard_too(folder):
    manifest = built(folder)
    before = contents(folder)
    damage(folder / manifest.shards[1].file, "one bit")
    source = Source()
    built(folder, source)
    assert source.asked == [[5, 6, 7, 8, 9]]
    assert contents(folder) == before


def test_a_repair_that_comes_out_differently_is_recorded(folder):
    manifest = built(folder)
    damage(folder / manifest.shards[0].file, "missing")
    source = Source()
    source.gradients[0] += 1
    verify(folder, repair=source)
    assert verify(folder) == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"whence": "audit", "format": 1}', "{}"])
def test_a_manifest_that_is_none_is_refused(folder, text):
    built(folder)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RecordError, match=r"manifest\.json"):
        query(folder, torch.ones(1, WIDTH), count=1)


def test_a_manifest_of_another_format_is_refused(folder):
    built(folder)
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(RecordError, match="format 1; it says 'index', format 99"):
        verify(folder)


def test_a_folder_with_other_files_is_refused_and_left_alone(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("dear")
    with pytest.raises(OutputError, match=r"'thesis\.txt'"):
        built(folder)
    assert contents(folder) == {"thesis.txt": b"dear"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "index").write_text("dear")
    with pytest.raises(OutputError, match="cannot be written"):
        built(tmp_path / "index")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_is_named(folder, bad):
    source = Source()
    source.gradients[13, 2] = bad
    with pytest.raises(NumericsError, match="image 13"):
        built(folder, source)


def test_rows_that_were_not_asked_for_are_refused(folder):
    source = Source()
    with pytest.raises(ShapeError, match="Image 0 was not asked for"):
        built(folder, lambda indices: source([0, 1]), indices=[3, 4])
    with pytest.raises(ShapeError, match="an image twice"):
        built(folder, lambda indices: [*source([3]), *source([3])], indices=[3, 4])
    with pytest.raises(ShapeError, match="7 numbers were announced; got 6"):
        built(folder, source, dimension=7)


def test_a_list_of_images_that_is_none_is_refused(folder):
    with pytest.raises(DataError, match="has no images"):
        built(folder, indices=[])
    with pytest.raises(DataError, match="an image twice"):
        built(folder, indices=[1, 2, 1])


def test_a_shard_without_usable_images_is_no_harm(folder):
    manifest = built(folder, Source(unusable=range(5)))
    assert manifest.shards[0].rows == 0
    assert query(folder, torch.ones(2, WIDTH), count=50).indices.shape == (2, COUNT - 5)


def test_queries_of_another_projection_are_refused(folder):
    built(folder)
    with pytest.raises(ShapeError, match="rows of 6 numbers; the queries have 5"):
        query(folder, torch.ones(1, 5), count=1)
    with pytest.raises(SettingError, match="at least 1; got 0"):
        query(folder, torch.ones(1, WIDTH), count=0)


def test_progress_is_told_after_every_shard(folder):
    told = []
    built(folder, progress=lambda *report: told.append(report))
    assert told == [("indexing", n, COUNT) for n in (5, 10, 15, 20, 23)]


def test_small_and_large_gradients_keep_their_direction_in_half_precision(folder):
    source = Source()
    source.gradients[3] = torch.tensor([3e-15, 4e-15, 0, 0, 0, 0])
    source.gradients[4] = torch.tensor([3e15, 4e15, 0, 0, 0, 0])
    built(folder, source)
    found = query(folder, torch.tensor([[0.6, 0.8, 0, 0, 0, 0]]), count=2)
    assert found.indices.tolist() == [[3, 4]] or found.indices.tolist() == [[4, 3]]
    torch.testing.assert_close(found.scores, torch.ones(1, 2), atol=1e-3, rtol=0)
