"""Records show themselves in a notebook: what they hold is there, and it stays small."""

import re
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from whence.errors import SettingError
from whence.results import DatasetCard
from whence.results.evaluation import (
    CurveRecord,
    EstimateRecord,
    EvaluationRecord,
    JudgedMethod,
    JudgedMetric,
    JudgedNetwork,
    ScoreRecord,
)
from whence.results.findings import Finding
from whence.results.fix import FixRecord, FixTraining
from whence.results.transfer import (
    IntervalRecord,
    TransferMethod,
    TransferNetworkCard,
    TransferRecord,
    TransferRow,
)
from whence.results.verify import Figure, VerifyImage, VerifyRecord, VerifyRow, View

EVIL = "<script>alert(1)</script>"
BOUND = 400_000


@pytest.fixture(scope="session")
def page():
    path = Path(__file__).parents[1] / "display" / "test_notebook.py"
    spec = spec_from_file_location("notebook_page", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Page


def test_an_audit_shows_what_is_suspicious_and_three_predictions(fakes, page):
    audit = fakes.fake_audit(queries=5)
    shown = page(audit._repr_html_())
    assert "test accuracy 91.2%" in shown.words
    assert "and 2 more images" in shown.words
    region, suspect = audit.regions[0], audit.suspect_labels[0]
    assert f"{region.mass:.3g}" in shown.words
    assert suspect.name in shown.words
    assert audit.queries[0].name in shown.words
    score = audit.queries[0].proponents[0].score
    assert f"{score:+.3g}" in shown.words


def test_an_audit_of_500_images_with_evil_names_is_small_and_harmless(fakes, page):
    audit = fakes.fake_audit(queries=6)
    many = [replace(audit.queries[at % 6], name=f"{EVIL}{at}") for at in range(500)]
    model = replace(audit.model, name=EVIL, classes=(EVIL,) * len(audit.model.classes))
    suspects = tuple(replace(audit.suspect_labels[0], name=EVIL) for _ in range(500))
    audit = replace(
        audit, model=model, queries=tuple(many), suspect_labels=suspects, notes=(EVIL,) * 500
    )
    text = audit._repr_html_()
    assert len(text) < BOUND
    assert "script" not in page(text).tags


def test_an_explanation_shows_class_confidence_and_gap(fakes, page):
    record = fakes.fake_explanation(3)
    shown = page(record._repr_html_())
    assert shown.tags.count("img") == 6
    for prediction, confidence in zip(record.predictions, record.confidences, strict=True):
        assert f"{record.model.classes[prediction]}{100 * confidence:.1f} %" in shown.words
    assert record.maps[0].method.partition("(")[0] in shown.words


def test_an_explanation_of_500_photographs_is_small(fakes, page):
    one = fakes.fake_explanation(1)
    many = {
        name: getattr(one, name) * 500
        for name in ("names", "predictions", "confidences", "pictures", "maps")
    }
    text = replace(one, **many)._repr_html_()
    assert len(text) < BOUND
    assert "and 488 more images" in page(text).words


def test_an_explanation_of_nothing_shows_nothing(fakes, page):
    one = fakes.fake_explanation(1)
    empty = replace(one, names=(), predictions=(), confidences=(), pictures=(), maps=())
    assert "Explanation" in page(empty._repr_html_()).words


def evaluation(fakes, verdict="better"):
    audit = fakes.fake_audit(queries=1)
    found = EstimateRecord(mean=0.5, low=0.25, high=0.75, count=8)
    return EvaluationRecord(
        networks=(JudgedNetwork(name="small", card=audit.model, accuracy=0.9),),
        data=DatasetCard(name=EVIL, count=8, fingerprint=""),
        images=tuple("abcdefgh"),
        labels=(0,) * 8,
        methods=(
            JudgedMethod(name="gradient", text="Gradient()", kind="method"),
            JudgedMethod(name="random-map", text="", kind="control"),
        ),
        metrics=(
            JudgedMetric(
                name="insertion", text="", form="area", group="faithfulness", says="",
                better="higher",
                low=0, high=1, chance="", reference="", reads="", control="random-map",
            ),
        ),
        scores=(
            ScoreRecord(
                network="small", metric="insertion", method="gradient", values=fakes.np.zeros(8),
                estimate=found, difference=found, verdict=verdict, reason="",
            ),
        ),
        agreements=(),
        confidence=0.95,
        run=audit.run,
    )  # fmt: skip


@pytest.mark.parametrize(("verdict", "sign"), [("better", " +"), ("worse", " -"), ("no claim", "")])
def test_an_evaluation_shows_means_intervals_and_verdicts(fakes, page, verdict, sign):
    shown = page(evaluation(fakes, verdict)._repr_html_())
    assert f"gradient0.5 [0.25, 0.75]{sign}random-map (control)\N{EN DASH}" in shown.words
    assert "script" not in shown.tags


def test_a_study_of_transfer_shows_its_cube(fakes, page):
    audit = fakes.fake_audit(queries=1)
    about = IntervalRecord(value=0.875, low=0.75, high=0.9)
    names = ("a", "b")
    record = TransferRecord(
        networks=tuple(
            TransferNetworkCard(
                name=n, family="convolutional", model=audit.model, size=(8, 8), right=7, count=8
            )
            for n in names
        ),
        methods=(TransferMethod(name=EVIL, settings="", scale="", blank={}, coverage={}),),
        masks=("soft",),
        fills=("black",),
        target="label",
        data=audit.test,
        rows=(
            TransferRow(
                generator="a", evaluator="b", method=EVIL, shown="features", mask="soft",
                fill="black", count=8, accuracy=about, probability=about, agreement=about,
                kept=about, of_original=about,
            ),
        ),
        run=audit.run,
    )  # fmt: skip
    shown = page(record._repr_html_())
    assert "maps ofaba-0.875 [0.750, 0.900]b--" in shown.words
    assert "script" not in shown.tags


def shown_in(plot):
    """Return the texts of a figure."""
    return set(re.findall(r"<text[^>]*>([^<]+)</text>", plot.content("svg").decode()))


def test_results_draw_their_own_figures(fakes):
    audit = fakes.fake_audit(queries=2)
    query = audit.queries[1]
    found = shown_in(audit.figure(1, proponents=2, opponents=1))
    assert {f"{one.score:+.3g}" for one in query.proponents[:2]} <= found
    assert f"{query.proponents[2].score:+.3g}" not in found
    with pytest.raises(IndexError):
        audit.figure(2)
    record = fakes.fake_explanation(3)
    assert f"{100 * record.confidences[2]:.1f} %" in shown_in(record.figure())


def test_an_evaluation_draws_curves_and_ranks(fakes):
    record = evaluation(fakes)
    curve = CurveRecord(
        fractions=np.linspace(0, 1, 5),
        mean=np.linspace(0.25, 0.75, 5),
        low=np.zeros(5),
        high=np.ones(5),
        count=8,
    )
    record = replace(record, scores=(replace(record.scores[0], curve=curve),))
    plot = record.curve_figure("small", "insertion")
    assert {"gradient", "small"} <= shown_in(plot)
    np.testing.assert_array_equal(plot.figure.axes[0].lines[0].get_ydata(), curve.mean)
    with pytest.raises(SettingError, match="1 to 32 curves"):
        record.curve_figure("small", "deletion")
    assert {"1", "\N{EN DASH}", "random-map (control)"} <= shown_in(record.rank_figure("small"))


def test_a_finding_shows_what_speaks_for_it(page):
    one = Finding(
        id="shortcut-1",
        kind="region",
        summary=EVIL,
        box=(1, 2, 5, 6),
        images=(3, 4),
        evidence={"mass": 0.57},
        note=EVIL,
    )
    shown = page(one._repr_html_())
    assert "script" not in shown.tags
    assert "shortcut-1" in shown.words
    assert "mass 0.57" in shown.words
    assert "(1, 2, 5, 6)" in shown.words


def test_a_fix_shows_what_was_done(fakes, page):
    audit = fakes.fake_audit(queries=1)
    record = FixRecord(
        model=EVIL,
        data="data",
        audited=audit.audited,
        findings=(Finding(id="label-3", kind="label", images=(3,), suggested=1),),
        masked=0,
        area=0.0,
        dropped=(),
        relabelled={3: 1},
        converted=True,
        x_dnn=True,
        prior="",
        trainings=(FixTraining(name="no prior", weight=0.0, accuracy=0.875),),
        chosen="no prior",
        notes=(),
        seconds=1.0,
        command="",
        created="",
    )
    shown = page(record._repr_html_())
    assert "script" not in shown.tags
    assert "label-3relabel" in shown.words
    assert "no prior87.5%chosen" in shown.words


def verified(fakes, images=2):
    """Return a made-up verification."""
    audit = fakes.fake_audit(queries=2)

    def about(value):
        return Figure(value=value, low=value - 0.0625, high=value + 0.0625, count=40)

    def row(name, before, after, **more):
        return VerifyRow(
            section="shortcut", name=name, meaning=name, better="lower", verdict="better",
            before=before, after=after, change=about(-0.75), **{"share": True, **more},
        )  # fmt: skip

    views = [
        View(
            prediction=query.prediction,
            confidence=query.confidence,
            map=query.attribution,
            inside=None,
        )
        for query in audit.queries
    ]
    return VerifyRecord(
        model=audit.model, fixed=audit.model, train=audit.train, test=audit.test, accepted=(),
        dropped=0, relabelled=0, facts=(), sentences=("Better: <b>it</b>.",), notes=(),
        run=audit.run,
        rows=(
            row("taken in", about(0.875), about(0.125), finding="shortcut-1"),
            row("gap", about(0.5), about(0.25), share=False),
            row("unknown", None, about(0.25)),
        ),
        images=tuple(
            VerifyImage(
                name=EVIL, kind="planted", label=None, picture=audit.queries[0].picture,
                before=views[0], after=views[1],
            )
            for _ in range(images)
        ),
    )  # fmt: skip


def test_a_verification_shows_figures_sentences_and_maps(fakes, page):
    shown = page(verified(fakes)._repr_html_())
    assert {"b", "script"}.isdisjoint(shown.tags)
    assert "Better: <b>it</b>." in shown.words
    expected = "taken in (shortcut-1)87.5% [81.2%, 93.8%]12.5% [6.2%, 18.8%]"
    assert expected in shown.words
    assert "gap0.5 [0.438, 0.562]0.25" in shown.words
    assert shown.tags.count("img") == 2 * 2 * 2
    assert len(verified(fakes, images=500)._repr_html_()) < BOUND


def test_a_verification_draws_its_shares_and_maps(fakes):
    record = verified(fakes)
    found = shown_in(record.figure())
    assert "taken in (shortcut-1) \N{DOWNWARDS ARROW}" in found
    assert not [text for text in found if text.startswith(("gap", "unknown"))]
    assert {"before", "after"} <= shown_in(record.map_figure())
