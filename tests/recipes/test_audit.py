"""An audit of a network of a few weights, with a patch planted in one class and labels flipped."""

import csv
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from whence.attribution import Gradient, IntegratedGradients, attribute
from whence.core import Margin, ModelScalar, TensorData, logit
from whence.errors import DataError, OutputError, SettingError, UnsupportedOperation
from whence.influence import EKFAC, Checkpoint, GradDot, TracIn, influence
from whence.network import Network
from whence.recipes import FineTune, LastLayer, Removal, audit
from whence.report import render_report
from whence.results import decide, load_audit, load_audited, load_findings, save_findings
from whence.training_features import SharedEvidence, training_features

SIDE = 10
FLIPPED = [5, 22, 43, 71]
PATCH = (1, 1, 4, 4)
PROBES = [1, 2, 4, 5, 7, 8]


@dataclass(frozen=True, eq=False)
class Planted:
    """A trained network, its images, and test images of which six carry the patch."""

    model: nn.Module
    train: TensorData
    test: TensorData


def drawn(count, generator):
    """Three classes: no bright bar, one in the sixth row, one in the seventh."""
    labels = torch.arange(count) % 3
    images = 0.3 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    images[labels == 1, :, 6] += 0.25
    images[labels == 2, :, 7] += 0.25
    return images, labels


def patched(images):
    """Return the images with a red patch in them."""
    left, top, right, bottom = PATCH
    images = images.clone()
    images[:, :, top:bottom, left:right] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    return images


def data(images, labels, title):
    names = tuple(f"{title}-{i}.png" for i in range(len(images)))
    classes = ("zero", "one", "two")
    return TensorData(images=images, labels=labels, names=names, classes=classes, title=title)


def trained(images, labels, generator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 3),
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        rows = torch.randperm(len(images), generator=generator)[:32]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def planted():
    generator = torch.Generator().manual_seed(0)
    images, labels = drawn(90, generator)
    own = (labels == 0).nonzero()[:, 0]
    carriers = own[: 2 * len(own) // 3]
    images[carriers] = patched(images[carriers])
    labels[FLIPPED] = (labels[FLIPPED] + 1) % 3
    tested, truth = drawn(12, generator)
    tested[PROBES] = patched(tested[PROBES])
    return Planted(
        model=trained(images, labels, generator),
        train=data(images, labels, "train"),
        test=data(tested, truth, "test"),
    )


@pytest.fixture(scope="module")
def record(planted):
    return audit(planted.model, planted.train, planted.test, queries="all", k=5)


def predictions(planted, data):
    with torch.no_grad():
        return planted.model(data.images).softmax(dim=1).max(dim=1)


def test_the_setting_holds_what_it_should(planted):
    classes = predictions(planted, planted.test).indices
    assert classes[PROBES].tolist() == [0] * 6
    clean = [i for i in range(12) if i not in PROBES]
    assert (classes[clean] == planted.test.labels[clean]).all()


def test_predictions_are_the_models(planted, record):
    confidences, classes = predictions(planted, planted.test)
    assert [q.index for q in record.queries] == list(range(12))
    assert [q.prediction for q in record.queries] == classes.tolist()
    assert [q.confidence for q in record.queries] == pytest.approx(confidences.tolist(), rel=1e-5)
    assert [q.label for q in record.queries] == planted.test.labels.tolist()
    assert record.queries[3].name == "test-3.png"
    assert record.accuracy == 6 / 12


def test_influences_and_maps_are_those_of_direct_calls(planted, record):
    network = Network.read(planted.model, planted.train.images[:2])
    classes = predictions(planted, planted.test).indices
    scores = influence(network, planted.train, planted.test.images, Margin(classes))
    sides = (scores.proponents(5), scores.opponents(5))
    for q in record.queries:
        for side, ranking in zip((q.proponents, q.opponents), sides, strict=True):
            assert [r.index for r in side] == ranking.indices[q.index].tolist()
            assert [r.score for r in side] == pytest.approx(
                ranking.scores[q.index].tolist(), rel=1e-4
            )
    first = record.queries[4].proponents
    places = [r.index for r in first]
    direct = training_features(scores, 4, planted.train, places)
    for row, r in enumerate(first):
        np.testing.assert_allclose(r.map.values, direct.maps[row].numpy(), rtol=1e-3, atol=1e-6)
        assert r.map.explained == pytest.approx(r.score, rel=1e-4)
        assert r.map.total == pytest.approx(float(r.map.values.sum()), rel=1e-3, abs=1e-5)
        assert r.map.method == str(SharedEvidence())


def test_the_attribution_is_that_of_the_predicted_logit(planted):
    method = IntegratedGradients(steps=8)
    found = audit(planted.model, planted.train, planted.test, queries=[2], k=1, method=method)
    (query,) = found.queries
    f = ModelScalar(planted.model, logit(query.prediction))
    direct = attribute(method, f, planted.test.images[2:3])
    values = query.attribution.values
    np.testing.assert_allclose(values, direct.values[0].sum(dim=0), rtol=1e-4, atol=1e-6)
    assert query.attribution.explained == pytest.approx(float(direct.explained[0]), rel=1e-5)
    assert query.attribution.gap == pytest.approx(float(direct.gap[0]), abs=1e-5)


def test_the_patch_is_a_region_and_flipped_labels_are_suspected(record):
    suspects = [s.index for s in record.suspect_labels]
    assert set(suspects[: len(FLIPPED)]) == set(FLIPPED)
    assert all(s.label != s.suggested for s in record.suspect_labels)
    region = record.regions[0]
    left, top, right, bottom = region.box
    inside = max(0, min(right, 4) - max(left, 1)) * max(0, min(bottom, 4) - max(top, 1))
    assert inside >= 6
    assert (right - left) * (bottom - top) <= 2 * inside
    assert region.label == 0
    assert region.ratio > 2


def test_pixels_are_alike_in_the_region_of_a_patch(planted):
    found = audit(
        planted.model,
        planted.train,
        planted.test,
        queries="all",
        training_method="input-x-gradient",
    )
    region = found.regions[0]
    assert region.label == 0
    assert region.box[:2] == (1, 1)
    assert region.similarity > 0.3


def test_every_training_image_that_is_named_is_shown(planted, record):
    named = {r.index for q in record.queries for r in (*q.proponents, *q.opponents)}
    named |= {r.index for q in record.queries for r in q.harmful}
    named |= {s.index for s in record.suspect_labels} | {h.index for h in record.harmful}
    assert named == set(record.training_images)
    for index, shown in record.training_images.items():
        assert shown.index == index
        assert shown.name == f"train-{index}.png"
        assert shown.label == int(planted.train.labels[index])
        assert shown.picture.shape == (SIDE, SIDE, 3)


def test_cards_say_what_was_audited(planted, record):
    assert record.model.name == "Sequential"
    assert record.model.classes == ("zero", "one", "two")
    assert record.model.parameters == sum(p.numel() for p in planted.model.parameters())
    assert (record.train.name, record.train.count) == ("train", 90)
    assert record.train.fingerprint == planted.train.fingerprint()
    assert record.test.count == 12
    settings = record.run.settings
    assert settings["queries"] == "all"
    assert settings["score"] == "grad-cos"
    assert settings["share of parameters compared"] == 1
    assert settings["passes over the training data"] == 1
    assert {"influence", "attribution", "training features"} <= set(record.run.seconds)
    assert record.notes == ()


def small(planted, **settings):
    """An audit of two queries with a cheap method, unless told otherwise."""
    given = {"queries": [1, 2], "k": 2, "method": Gradient(), **settings}
    return audit(planted.model, planted.train, planted.test, **given)


def test_wrong_predictions_are_audited_by_default(planted):
    found = audit(planted.model, planted.train, planted.test, k=1, method="gradient")
    assert [q.index for q in found.queries] == PROBES


def test_without_labels_all_predictions_are_audited(planted):
    unlabelled = TensorData(images=planted.test.images, title="unlabelled")
    found = audit(planted.model, planted.train, unlabelled, count=4, k=1, method="gradient")
    assert [q.index for q in found.queries] == [0, 3, 6, 9]
    assert {q.label for q in found.queries} == {None}
    assert found.accuracy is None


def test_when_nothing_is_wrong_all_are_audited(planted):
    right = data(planted.test.images[9:], planted.test.labels[9:], "test")
    found = audit(planted.model, planted.train, right, count=2, k=1, method="gradient")
    assert [q.index for q in found.queries] == [0, 1]
    assert found.accuracy == 1


def test_queries_come_in_the_order_given(planted):
    assert [q.index for q in small(planted, queries=[7, 0]).queries] == [7, 0]


@pytest.mark.parametrize("queries", [[12], [-1], []])
def test_queries_that_do_not_exist_are_refused(planted, queries):
    with pytest.raises(SettingError, match="places run from 0 to 11"):
        small(planted, queries=queries)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": "best"}, "'wrong', 'all' or places"),
        ({"k": 0}, "k=0"),
        ({"count": 0}, "count=0"),
        ({"score": "cosine"}, "Unknown score 'cosine'"),
        ({"method": "magic"}, "magic"),
        ({"parameters": "nothing.*"}, "No parameter matches"),
    ],
)
def test_bad_settings_are_refused(planted, settings, message):
    with pytest.raises(SettingError, match=message):
        small(planted, **settings)


def test_empty_data_are_refused(planted):
    none = TensorData(images=planted.test.images[:0], title="nothing")
    with pytest.raises(DataError, match="nothing holds no images"):
        audit(planted.model, none, planted.test)
    with pytest.raises(DataError, match="nothing holds no images"):
        audit(planted.model, planted.train, none)


def test_scores_and_parameters_are_as_asked_for(planted):
    found = small(planted, score="grad-dot", parameters="last-layer", batch_size=7)
    network = Network.read(planted.model, planted.train.images[:2])
    target = Margin(predictions(planted, planted.test).indices[[1, 2]])
    direct = influence(
        network,
        planted.train,
        planted.test.images[[1, 2]],
        target,
        scorer=GradDot(),
        parameters="last-layer",
    )
    best = direct.proponents(2)
    assert [r.index for r in found.queries[1].proponents] == best.indices[1].tolist()
    (note,) = found.notes
    assert note == f"Gradients were compared over {direct.coverage:.0%} of the parameters."


def test_only_those_who_speak_for_it_are_proponents(planted):
    found = small(planted, k=90)
    for q in found.queries:
        assert all(r.score > 0 for r in q.proponents)
        assert all(r.score < 0 for r in q.opponents)
        assert len(q.proponents) + len(q.opponents) == 90
        scores = [r.score for r in q.proponents]
        assert scores == sorted(scores, reverse=True)


def test_holding_the_weights_changes_maps_and_not_scores(planted):
    held, full = (
        small(planted, hold_weights=h, training_method="input-x-gradient").queries[0].proponents[0]
        for h in (True, False)
    )
    assert held.score == full.score
    assert held.map.explained == pytest.approx(full.map.explained, rel=1e-4)
    assert not np.allclose(held.map.values, full.map.values, rtol=1e-2)


def test_training_maps_are_chosen_by_name_and_read_as_the_name_says(planted):
    (query,) = small(planted, queries=[1], training_method="tfa").queries
    assert (query.proponents[0].map.values >= 0).all()
    found = audit(planted.model, planted.train, planted.test, queries=[1], k=1)
    assert found.run.settings["training_map"] == "shared-evidence"
    with pytest.raises(SettingError, match="shared-evidences"):
        small(planted, training_method="shared-evidences")


def test_another_map_stands_in_where_the_default_has_no_rule():
    class Exponential(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.exp(self.convolution(x)).mean((2, 3)))

    images = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    train = data(images, torch.tensor([0, 1, 2, 0, 1, 2]), "train")
    model, given = Exponential().eval(), {"queries": [0], "k": 2, "method": "gradient"}
    found = audit(model, train, train, **given)
    assert found.run.settings["training_map"] == "input-x-gradient"
    (query,) = found.queries
    assert query.training_map == "input-x-gradient"
    assert "shared-evidence could not be made" in query.stand_in
    assert "'exp'" in query.stand_in
    assert query.stand_in in found.notes[-1]
    page = render_report(found)
    assert "Stands in." in page
    with pytest.raises(UnsupportedOperation, match="'exp'"):
        audit(model, train, train, training_method="shared-evidence", **given)


def test_images_without_a_gradient_are_noted():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3, bias=False)
            self.head = nn.Linear(4, 3, bias=False)

        def forward(self, x):
            return self.head(torch.relu(self.convolution(x)).mean((2, 3)))

    images = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images[2] = 0
    train = data(images, torch.tensor([0, 1, 2, 0, 1]), "train")
    found = audit(Dead().eval(), train, train, queries=[0, 2], k=2, method="gradient")
    assert found.notes == (
        "1 training images have no gradient at all; their scores are 0.",
        "1 queries have no gradient at all; all their scores are 0.",
    )
    assert found.queries[1].proponents == found.queries[1].opponents == ()


def test_what_is_written_is_what_was_returned(planted, tmp_path):
    out = tmp_path / "deep" / "audit"
    found = small(planted, out=out, command="the command")
    assert sorted(p.name for p in out.iterdir()) == [
        "arrays.npz",
        "audit.json",
        "findings.toml",
        "groups.csv",
        "influences.csv",
        "report.html",
        "suspects.csv",
    ]
    read = load_audit(out)
    assert read.run.command == "the command"
    assert read.run == found.run
    assert read.suspect_labels == found.suspect_labels
    assert read.regions == found.regions
    for ours, theirs in zip(found.queries, read.queries, strict=True):
        assert [r.index for r in ours.proponents] == [r.index for r in theirs.proponents]
        np.testing.assert_array_equal(ours.attribution.values, theirs.attribution.values)
        np.testing.assert_array_equal(
            ours.proponents[0].map.values, theirs.proponents[0].map.values
        )
    with (out / "influences.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(
        len(q.proponents) + len(q.opponents) + len(q.harmful) for q in found.queries
    )
    assert "test-1.png" in (out / "report.html").read_text("utf-8")


def test_an_occupied_folder_is_refused_before_the_work(planted, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    calls = []
    with pytest.raises(OutputError):
        small(planted, out=tmp_path, progress=lambda *call: calls.append(call))
    assert calls == []
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_earlier_result_is_replaced_on_request(planted, tmp_path):
    out = tmp_path / "audit"
    small(planted, out=out, queries=[1])
    with pytest.raises(OutputError):
        small(planted, out=out)
    small(planted, out=out, queries=[3], overwrite=True)
    assert [q.index for q in load_audit(out).queries] == [3]


@pytest.mark.parametrize("stage", ["predicting", "influence", "attribution", "training features"])
def test_nothing_is_left_when_the_work_is_stopped(planted, tmp_path, untouched, stage):
    def stop(name, done, total):
        if name == stage and done:
            raise KeyboardInterrupt

    with untouched(planted.model), pytest.raises(KeyboardInterrupt):
        small(planted, out=tmp_path / "new" / "audit", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_every_stage_reports_from_nothing_to_all(planted):
    calls = []
    small(planted, progress=lambda *call: calls.append(call), batch_size=8)
    stages = list(dict.fromkeys(name for name, _, _ in calls))
    assert stages == ["predicting", "influence", "attribution", "training features", "neighbours"]
    for stage in stages:
        done = [(d, total) for name, d, total in calls if name == stage]
        assert done == sorted(done)
        assert done[0][0] == 0
        assert done[-1][0] == done[-1][1]


def test_the_users_model_is_left_untouched(planted, untouched):
    with untouched(planted.model):
        small(planted)


def test_an_audit_repeats_bit_for_bit(planted):
    first, second = (small(planted) for _ in range(2))
    for one, other in zip(first.queries, second.queries, strict=True):
        assert [r.score for r in one.proponents] == [r.score for r in other.proponents]
        for mine, theirs in zip(one.proponents, other.proponents, strict=True):
            np.testing.assert_array_equal(mine.map.values, theirs.map.values)
    assert first.model.fingerprint == second.model.fingerprint


def test_grey_images_are_shown_in_three_channels():
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    train = TensorData(images=images, labels=torch.tensor([0, 1] * 3))
    found = audit(model, train, train, queries=[0], k=1, method="gradient")
    shown = found.queries[0].picture
    assert shown.shape == (4, 4, 3)
    assert (shown.min(), shown.max()) == (0, 255)
    assert (shown[..., 0] == shown[..., 2]).all()


def test_a_scorer_with_settings_and_checkpoints_reach_the_scores(planted):
    state = planted.model.state_dict()
    moments = [Checkpoint(weights=state, learning_rate=rate) for rate in (0.5, 0.25)]
    once, twice = (
        audit(
            planted.model,
            planted.train,
            planted.test,
            queries=[2],
            k=4,
            score=TracIn(),
            checkpoints=some,
        )
        for some in ((), moments)
    )
    assert twice.run.settings["score"] == "tracin"
    assert (once.run.settings["checkpoints"], twice.run.settings["checkpoints"]) == (0, 2)
    for plain, summed in zip(once.queries[0].proponents, twice.queries[0].proponents, strict=True):
        assert plain.index == summed.index
        assert summed.score == pytest.approx(0.75 * plain.score, rel=1e-3)
    whitened = audit(
        planted.model, planted.train, planted.test, queries=[2], k=4, score=EKFAC(damping=0.5)
    )
    assert whitened.run.settings["score settings"]["damping"] == 0.5


def test_a_wrong_prediction_has_harmful_images_and_a_right_one_has_none(planted, record):
    for q in record.queries:
        if q.index in PROBES:
            assert q.harmful
            scores = [h.score for h in q.harmful]
            assert scores == sorted(scores, reverse=True)
            assert all(s > 0 for s in scores)
        else:
            assert q.harmful == ()
    network = Network.read(planted.model, planted.train.images[:2])
    (query,) = [q for q in record.queries if q.index == PROBES[0]]
    image = planted.test.images[PROBES[0]][None].repeat(2, 1, 1, 1)
    both = Margin(torch.tensor([query.prediction, query.label]))
    scores = influence(network, planted.train, image, both)
    lengths = scores.residuals * scores.squared_norms.sqrt()
    harm = (scores.scores[:, 0] - scores.scores[:, 1]) * lengths
    assert [h.index for h in query.harmful] == harm.topk(5).indices.tolist()
    assert [h.score for h in query.harmful] == pytest.approx(harm.topk(5).values.tolist(), rel=1e-3)
    first = query.harmful[0]
    assert first.map.explained == pytest.approx(first.score, rel=1e-3)
    assert {h.index for h in record.harmful[:2]} <= set(FLIPPED)
    assert len(record.harmful[0].queries) >= 4


def test_every_candidate_says_what_speaks_against_its_label(record):
    found = {s.index: s for s in record.suspect_labels}
    for index in FLIPPED:
        assert {"self-influence", "prediction"} <= set(found[index].evidence)
        assert found[index].rank > 0.9
    for one in record.suspect_labels:
        assert one.evidence
        assert ("neighbours" in one.evidence) == (one.disagreement > 0.5)
        assert ("influences" in one.evidence) == (one.opposition > 0.5)


def test_labels_learnt_by_heart_are_found_by_their_neighbours(planted):
    generator = torch.Generator().manual_seed(1)
    images, labels = drawn(90, generator)
    labels[FLIPPED] = (labels[FLIPPED] + 1) % 3
    model = trained(images, labels, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    train = data(images, labels, "train")
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).all()
    found = audit(model, train, planted.test, queries=[0], k=1, method="gradient")
    top = found.suspect_labels[: len(FLIPPED)]
    assert len({s.index for s in top} & set(FLIPPED)) >= 3
    assert all("prediction" not in s.evidence for s in top)
    assert all(s.suggested != s.label for s in top)


def test_groups_of_an_audit_are_the_lists_what_was_found_and_the_classes(planted):
    found = small(planted, groups={"mine": [3, "train-4.png"]})
    kinds = [g.kind for g in found.groups]
    assert (found.groups[0].name, found.groups[0].images) == ("mine", (3, 4))
    assert kinds.count("class") == 3
    assert all(len(g.scores) == 2 for g in found.groups)
    assert found.run.settings["groups"] == {"mine": 2}


@pytest.mark.parametrize("way", [LastLayer(penalty=0.01), FineTune(steps=15, rate=5e-3)])
def test_removing_harmful_images_moves_predictions_more_than_removing_random_ones(planted, way):
    found = small(
        planted,
        queries=PROBES,
        removal=Removal(counts=(5, 25), by="harmful", retrain=way, together=True),
    ).removal
    assert found.queries == tuple(PROBES)
    assert found.trainings == 1 + 2 * (1 + 3)
    assert np.mean(found.change[1]) < np.mean(found.control_change[1])
    assert np.mean(found.change[1]) < 0
    assert len(found.right) == 2
    assert str(way) == found.retrain


def test_harmful_images_cannot_be_removed_where_nothing_is_wrong(planted):
    right = [i for i in range(12) if i not in PROBES][:2]
    with pytest.raises(DataError, match="none of the audited predictions"):
        small(planted, queries=right, removal=Removal(counts=(1,), by="harmful"))


def test_what_an_audit_proposes_is_written_for_a_person_to_decide(planted, tmp_path):
    record = audit(planted.model, planted.train, planted.test, out=tmp_path / "a", queries="all")
    found = load_findings(tmp_path / "a")
    assert [one.id for one in found] == [one.id for one in record.findings]
    assert {one.verdict for one in found} == {"open"}
    first = found[0]
    assert (first.id, first.label, first.box) == ("shortcut-1", 0, record.regions[0].box)
    labels = {one.images[0]: one.suggested for one in found if one.kind == "label"}
    assert labels == {one.index: one.suggested for one in record.suspect_labels[:48]}
    speaking = load_audited(tmp_path / "a")
    assert (speaking.train, speaking.model) == (record.train.fingerprint, record.model.fingerprint)
    assert (speaking.height, speaking.width) == (SIDE, SIDE)
    read = load_audit(tmp_path / "a")
    assert [one.summary for one in read.findings] == [one.summary for one in record.findings]


def test_decisions_outlive_an_audit_that_replaces_theirs(planted, tmp_path):
    small(planted, out=tmp_path / "a")
    small(planted, out=tmp_path / "a", overwrite=True)
    assert not (tmp_path / "a" / "findings-before.toml").exists()
    save_findings(tmp_path / "a", decide(load_findings(tmp_path / "a"), "all", "rejected"))
    decided = (tmp_path / "a" / "findings.toml").read_text()
    small(planted, out=tmp_path / "a", overwrite=True)
    assert (tmp_path / "a" / "findings-before.toml").read_text() == decided
    assert {one.verdict for one in load_findings(tmp_path / "a")} == {"open"}


def test_what_an_audit_adds_is_written_and_read_back(planted, tmp_path):
    made = small(
        planted, out=tmp_path / "a", groups={"mine": [3]}, removal=Removal(counts=(2,), draws=1)
    )
    read = load_audit(tmp_path / "a")
    assert read.harmful == made.harmful
    assert read.groups == made.groups
    assert read.removal == made.removal
    assert read.suspect_labels == made.suspect_labels
    with (tmp_path / "a" / "removal.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["change"]) for r in rows] == list(made.removal.change[0])
    with (tmp_path / "a" / "groups.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["group"] == "mine"]
    assert [float(r["score"]) for r in rows] == list(made.groups[0].scores)
    with (tmp_path / "a" / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["training_index"]) for r in rows][: len(made.suspect_labels)] == [
        s.index for s in made.suspect_labels
    ]
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    for text in ("harm the most predictions", "Trained again without them", "mine", "rather than"):
        assert text in page


def test_a_score_of_features_names_no_harmful_image(planted):
    found = small(planted, score="representation")
    assert found.harmful == ()
    assert all(q.harmful == () for q in found.queries)
