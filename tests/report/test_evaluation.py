"""The page, the plots and the tables of an evaluation, of a record that is made by hand."""

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from whence.report import render_evaluation, write_evaluation
from whence.report.evaluation_markdown import markdown_tables
from whence.report.evaluation_plots import Axis, strips_svg
from whence.report.evaluation_tables import overtaken, summary_rows
from whence.results import DatasetCard, ModelCard, RunCard
from whence.results.evaluation import (
    AgreementRecord,
    CurveRecord,
    EstimateRecord,
    EvaluationRecord,
    JudgedMethod,
    JudgedMetric,
    JudgedNetwork,
    ScoreRecord,
)

NAMES = ("good", "<bad>", "random-map")
POINTS = np.linspace(0, 1, 5)


def metric(name, better, control="random-map"):
    return JudgedMetric(
        name=name,
        text=f"{name}()",
        form="function",
        group="perturbation",
        says="what it measures",
        better=better,
        low=0.0,
        high=1.0,
        chance="0.5",
        reference="Somebody (2020)",
        reads="value",
        control=control,
    )


def estimate(mean):
    return EstimateRecord(mean=mean, low=mean - 0.1, high=mean + 0.1, count=4)


def score(method, name, mean, verdict, **more):
    values = np.array([mean - 0.2, mean, mean, mean + 0.2])
    known = {
        "values": values,
        "estimate": estimate(mean),
        "difference": estimate(mean - 0.5) if verdict != "control" else None,
        "reason": "" if verdict in ("better", "worse", "control") else "it covers 0",
        "curve": CurveRecord(
            fractions=POINTS, mean=POINTS, low=POINTS - 0.1, high=POINTS + 0.1, count=4
        ),
    }
    return ScoreRecord(network="net", metric=name, method=method, verdict=verdict, **(known | more))


@pytest.fixture
def record():
    nothing = {
        "values": np.full(4, np.nan),
        "estimate": None,
        "difference": None,
        "curve": None,
    }
    return EvaluationRecord(
        networks=(
            JudgedNetwork(
                name="net",
                card=ModelCard(
                    name="net", fingerprint="f" * 64, classes=("a",), parameters=3, preprocessing={}
                ),
                accuracy=0.75,
            ),
        ),
        data=DatasetCard(name="photos", count=4, fingerprint="d" * 64),
        images=("i0", "i1", "i2", "<i3>"),
        labels=(0, 0, None, 0),
        methods=tuple(
            JudgedMethod(name=n, text=n, kind="control" if n == "random-map" else "method")
            for n in NAMES
        ),
        metrics=(metric("deletion", "lower"), metric("gini", "neither", "none")),
        scores=(
            score("good", "deletion", 0.2, "better"),
            score("<bad>", "deletion", 0.6, "no claim", undefined={"the map is constant": 1}),
            score("random-map", "deletion", 0.5, "control"),
            score("good", "gini", 0.4, "no claim"),
            score("<bad>", "gini", 0, "not applicable", **(nothing | {"reason": "no map"})),
            score("random-map", "gini", 0.3, "control"),
        ),
        agreements=(
            AgreementRecord(
                metric="spearman",
                first=("net", "good"),
                second=("net", "random-map"),
                values=np.zeros(4),
                estimate=estimate(0.0),
            ),
        ),
        confidence=0.95,
        run=RunCard(command="whence evaluate", settings={}, versions={}, created=""),
        notes=("a note",),
    )


def test_ranks_claims_and_reasons_are_on_the_page(record):
    page = render_evaluation(record)
    row = re.search(
        r'title="good">good</th>\s*<td class="([^"]*)" title="([^"]*)">(.*?)</td>', page
    )
    assert row[1] == "better shade-0"
    assert "difference to the control -0.300 [-0.400, -0.200]" in row[2]
    assert re.search(r"1 <span class=\"sign better\">✓", row[3])
    assert "better than the control (1)" in page
    assert "no claim (2)" in page
    assert "not applicable: no map" in page
    assert "undefined for 1 of 4 images: the map is constant" in page
    assert "a note" in page
    assert "0.000 [-0.100, 0.100]" in page  # the agreement


def test_the_page_loads_nothing_and_escapes_names(record):
    page = render_evaluation(record)
    assert "<bad>" not in page
    assert "&lt;bad&gt;" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert " style=" not in page  # which the policy would refuse
    assert "default-src &#39;none&#39;" in page


def test_every_plot_is_well_formed_and_inside_its_frame(record):
    plots = re.findall(r'<svg class="plot".*?</svg>', render_evaluation(record), re.DOTALL)
    assert len(plots) == 2 + 3 + 2  # strips of two metrics, a curve for each value
    for plot in plots:
        tree = ET.fromstring(plot)  # noqa: S314 - our own
        width, height = map(float, tree.attrib["viewBox"].split()[2:])
        for circle in tree.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= width
            assert 0 <= float(circle.attrib["cy"]) <= height


def test_dots_and_boxes_lie_where_the_values_are(record):
    scores = [one for one in record.scores if one.metric == "deletion"]
    tree = ET.fromstring(strips_svg(scores, "random-map", "t"))  # noqa: S314 - our own
    dots = [float(c.attrib["cx"]) for c in tree.iter("circle") if c.attrib["class"] == "dot"]
    values = np.concatenate([one.values for one in scores])
    slope = np.polyfit(values, dots, 1)
    np.testing.assert_allclose(np.polyval(slope, values), dots, atol=0.1)
    assert slope[0] > 0


def test_the_axis_begins_behind_the_longest_name(record):
    (first, *rest) = [one for one in record.scores if one.metric == "deletion"]
    longer = replace(first, method="integrated-gradients:steps=16,baseline=black")
    starts = []
    for scores in ([first, *rest], [longer, *rest]):
        tree = ET.fromstring(strips_svg(scores, "random-map", "t"))  # noqa: S314 - our own
        starts.append(min(float(c.attrib["cx"]) for c in tree.iter("circle")))
    assert starts[1] > 7 * len(longer.method)
    assert starts[0] < starts[1]


def test_an_axis_of_one_value_has_room_and_round_ticks():
    axis = Axis(low=0.0, high=1.0, start=10, end=110)
    assert (axis.at(0.0), axis.at(0.5), axis.at(7.0)) == (10, 60, 110)
    np.testing.assert_allclose(axis.ticks, [0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_tables_say_direction_verdict_and_what_is_missing(record):
    head, rows = summary_rows(record, "net")
    assert head == ("method", "deletion ↓", "gini")
    assert rows[0] == ("good", "0.200 +", "0.400 ?")
    assert rows[1] == ("<bad>", "0.600 (1 undefined) ?", "n/a")
    assert rows[2] == ("(random-map)", "0.500", "0.300")
    text = markdown_tables(record)
    assert "0.200 [0.100, 0.300] +" in text
    assert "accuracy 75.0%" in text
    assert "| method | deletion \u2193 | gini |\n|:--|--:|--:|" in text
    assert "nan" not in text


def test_the_page_is_written_whole(record, tmp_path):
    write_evaluation(record, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8") == render_evaluation(record)


def test_a_control_that_ranks_above_methods_is_told(record):
    edges = JudgedMethod(name="edge-map", text="edge-map", kind="control")
    more = replace(
        record,
        methods=(*record.methods, edges),
        scores=(
            *record.scores,
            score("edge-map", "deletion", 0.3, "control"),
            score("edge-map", "gini", 0.3, "control"),
        ),
    )
    assert overtaken(record) == []  # the metric's own control is in the verdicts
    assert overtaken(more) == ["deletion on net: edge-map ranks above <bad>."]
    assert "edge-map ranks above &lt;bad&gt;" in render_evaluation(more)
