"""A study of harmony on disk, and as tables: round trips, slices, means, and damaged files."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from whence.errors import MismatchError, RecordError
from whence.results import DatasetCard, ModelCard, RunCard
from whence.results.transfer import (
    IntervalRecord,
    TransferMethod,
    TransferNetworkCard,
    TransferRecord,
    TransferRow,
    TransferWork,
    load_transfer,
    save_transfer,
    transfer_csv,
)
from whence.results.transfer_tables import (
    control_table,
    family_means,
    family_table,
    filter_table,
    transfer_markdown,
    transfer_table,
)

KINDS = {"a": "CNN", "b": "CNN", "c": "ViT"}
NAMES = tuple(KINDS)


def about(value, half=0.1):
    return IntervalRecord(value=value, low=value - half, high=value + half)


def accuracy(generator, evaluator):
    """Tenths: the generator's place, and a fifth if it is the evaluator."""
    return (NAMES.index(generator) + 1) / 10 + (0.2 if generator == evaluator else 0.0)


def row(evaluator, shown, value, generator="", mask="", fill=""):
    gain = about(value - 0.1, 0.05) if shown == "features" else None
    return TransferRow(
        generator=generator,
        evaluator=evaluator,
        method="gc" if generator else "",
        shown=shown,
        mask=mask,
        fill=fill,
        count=10,
        accuracy=about(value),
        probability=about(value / 2),
        agreement=about(value),
        kept=about(value),
        of_original=about(value / 0.8),
        of_self=about(1.0) if shown == "features" else None,
        advantage=gain,
        agreement_advantage=gain,
    )


@pytest.fixture
def record():
    rows = [row(name, "original", 0.8) for name in NAMES]
    for generator in NAMES:
        for evaluator in NAMES:
            value = accuracy(generator, evaluator)
            for shown, told in (("features", value), ("shuffled", 0.1)):
                rows.append(row(evaluator, shown, told, generator, "soft", "zero"))
    return TransferRecord(
        networks=tuple(
            TransferNetworkCard(
                name=name,
                family=kind,
                model=ModelCard(
                    name=name, fingerprint="0" * 64, classes=("x",), parameters=3, preprocessing={}
                ),
                size=(8, 8),
                right=8,
                count=10,
            )
            for name, kind in KINDS.items()
        ),
        methods=(
            TransferMethod(
                name="gc",
                settings="GradCAM()",
                scale="maximum",
                blank={"a": 1},
                coverage={"a": 0.3},
            ),
        ),
        masks=("soft",),
        fills=("zero",),
        target="predicted",
        data=DatasetCard(name="noise", count=10, fingerprint="1" * 64),
        rows=tuple(rows),
        run=RunCard(command="whence transfer", settings={}, versions={}, created=""),
        notes=("A note.",),
    )


def cells(table):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_a_study_is_read_back_as_it_was(record, tmp_path):
    save_transfer(record, tmp_path / "transfer.json")
    assert load_transfer(tmp_path / "transfer.json") == record
    assert load_transfer(tmp_path) == record


def test_an_undefined_number_stays_undefined(record, tmp_path):
    nan = IntervalRecord(value=math.nan, low=math.nan, high=math.nan)
    changed = replace(record, rows=(replace(record.rows[0], kept=nan), *record.rows[1:]))
    save_transfer(changed, tmp_path / "transfer.json")
    back = load_transfer(tmp_path)
    assert math.isnan(back.rows[0].kept.value)
    line = next(iter(csv.DictReader(io.StringIO(transfer_csv(back)))))
    assert (line["kept"], line["kept_low"]) == ("", "")


def test_the_csv_has_a_line_for_each_cell_and_every_digit(record):
    lines = list(csv.DictReader(io.StringIO(transfer_csv(record))))
    assert len(lines) == len(record.rows)
    for line, one in zip(lines, record.rows, strict=True):
        assert (line["generator"], line["shown"], line["mask"]) == (
            one.generator,
            one.shown,
            one.mask,
        )
        assert float(line["accuracy_low"]) == one.accuracy.low
        assert line["advantage"] == ("" if one.advantage is None else repr(one.advantage.value))


def test_the_table_has_a_block_for_each_generator_and_a_pair_for_each_evaluator(record):
    head, *rows = cells(transfer_table(record, "soft", "zero", ["a", "c"]))
    assert head == ["maps of", "method", "", "a F", "a I", "b F", "b I", "c F", "c I"]
    assert [one[:3] for one in rows] == [
        ["a", "gc", "accuracy"],
        ["a", "gc", "confidence"],
        ["c", "gc", "accuracy"],
        ["c", "gc", "confidence"],
    ]
    assert rows[0][3:] == [
        "30.0 ± 10.0",
        "80.0 ± 10.0",
        "10.0 ± 10.0",
        "80.0 ± 10.0",
        "10.0 ± 10.0",
        "80.0 ± 10.0",
    ]
    assert rows[3][3:] == ["15.0", "40.0", "15.0", "40.0", "25.0", "40.0"]


def test_means_are_over_pairs_of_networks_themselves_within_and_between_families(record):
    found = {one.pairs: one for one in family_means(record, "soft", "zero")}
    counts = {name: one.count for name, one in found.items()}
    assert counts == {"itself": 3, "within CNN": 2, "CNN to ViT": 2, "ViT to CNN": 2}
    expected = {"itself": 0.4, "within CNN": 0.15, "CNN to ViT": 0.15, "ViT to CNN": 0.3}
    for name, value in expected.items():
        assert found[name].accuracy == pytest.approx(value)
        assert found[name].of_original == pytest.approx(value / 0.8)
        assert found[name].shuffled == pytest.approx(0.1)
        assert found[name].advantage == pytest.approx(value - 0.1)


def test_controls_are_of_different_networks_and_say_how_often_the_gain_is_clear(record):
    ((method, _, features, shuffled, *_, clear),) = cells(control_table(record, "soft", "zero"))[1:]
    assert (method, features, shuffled) == ("gc", "20.0", "10.0")
    assert clear == "4 of 6 pairs"  # a's maps gain exactly nothing


def test_the_page_has_every_table_and_note(record):
    page = transfer_markdown(record)
    for table in (
        filter_table(record),
        family_table(record, "soft", "zero"),
        transfer_table(record, "soft", "zero", ["a", "b"]),
        transfer_table(record, "soft", "zero", ["c"]),
        "- A note.",
    ):
        assert table in page
    assert "8 of 10" in filter_table(record)


def test_work_is_kept_under_its_identity(tmp_path):
    work = TransferWork.open(tmp_path / "s", {"seed": "0"}, overwrite=False)
    assert not work.has("maps-0")
    work.save("maps-0", {"masks": np.arange(3.0), "keys": np.array([["a", "b"]])})
    again = TransferWork.open(tmp_path / "s", {"seed": "0"}, overwrite=False)
    assert again.has("maps-0")
    arrays = again.load("maps-0")
    assert arrays["masks"].tolist() == [0, 1, 2]
    assert arrays["keys"].tolist() == [["a", "b"]]
    with pytest.raises(MismatchError, match=r"differs in seed: seed was 0, and is 1"):
        TransferWork.open(tmp_path / "s", {"seed": "1"}, overwrite=False)
    fresh = TransferWork.open(tmp_path / "s", {"seed": "1"}, overwrite=True)
    assert not fresh.has("maps-0")


def test_damaged_work_is_named(tmp_path):
    work = TransferWork.open(tmp_path / "s", {}, overwrite=False)
    work.save("maps-0", {"masks": np.arange(300.0)})
    file = tmp_path / "s" / "work" / "maps-0.npz"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RecordError, match=r"maps-0.npz is damaged.*the step is done again"):
        work.load("maps-0")


@pytest.mark.parametrize("content", ["", "{}", '{"whence": "audit"}', "[1]"])
def test_what_is_no_study_is_refused(tmp_path, content):
    (tmp_path / "transfer.json").write_text(content)
    with pytest.raises(RecordError, match=r"transfer"):
        load_transfer(tmp_path)


def test_a_study_of_another_version_is_refused(record, tmp_path):
    save_transfer(record, tmp_path / "transfer.json")
    path = tmp_path / "transfer.json"
    path.write_text(path.read_text("utf-8").replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(RecordError, match=r"schema version 9, but this whence reads 1"):
        load_transfer(tmp_path)
