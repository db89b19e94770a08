"""`whence index`: build, query, verify and describe, as a stranger uses them."""

import json

import pytest

from whence.adapters import load_model
from whence.core import Margin
from whence.influence import GradCos, GradDot, influence
from whence.network import Network
from whence.recipes import load_images

MODEL = ("--model", "model.py:tiny", "--train", "train")


@pytest.fixture
def built(whence):
    result = whence("index", "build", *MODEL, "--out", "idx", "--shard-size", 5)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def ask(whence):
    def run(*words, index="idx", images="test", model=MODEL):
        return whence("index", "query", index, images, *model, *words)

    return run


def test_an_index_says_what_it_holds(built, whence, document):
    assert "12" in built.stdout
    found = document(whence("index", "describe", "idx", "--json"))
    assert (found["images"], found["shards"], found["parameters"]) == (12, 3, 4)
    assert found["numbers"] == 108 + 4 + 48 + 3
    assert found["settings"]["norms"] == "projected"
    assert found["bytes"] > 12 * 163 * 2
    assert "12" in whence("index", "describe", "idx").stdout


def exact(count, scorer=None):
    loaded = load_model("model.py:tiny")
    train, test = (load_images(name, loaded) for name in ("train", "test"))
    images = next(iter(test.batches(count))).images
    network = Network.read(loaded.module, images)
    labels = network(images).argmax(dim=1)
    return influence(network, train, images, Margin(labels), scorer=scorer or GradCos())


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("side", ["--for", "--against"])
def test_queries_are_answered_with_exact_scores(ask, document, place, side):
    answers = document(ask(side, "-k", 3, "--candidates", 4, "--sample", 12, "--json"))
    assert len(answers) == 6
    scores = exact(6)
    ranking = scores.proponents(3) if side == "--for" else scores.opponents(3)
    for row, answer in enumerate(answers):
        assert [f["index"] for f in answer["found"]] == ranking.indices[row].tolist()
        assert [f["score"] for f in answer["found"]] == pytest.approx(
            ranking.scores[row].tolist(), abs=1e-6
        )
        assert answer["scored"] == answer["images"] == 12
        assert 0 < answer["recall"] <= 1
    assert {f["label"] for a in answers for f in a["found"]} <= {"circle", "plus", "square"}
    assert (place / "idx" / "manifest.json").is_file()


@pytest.mark.usefixtures("built")
def test_the_recall_of_the_candidates_is_printed(ask, document):
    shown = ask("-k", 2, "--candidates", 12, "--count", 2)
    assert shown.exit_code == 0, shown.output
    assert "Recall 1.00" in shown.stdout
    assert "12 candidates each of 12 images; 12 images scored exactly" in shown.stdout
    none = document(ask("-k", 2, "--sample", 0, "--json"))
    assert {answer["recall"] for answer in none} == {None}


@pytest.mark.usefixtures("built")
def test_the_images_own_labels_can_be_asked_about(ask, document):
    true, predicted = (document(ask(word, "-k", 1, "--json")) for word in ("--true", "--predicted"))
    assert [a["prediction"] for a in true] == [a["prediction"] for a in predicted]
    assert [a["found"] for a in true] != [a["found"] for a in predicted]


@pytest.mark.usefixtures("built")
def test_an_index_of_another_model_or_of_other_data_is_refused(ask, place, weight_file):
    weight_file(lambda state: {name: value + 0.1 for name, value in state.items()})
    other = ask("--weights", "weights.pt")
    assert other.exit_code == 1
    assert "index of another model" in other.stderr
    swapped = ask(model=("--model", "model.py:tiny", "--train", "test"))
    assert swapped.exit_code == 1
    assert "differs in data" in swapped.stderr
    (place / "train" / "circle" / "0.png").unlink()
    fewer = ask()
    assert fewer.exit_code == 1
    assert "differs in data" in fewer.stderr


@pytest.mark.usefixtures("built")
def test_wrong_paths_and_too_few_images_are_named(ask, whence):
    assert "There is no index in nowhere" in ask(index="nowhere").stderr
    assert "nowhere" in ask(images="nowhere").stderr
    many = ask("-k", 13)
    assert many.exit_code == 1
    assert "12 images of the index" in many.stderr
    described = whence("index", "describe", "test")
    assert described.exit_code == 1
    assert "manifest" in described.stderr


@pytest.mark.usefixtures("built")
def test_a_damaged_shard_is_named_refused_and_rebuilt_alone(ask, whence, place):
    assert whence("index", "verify", "idx").stdout.strip().endswith("as it was written.")
    shards = sorted((place / "idx").glob("*.safetensors"))
    others = [path.read_bytes() for path in shards if path != shards[1]]
    shards[1].write_bytes(shards[1].read_bytes()[:-7])
    refused = ask()
    assert refused.exit_code == 1
    assert shards[1].name in refused.stderr
    assert "index verify --repair" in refused.stderr
    named = whence("index", "verify", "idx", "--json")
    assert named.exit_code == 1
    assert json.loads(named.stdout)["damaged"] == [shards[1].name]
    assert "--model and --train" in whence("index", "verify", "idx", "--repair").stderr
    repaired = whence("index", "verify", "idx", "--repair", *MODEL)
    assert repaired.exit_code == 0, repaired.output
    assert f"rebuilt: {shards[1].name}" in repaired.stdout
    assert [path.read_bytes() for path in shards if path != shards[1]] == others
    assert ask().exit_code == 0


@pytest.mark.usefixtures("built")
def test_building_again_is_a_matter_of_moments_and_other_settings_are_refused(whence, place):
    before = {p.name: p.stat().st_mtime_ns for p in (place / "idx").iterdir()}
    words = ("index", "build", *MODEL, "--out", "idx", "--shard-size", 5)
    asked = whence(*words)
    assert (asked.exit_code, "--resume" in asked.stderr) == (1, True)
    assert whence(*words, "--resume").exit_code == 0
    after = {p.name: p.stat().st_mtime_ns for p in (place / "idx").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"run.toml"}
    other = whence(*words, "--seed", 1, "--resume")
    assert other.exit_code == 1
    assert "settings.seed: 0 stored, 1 now" in other.stderr


@pytest.mark.usefixtures("built")
def test_an_index_is_replaced_if_that_is_asked_for(whence, place, document):
    (place / "idx" / "notes.txt").write_text("mine")
    words = ("index", "build", *MODEL, "--out", "idx", "--seed", 1, "--overwrite")
    assert "holds 'notes.txt'" in whence(*words).stderr
    assert whence("index", "verify", "idx").exit_code == 0
    (place / "idx" / "notes.txt").unlink()
    assert whence(*words).exit_code == 0
    found = document(whence("index", "describe", "idx", "--json"))
    assert (found["shards"], found["settings"]["seed"]) == (1, 1)


def test_a_build_is_repeated_from_its_own_file(built, whence, place, document):
    again = ("index", "build", "--config", "idx/run.toml", "--out", "two")
    assert whence(*again).exit_code == 0
    one, two = (document(whence("index", "describe", name, "--json")) for name in ("idx", "two"))
    assert {**one, "index": ""} == {**two, "index": ""}


def test_exact_norms_are_kept_if_they_are_asked_for(whence, document):
    words = (
        "index",
        "build",
        *MODEL,
        "--out",
        "idx",
        "--exact-norms",
        "--parameters",
        "last-layer",
    )
    found = document(whence(*words, "--json"))
    assert found["settings"]["norms"] == "exact"
    assert found["parameters"] == 2


def test_a_sparse_projection_can_be_chosen(whence, document, ask):
    words = ("index", "build", *MODEL, "--out", "idx", "--spread", 2, "--dimension", 20)
    found = document(whence(*words, "--json"))
    assert found["settings"]["projection"] == "whence sparse projection 1"
    assert found["settings"]["spread"] == 2
    assert len(document(ask("-k", 2, "--json"))) == 6


@pytest.mark.usefixtures("built")
def test_inner_products_can_be_asked_for_and_other_scores_are_refused(ask, document):
    answers = document(ask("--score", "grad-dot", "-k", 3, "--candidates", 12, "--json"))
    ranking = exact(6, GradDot()).proponents(3)
    for row, answer in enumerate(answers):
        assert [f["index"] for f in answer["found"]] == ranking.indices[row].tolist()
        assert [f["score"] for f in answer["found"]] == pytest.approx(
            ranking.scores[row].tolist(), rel=1e-3
        )
    other = ask("--score", "ekfac")
    assert other.exit_code == 1
    assert "candidates for grad-cos and grad-dot" in other.stderr


def test_ctrl_c_keeps_what_is_done_and_says_so(whence, place, monkeypatch, document):
    from contextlib import nullcontext

    def stop(stage, done, total):
        if done:
            raise KeyboardInterrupt

    words = ("index", "build", *MODEL, "--out", "idx", "--shard-size", 5)
    with monkeypatch.context() as patch:
        patch.setattr("whence.cli.index.bars", lambda *, quiet: nullcontext(stop))
        stopped = whence(*words)
    assert stopped.exit_code == 130
    assert "What is done is kept in idx" in stopped.stderr
    assert "--resume" in stopped.stderr
    first = (place / "idx" / "shard-00000.safetensors").stat().st_mtime_ns
    assert whence(*words, "--resume").exit_code == 0
    assert (place / "idx" / "shard-00000.safetensors").stat().st_mtime_ns == first
    assert document(whence("index", "describe", "idx", "--json"))["images"] == 12
