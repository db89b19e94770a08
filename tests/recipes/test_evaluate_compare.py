"""Method against method: a claim needs an interval of the paired difference off zero."""

import csv
import io

import pytest
import torch

import whence
from whence.core import TensorData
from whence.evaluation.bootstrap import Bootstrap
from whence.recipes.evaluate_compare import comparisons_of

COUNT = 40


@pytest.fixture
def answers(generator):
    """Three methods of which images are far more varied than the methods differ."""
    images = 10 * torch.randn(COUNT, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, COUNT, generator=generator, dtype=torch.float64)
    return {"one": images + 1, "two": images + 0.1 * noise[0], "three": images + 0.1 * noise[1]}


def found(answers, better="higher", **options):
    return comparisons_of("net", "metric", answers, better, Bootstrap(), **options)


def test_every_pair_is_compared_image_by_image(answers):
    told = found(answers)
    assert [(one.first, one.second) for one in told] == [
        ("one", "two"),
        ("one", "three"),
        ("two", "three"),
    ]
    for one in told:
        differences = answers[one.first] - answers[one.second]
        expected = Bootstrap().estimate(differences)
        assert one.difference.mean == pytest.approx(float(differences.mean()))
        assert (one.difference.low, one.difference.high) == (expected.low, expected.high)


def test_a_claim_is_made_only_where_the_interval_excludes_zero(answers):
    first, second, third = found(answers)
    assert (first.winner, second.winner, third.winner) == ("one", "one", "")
    assert third.reason == "the interval of the difference covers 0"
    assert third.difference.low <= 0 <= third.difference.high
    # not paired, the images' own differences would hide what is there
    alone = [Bootstrap().estimate(answers[name]) for name in ("one", "two")]
    assert alone[0].low < alone[1].high


def test_the_direction_that_is_better_decides_who_wins(answers):
    assert [one.winner for one in found(answers, "lower")] == ["two", "three", ""]
    assert found(answers, "neither") == []


def test_few_images_or_a_reason_silence_all_claims(answers):
    few = {name: values[:5] for name, values in answers.items()}
    assert {one.verdict for one in found(few)} == {"no claim"}
    assert "a claim needs 6" in found(few)[0].reason
    told = found(answers, silenced="one training of each")
    assert {(one.verdict, one.reason) for one in told} == {("no claim", "one training of each")}
    assert told[0].difference.mean == pytest.approx(1, abs=0.1)


def test_images_that_one_of_the_two_lacks_are_left_out_of_that_pair(answers):
    answers["two"][:7] = torch.nan
    counts = {(one.first, one.second): one.difference.count for one in found(answers)}
    assert counts == {
        ("one", "two"): COUNT - 7,
        ("one", "three"): COUNT,
        ("two", "three"): COUNT - 7,
    }


def test_two_methods_without_a_common_image_make_no_claim_and_no_number(answers):
    answers["one"][: COUNT // 2] = torch.nan
    answers["two"][COUNT // 2 :] = torch.nan
    one = found(answers)[0]
    assert (one.difference, one.verdict) == (None, "no claim")
    assert "no image on which both are defined" in one.reason


def test_equal_methods_rarely_win(generator):
    wins = 0
    for _ in range(100):
        images = torch.randn(30, generator=generator, dtype=torch.float64)
        noise = torch.randn(2, 30, generator=generator, dtype=torch.float64)
        told = comparisons_of(
            "net",
            "metric",
            {"one": images + noise[0], "two": images + noise[1]},
            "higher",
            Bootstrap(draws=200),
        )
        wins += bool(told[0].winner)
    assert wins <= 14  # 5 to 7 in expectation


def test_an_evaluation_says_which_method_is_better_and_how_often_it_asked(tmp_path):

    generator = torch.Generator().manual_seed(2)
    images = torch.rand(16, 1, 8, 8, generator=generator)
    images[:, :, 3, 3] = 4.0
    weights = torch.full((64, 2), 0.01)
    weights[27] = torch.tensor([1.0, -1.0])

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(weights)

        def forward(self, images):
            return images.flatten(1) @ self.weight

    right = torch.zeros(16, 8, 8)
    right[:, 3, 3] = 1
    wrong = torch.zeros(16, 8, 8)
    wrong[:, 7, 7] = 1
    record = whence.evaluate(
        Linear().eval(),
        TensorData(images=images),
        methods=(),
        maps={"right": right, "wrong": wrong, "right again": right},
        metrics=("deletion:steps=8,fill=zero", "gini", "spearman"),
        out=tmp_path / "out",
    )
    metric = "deletion:steps=8,fill=zero"
    assert record.comparison("Linear", metric, "right", "wrong").winner == "right"
    same = record.comparison("Linear", metric, "right", "right again")
    assert (same.verdict, same.difference.mean) == ("no claim", 0)
    assert {one.metric for one in record.comparisons} == {metric}  # gini has no direction
    assert any(
        note.startswith("3 differences are tested between two methods, at 95 % each, with 2 claims")
        for note in record.notes
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "comparisons.csv").read_text())))
    assert [row["better"] for row in rows] == ["right", "", "right again"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "right is better than wrong; right again is better than wrong; no claim for 1" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Method against method" in page
    assert "right again is better" in page
