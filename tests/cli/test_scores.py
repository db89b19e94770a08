"""Every score from the command line, with its settings and checkpoints."""

import pytest

from whence.influence import SCORERS
from whence.results import load_audit

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

NAMES = [s.name for s in SCORERS]
QUICK = {
    "explicit": ("--parameters", "last-layer"),
    "lissa": ("--score-set", "depth=5", "--score-set", "scale=5"),
    "arnoldi": ("--score-set", "krylov=6", "--score-set", "rank=3"),
    "influence": ("--score-set", "iterations=5"),
}


@pytest.mark.parametrize("name", NAMES)
def test_an_audit_takes_every_score(audit, place, name):
    result = audit("--score", name, *QUICK.get(name, ()))
    assert result.exit_code == 0, result.output
    record = load_audit(place / "audit")
    assert record.run.settings["score"] == name
    assert all(q.proponents or q.opponents for q in record.queries)


def test_the_help_names_every_score(whence):
    text = " ".join(whence("audit", "--help").output.replace("│", " ").split())
    assert [name for name in NAMES if f" {name}" not in text] == []


def test_settings_of_a_score_reach_the_record(audit, place):
    words = ("--score", "trak", "--score-set", "damping=0.25", "--score-set", "space.dimension=40")
    assert audit(*words).exit_code == 0
    settings = load_audit(place / "audit").run.settings["score settings"]
    assert settings == {
        "space.dimension": 40,
        "space.kind": "factored",
        "space.seed": 0,
        "damping": 0.25,
    }


def test_checkpoints_are_added_up_with_their_rates(audit, place, weight_file):
    later = weight_file().rename(place / "later.pt")
    earlier = weight_file(lambda state: {n: v / 2 for n, v in state.items()})
    files = ("--checkpoint", earlier, "--checkpoint", later)
    rates = ("--learning-rate", 0.5, "--learning-rate", 0.25)
    scores = {}
    for name, words in (
        ("both", (*files, *rates)),
        ("earlier", ("--checkpoint", earlier)),
        ("later", ("--checkpoint", later)),
    ):
        result = audit("--score", "tracin", "-k", 12, *words, out=name)
        assert result.exit_code == 0, result.output
        record = load_audit(place / name)
        found = record.queries[0].proponents + record.queries[0].opponents
        scores[name] = {p.index: p.score for p in found}
        assert record.run.settings["checkpoints"] == (2 if name == "both" else 1)
    assert len(scores["both"]) == 12
    for index, score in scores["both"].items():
        expected = 0.5 * scores["earlier"][index] + 0.25 * scores["later"][index]
        assert score == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_bad_settings_and_checkpoints_are_told(audit, place, weight_file):
    told = audit("--score", "ekfac", "--score-set", "dampning=1")
    assert told.exit_code == 1
    assert "Did you mean 'damping'?" in " ".join(told.output.split())
    told = audit("--score", "ekfac", "--score-set", "damping=much")
    assert "ekfac: damping takes float or 'layer' or none; got 'much'" in " ".join(
        told.output.split()
    )
    file = weight_file()
    told = audit(
        "--score", "tracin", "--checkpoint", file, "--learning-rate", 1, "--learning-rate", 2
    )
    assert "1 files and 2 rates" in " ".join(told.output.split())
    other = weight_file(lambda state: {n: v[:2] for n, v in state.items()})
    told = audit("--score", "tracin", "--checkpoint", other)
    assert told.exit_code == 1
    assert "does not fit" in " ".join(told.output.split())
    assert not (place / "audit").exists()
