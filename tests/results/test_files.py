"""Records <-> files."""

import csv
import dataclasses
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from whence.errors import OutputError, RecordError
from whence.results import (
    SCHEMA_VERSION,
    AuditRecord,
    DatasetCard,
    ExplanationRecord,
    InfluenceRecord,
    MapRecord,
    ModelCard,
    QueryRecord,
    RegionRecord,
    RunCard,
    SuspectLabel,
    TrainingImage,
    influence_table,
    load_audit,
    load_explanation,
    save_audit,
    save_explanation,
)

# Names of files on disk: any text, even bytes that are no UTF-8 (lone surrogates).
names = st.text(st.characters(exclude_characters="\x00"), max_size=12) | st.just("caf\udce9.png")
finite = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
sides = st.integers(1, 4)
plain_settings = st.dictionaries(
    names,
    st.recursive(
        st.none() | st.booleans() | st.integers() | finite | names,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)
classes = st.lists(names, min_size=1, max_size=3).map(tuple)


pictures = npst.arrays(np.uint8, st.tuples(sides, sides, st.just(3)))
values = npst.arrays(
    np.float32, st.tuples(sides, sides), elements=st.floats(-1e6, 1e6, width=32), fill=st.just(0)
)


def parts(kind, **fields):
    """A record to be built later: its constructor is checked, and checks draw random numbers."""
    return st.tuples(st.just(kind), st.fixed_dictionaries(fields))


def build(value):
    """Build the records that :func:`parts` drew."""
    if isinstance(value, tuple):
        if value and isinstance(value[0], type):
            kind, fields = value
            return kind(**{name: build(field) for name, field in fields.items()})
        return tuple(build(item) for item in value)
    if isinstance(value, dict):
        return {key: build(item) for key, item in value.items()}
    return value


def several(strategy):
    return st.lists(strategy, max_size=2).map(tuple)


maps = parts(
    MapRecord,
    values=values,
    method=names,
    total=finite,
    explained=st.floats(),
    gap=st.none() | st.floats(),
    found=st.none() | st.booleans(),
)
run_cards = parts(
    RunCard,
    command=names,
    settings=plain_settings,
    versions=st.dictionaries(names, names, max_size=2),
    created=names,
    seconds=st.dictionaries(names, finite, max_size=2),
)
dataset_cards = parts(
    DatasetCard,
    name=names,
    count=st.integers(0, 10**9),
    fingerprint=names,
    skipped=several(st.tuples(names, names)),
)


def model_cards(known):
    return parts(
        ModelCard,
        name=names,
        fingerprint=names,
        classes=st.just(known),
        parameters=st.integers(0, 10**12),
        preprocessing=plain_settings,
    )


def audits_of(known, indices):
    label = st.integers(0, len(known) - 1)
    influences = st.just(())
    if indices:
        index = st.sampled_from(indices)
        influences = several(parts(InfluenceRecord, index=index, score=finite, map=maps))
    query = parts(
        QueryRecord,
        index=st.integers(0),
        name=names,
        label=st.none() | label,
        prediction=label,
        confidence=shares,
        picture=pictures,
        attribution=maps,
        proponents=influences,
        opponents=influences,
    )
    suspect = parts(
        SuspectLabel,
        index=st.integers(0),
        name=names,
        label=label,
        suggested=label,
        confidence=shares,
        score=finite,
    )
    region = parts(
        RegionRecord,
        box=st.tuples(*[st.integers(0, 9)] * 4),
        label=label,
        mass=shares,
        area=shares,
        images=several(st.integers(0)),
        maps=st.integers(0),
        similarity=st.floats(-1, 1),
    )
    image = {"name": names, "label": label, "picture": pictures}
    return parts(
        AuditRecord,
        model=model_cards(known),
        train=dataset_cards,
        test=dataset_cards,
        accuracy=st.none() | shares,
        queries=several(query),
        training_images=st.fixed_dictionaries(
            {index: parts(TrainingImage, index=st.just(index), **image) for index in indices}
        ),
        suspect_labels=several(suspect),
        regions=several(region),
        run=run_cards,
        notes=several(names),
    )


def explanations_of(known, count):
    def column(strategy):
        return st.lists(strategy, min_size=count, max_size=count).map(tuple)

    return parts(
        ExplanationRecord,
        model=model_cards(known),
        names=column(names),
        predictions=column(st.integers(0, len(known) - 1)),
        confidences=column(shares),
        pictures=column(pictures),
        maps=column(maps),
        run=run_cards,
    )


audits = st.tuples(
    classes, st.lists(st.integers(0, 10**6), unique=True, max_size=2).map(tuple)
).flatmap(lambda drawn: audits_of(*drawn))
explanations = st.tuples(classes, st.integers(0, 2)).flatmap(lambda drawn: explanations_of(*drawn))


def assert_same(one, other, place="record"):
    """Equal to the bit, types included; NaN equals NaN."""
    assert type(one) is type(other), place
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, place
        np.testing.assert_array_equal(one, other, err_msg=place)
    elif dataclasses.is_dataclass(one):
        for entry in dataclasses.fields(one):
            left, right = getattr(one, entry.name), getattr(other, entry.name)
            assert_same(left, right, f"{place}.{entry.name}")
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            assert_same(one[key], other[key], f"{place}[{key!r}]")
    elif isinstance(one, tuple | list):
        assert len(one) == len(other), place
        for at, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{place}[{at}]")
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other), place
    else:
        assert one == other, place


@pytest.fixture(scope="module")
def saved(fakes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits") / "audit"
    save_audit(fakes.fake_audit(queries=2, each=2), folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def change(folder: Path, edit) -> None:
    path = folder / "audit.json"
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_text(json.dumps(document), "utf-8")


@given(drawn=audits)
def test_an_audit_comes_back_as_it_was_saved(drawn, tmp_path_factory):
    record = build(drawn)
    folder = tmp_path_factory.mktemp("audit")
    save_audit(record, folder)
    assert_same(load_audit(folder), record)


@given(drawn=explanations)
def test_an_explanation_comes_back_as_it_was_saved(drawn, tmp_path_factory):
    record = build(drawn)
    folder = tmp_path_factory.mktemp("explanation")
    save_explanation(record, folder)
    assert_same(load_explanation(folder), record)


def test_the_same_record_gives_the_same_bytes(fakes, tmp_path):
    for name in ("one", "other"):
        save_audit(fakes.fake_audit(queries=1, each=1), tmp_path / name)
    for name in ("audit.json", "arrays.npz", "influences.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_json_can_be_read_by_a_person_and_names_its_schema(saved):
    text = (saved / "audit.json").read_text("utf-8")
    assert text.startswith('{\n  "whence": "audit",\n  "schema_version": 1,')
    assert "NaN" not in text


def test_settings_that_json_does_not_know_become_text(fakes, tmp_path):
    record = fakes.fake_audit(queries=0, regions=0, suspects=0)
    odd = {"folder": Path("data"), "size": (3, 4), "rate": math.inf, "count": np.int64(7)}
    run = dataclasses.replace(record.run, settings=odd)
    save_audit(dataclasses.replace(record, run=run), tmp_path)
    expected = {"folder": "data", "size": [3, 4], "rate": "Infinity", "count": 7}
    assert load_audit(tmp_path).run.settings == expected


def test_arrays_hold_no_pickles(saved):
    with np.load(saved / "arrays.npz", allow_pickle=False) as archive:
        kinds = {archive[key].dtype for key in archive.files}
    assert kinds == {np.dtype(np.uint8), np.dtype(np.float32)}


def test_influences_are_a_table_with_one_row_each(saved):
    record = load_audit(saved)
    rows = list(csv.DictReader(io.StringIO((saved / "influences.csv").read_text("utf-8"))))
    assert len(rows) == sum(len(one.proponents) + len(one.opponents) for one in record.queries)
    first, query = rows[0], record.queries[0]
    image = record.training_images[query.proponents[0].index]
    assert first["query"] == query.name
    assert (first["side"], first["rank"]) == ("proponent", "1")
    assert first["training_name"] == image.name
    assert first["label"] == record.model.classes[image.label]
    assert float(first["score"]) == query.proponents[0].score
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "1", "2"]
    assert float(rows[2]["score"]) < 0


def test_a_comma_or_a_quote_in_a_file_name_stays_in_its_column(fakes):
    record = fakes.fake_audit(queries=1, each=1)
    query = dataclasses.replace(record.queries[0], name='a, "b"\n.png')
    table = influence_table(dataclasses.replace(record, queries=(query,)))
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert {row["query"] for row in rows} == {'a, "b"\n.png'}


def test_saving_never_replaces_a_result(fakes, copy):
    before = (copy / "audit.json").read_bytes()
    with pytest.raises(OutputError, match=r"holds audit\.json already"):
        save_audit(fakes.fake_audit(queries=1), copy)
    assert (copy / "audit.json").read_bytes() == before


def test_another_schema_version_is_refused_by_its_number(copy):
    change(copy, lambda document: document.update(schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(RecordError, match="schema version 2, but this whence reads 1"):
        load_audit(copy)


def test_a_json_of_another_tool_is_refused(copy):
    (copy / "audit.json").write_text('{"vulnerabilities": []}', "utf-8")
    with pytest.raises(RecordError, match="not its audit"):
        load_audit(copy)


@pytest.mark.parametrize("content", [b"", b"{", b'{"whence": "aud', b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_named(copy, content):
    (copy / "audit.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"audit\.json is damaged"):
        load_audit(copy)


def test_a_missing_json_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"audit\.json does not exist"):
        load_audit(tmp_path)


def test_missing_arrays_are_named(copy):
    (copy / "arrays.npz").unlink()
    with pytest.raises(RecordError, match=r"arrays\.npz cannot be read"):
        load_audit(copy)


def test_one_flipped_byte_in_the_arrays_is_found(copy):
    content = bytearray((copy / "arrays.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "arrays.npz").write_bytes(bytes(content))
    with pytest.raises(RecordError, match="checksums differ"):
        load_audit(copy)


def test_arrays_of_another_result_are_refused(fakes, copy, tmp_path):
    save_audit(fakes.fake_audit(queries=1, each=1, seed=5), tmp_path / "other")
    (tmp_path / "other" / "arrays.npz").replace(copy / "arrays.npz")
    with pytest.raises(RecordError, match="checksums differ"):
        load_audit(copy)


def test_an_array_that_is_not_there_is_named_by_its_place(copy):
    def edit(document):
        document["record"]["queries"][1]["picture"] = {"array": "queries/9/picture"}

    change(copy, edit)
    with pytest.raises(RecordError, match=r"queries/1/picture needs the array 'queries/9/picture'"):
        load_audit(copy)


def test_a_pickle_among_the_arrays_is_not_opened(copy):
    import hashlib

    packed = io.BytesIO()
    np.savez(packed, **{"queries/0/picture": np.array([object()])}, allow_pickle=True)
    (copy / "arrays.npz").write_bytes(packed.getvalue())
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    change(copy, lambda document: document["arrays"].update(sha256=digest))
    with pytest.raises(RecordError, match="no archive of arrays"):
        load_audit(copy)


def test_a_broken_archive_with_a_right_checksum_is_refused(copy):
    import hashlib

    (copy / "arrays.npz").write_bytes(b"PK\x03\x04 not an archive")
    digest = hashlib.sha256(b"PK\x03\x04 not an archive").hexdigest()
    change(copy, lambda document: document["arrays"].update(sha256=digest))
    with pytest.raises(RecordError, match="no archive of arrays"):
        load_audit(copy)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.update(colour=1), r"unknown fields \['colour'\]"),
        (lambda r: r.pop("train"), r"lacks the fields \['train'\]"),
        (lambda r: r.update(queries=3), "queries needs a value of type list"),
        (lambda r: r.update(accuracy="high"), "accuracy needs a value of type float"),
        (lambda r: r.update(accuracy=True), "accuracy needs a value of type float"),
        (lambda r: r["model"].update(parameters=1.5), "parameters needs a value of type int"),
        (lambda r: r["model"].update(parameters=True), "parameters needs a value of type int"),
        (lambda r: r["regions"][0].update(box=[1, 2]), "box needs 4 values, but the file has 2"),
        (lambda r: r.update(training_images={"x": {}}), "needs keys of type int, but has 'x'"),
        (lambda r: r["queries"][0].update(prediction=99), "class between 0 and 9, but is 99"),
        (lambda r: r["queries"][0].update(label=-1), "class between 0 and 9, but is -1"),
        (lambda r: r.update(training_images={}), "not among the record's training_images"),
    ],
)
def test_a_changed_record_is_refused_by_the_place_of_the_change(copy, edit, message):
    change(copy, lambda document: edit(document["record"]))
    with pytest.raises(RecordError, match=message):
        load_audit(copy)


def test_older_files_may_lack_fields_that_have_a_default(copy):
    change(copy, lambda document: document["record"].pop("notes"))
    assert load_audit(copy).notes == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2)), "float32"),
        (np.zeros((3, 2, 2), np.float32), r"\(3, 2, 2\)"),
        (np.zeros((0, 2), np.float32), r"\(0, 2\)"),
        (np.full((2, 2), np.nan, np.float32), "NaN or infinity"),
    ],
)
def test_a_map_of_another_kind_is_refused_before_anything_is_written(
    fakes, tmp_path, values, message
):
    record = fakes.fake_explanation(1)
    wrong = dataclasses.replace(record.maps[0])
    object.__setattr__(wrong, "values", values)
    with pytest.raises(RecordError, match=message):
        save_explanation(dataclasses.replace(record, maps=(wrong,)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_columns_of_different_length_are_refused(fakes, tmp_path):
    record = dataclasses.replace(fakes.fake_explanation(2), names=("only one",))
    with pytest.raises(RecordError, match="one of each per image"):
        save_explanation(record, tmp_path)


def test_no_temporary_file_stays(saved):
    found = {path.name for path in saved.iterdir()}
    tables = {"influences.csv", "suspects.csv", "groups.csv"}
    assert found == {"audit.json", "arrays.npz", *tables}


def test_arrays_are_an_ordinary_npz(saved):
    assert zipfile.is_zipfile(saved / "arrays.npz")
    record = load_audit(saved)
    with np.load(saved / "arrays.npz") as archive:
        np.testing.assert_array_equal(archive["queries/0/picture"], record.queries[0].picture)


NEW = {
    "query": ("harmful", "training_map", "stand_in"),
    "suspect": ("rank", "disagreement", "opposition", "evidence"),
    "region": ("queries", "shown_in", "boxes", "chance_mass", "chance_images", "p"),
    "record": ("harmful", "groups", "removal"),
}


def test_an_audit_written_before_there_were_harmful_images_can_be_read(fakes, tmp_path):
    record = fakes.fake_audit(queries=2, each=1, suspects=2)
    save_audit(record, tmp_path)
    path = tmp_path / "audit.json"
    document = json.loads(path.read_text("utf-8"))
    old = document["record"]
    for kind, parts in (
        ("query", old["queries"]),
        ("suspect", old["suspect_labels"]),
        ("region", old["regions"]),
        ("record", [old]),
    ):
        for part in parts:
            for name in NEW[kind]:
                del part[name]
    path.write_text(json.dumps(document), "utf-8")
    read = load_audit(tmp_path)
    assert read.suspect_labels == record.suspect_labels
    assert (read.harmful, read.groups, read.removal) == ((), (), None)
