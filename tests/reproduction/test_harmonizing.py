"""The reproduction of the harmonizing cube: its pictures, networks, study and verdicts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reproductions.harmonizing import __main__ as runner
from reproductions.harmonizing import cube, report, scenes, training
from reproductions.harmonizing.networks import (
    CONVOLUTIONAL,
    NETWORKS,
    TRANSFORMERS,
    network,
)
from reproductions.harmonizing.report import ACROSS, BETWEEN, HARD, SOFT, WITHIN, Claim, Seen
from reproductions.harmonizing.scenes import CIFAR, DIGITS, Scenes, canvases
from whence.core import Normalisation, TensorData
from whence.evaluation import Mean
from whence.recipes.transfer import transfer
from whence.recipes.transfer_networks import TransferNetwork
from whence.results.transfer_tables import transfer_table

RESULTS = Path(runner.__file__).parent / "results.md"


def drawn(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_the_object_mask_is_exactly_where_the_digit_changed_the_canvas():
    digits = drawn(0, 6, 1, 8, 8)
    digits[:, :, :2] = 0
    with_digit, masks = canvases(digits, torch.Generator().manual_seed(1))
    blank, none = canvases(torch.zeros_like(digits), torch.Generator().manual_seed(1))
    assert not none.any()
    assert torch.equal(with_digit[~masks], blank[~masks])
    assert (with_digit[masks] != blank[masks]).double().mean() > 0.999
    assert float(with_digit.min()) >= 0
    assert float(with_digit.max()) <= 1
    rows = [mask.any(dim=0).nonzero()[:, 0] for mask in masks[:, 0]]
    assert len({int(row.min()) for row in rows}) > 1  # at random places


def test_canvases_do_not_depend_on_anything_but_their_generator():
    digits = drawn(0, 3, 1, 8, 8)
    first, second = (canvases(digits, torch.Generator().manual_seed(7))[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dataset", [DIGITS, CIFAR])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_the_pictures_and_is_drawn_from_its_seed(dataset, name):
    shape = (2, 1, 24, 24) if dataset == DIGITS else (2, 3, 32, 32)
    model = network(dataset, name)
    assert model(drawn(0, *shape)).shape == (2, 10)
    assert not model.training
    again, other = network(dataset, name), network(dataset, name, seed=1)
    weights = [dict(each.named_parameters()) for each in (model, again, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_pairs_are_cut_into_those_within_and_between_families():
    assert len(ACROSS) == 20
    assert set(WITHIN) | set(BETWEEN) == set(ACROSS)
    assert not set(WITHIN) & set(BETWEEN)
    assert len(BETWEEN) == 2 * len(CONVOLUTIONAL) * len(TRANSFORMERS)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A task of 12 pictures, in folders of its own."""
    labels = torch.arange(12) % 10
    task = Scenes(
        train=drawn(1, 12, 1, 8, 8),
        train_labels=labels,
        validation=drawn(2, 12, 1, 24, 24),
        validation_labels=labels,
        test=drawn(3, 12, 1, 24, 24),
        test_labels=labels,
        masks=drawn(4, 12, 1, 24, 24) > 0.5,
        normalisation=Normalisation(mean=(0.35,), std=(0.25,)),
    )
    for module in (scenes, training, cube):
        monkeypatch.setattr(module, "scenes", lambda _: task)
        monkeypatch.setattr(module, "BUILD", tmp_path)
    return task


def test_a_training_that_was_stopped_goes_on_from_its_epoch(tiny, monkeypatch):
    monkeypatch.setitem(training.EPOCHS, (DIGITS, "EffNet"), 3)
    whole = training.trained(DIGITS, "EffNet").state_dict()
    for path in training.folder(DIGITS, "EffNet").iterdir():
        path.unlink()

    class Stop:
        def __call__(self, stage, done, total):
            if done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.trained(DIGITS, "EffNet", Stop())
    resumed = training.trained(DIGITS, "EffNet").state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (training.folder(DIGITS, "EffNet") / "cpu-seconds.txt").is_file()


@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """A study of five networks that know nothing, with maps of one method under every name."""
    out = tmp_path_factory.mktemp("harmonizing") / "study"
    images = drawn(3, 12, 1, 24, 24)
    data = TensorData(images=images, labels=torch.arange(12) % 10, title="noise")
    networks = [
        TransferNetwork(
            name=name,
            model=network(DIGITS, name),
            data=data,
            normalisation=Normalisation(),
            family="CNN" if name in CONVOLUTIONAL else "ViT",
        )
        for name in NETWORKS
    ]
    record = transfer(
        networks,
        out=out,
        methods=dict.fromkeys(cube.METHODS, "gradient"),
        fills=("zero",),
        coverages=(0.25,),
    )
    return record, str(out)


def test_the_page_has_the_papers_tables_every_claim_and_the_controls(small_study, monkeypatch):
    record, place = small_study
    monkeypatch.setattr(report, "folder", lambda _: place)
    page = report.section(DIGITS, record, "digits.svg")
    for mask in (SOFT, HARD):
        assert transfer_table(record, mask, "zero", CONVOLUTIONAL) in page
        assert transfer_table(record, mask, "zero", TRANSFORMERS) in page
    found = report.claims(Seen.of(DIGITS, record))
    assert len(found) == 8
    for claim in found:
        assert claim.found in page
        assert claim.control in page
    # Every method is the same one here: no drop of Grad-CAM can be found.
    lower = [claim for claim in found if "lower with Grad-CAM" in claim.says]
    assert [claim.holds for claim in lower] == [False, False]
    assert all("+0.0 [+0.0, +0.0]" in claim.found for claim in lower)


def test_what_is_read_per_image_adds_up_to_the_cube(small_study, monkeypatch):
    record, place = small_study
    monkeypatch.setattr(report, "folder", lambda _: place)
    seen = Seen.of(DIGITS, record)
    for pair in (("CNN", "ViT-cls"), ("ViT-mean", "EffNet")):
        for shown in ("features", "shuffled"):
            cell = record.row(
                pair[1], shown, generator=pair[0], method="Grad-CAM", mask=HARD, fill="zero"
            )
            share = seen.correct("Grad-CAM", pair, shown, HARD).mean()
            assert float(share) == pytest.approx(cell.accuracy.value)


class Told:
    """What networks said, made up: 100 images, of which each kind of pair gets so many right."""

    def __init__(self, rights):
        self.rights = rights
        self.record = self
        self.fills = ("zero",)

    def images(self, name):
        return 0.9

    def hits(self, method, pair, shown):
        kind = "between" if pair in BETWEEN else "within"
        count = self.rights.get((method, shown, kind), self.rights[shown])
        return (torch.arange(100) < count).double()

    def correct(self, method, pair, shown, mask):
        return self.hits(method, pair, shown)

    def mean(self, method, pairs, shown, mask):
        return torch.stack([self.hits(method, pair, shown) for pair in pairs]).mean(dim=0)

    def row(self, evaluator, shown, *, generator, method, mask, fill):
        share = float(self.hits(method, (generator, evaluator), shown).mean())
        end = type("Ends", (), {"value": share, "low": share - 0.05, "high": share + 0.05})
        gain = type("Ends", (), {"low": share - 0.3})
        return type("Row", (), {"accuracy": end, "advantage": gain})


def verdicts(rights):
    told = Told(rights)
    return [
        judge(told, SOFT).holds
        for judge in (report.recognised, report.slight, report.lower, report.even)
    ]


def test_claims_hold_where_the_numbers_say_so_and_not_elsewhere():
    modified, grad_cam = cube.MODIFIED, cube.GRAD_CAM
    good = {
        "features": 80,
        "shuffled": 20,
        (modified, "features", "between"): 75,
        (grad_cam, "features", "within"): 40,
        (grad_cam, "features", "between"): 40,
    }
    assert verdicts(good) == [True, True, True, True]
    assert verdicts(good | {"features": 12, (modified, "features", "between"): 12})[0] is False
    assert verdicts(good | {(modified, "features", "between"): 40})[1] is False  # not slight
    assert verdicts(good | {(modified, "features", "between"): 80})[1] is False  # no drop
    assert (
        verdicts(
            good | {(grad_cam, "features", "within"): 80} | {(grad_cam, "features", "between"): 75}
        )[2]
        is False
    )
    assert verdicts(good | {(grad_cam, "features", "between"): 5})[3] is False


def test_an_estimate_is_the_mean_over_images_with_its_interval():
    values = drawn(5, 30).double()
    mean = Mean()
    mean.update(torch.arange(30), values)
    assert report.estimated(values) == mean.result()
    told = report.points(replace(mean.result(), mean=0.5, low=0.25, high=0.75), sign=True)
    assert told == "+50.0 [+25.0, +75.0]"


def test_a_claim_is_called_reproduced_or_not():
    claim = Claim(says="It rains", mask=SOFT, holds=True, found="1", control="2")
    table = report.claim_table([claim, replace(claim, holds=False)])
    assert table.splitlines()[2] == "| It rains | soft | reproduced | 1 | 2 |"
    assert table.splitlines()[3] == "| It rains | soft | not | 1 | 2 |"


def test_missing_data_are_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runner, "ARCHIVE", runner.DATA / "none.zip")
    monkeypatch.setattr("sys.argv", ["harmonizing", "--data", "cifar"])
    assert runner.main() == 1
    assert "shared/data/none.zip beside the repository" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", [DIGITS, CIFAR])
def test_the_kept_page_has_every_network_and_a_verdict_on_every_claim(dataset):
    text = RESULTS.read_text("utf-8")
    if f"## {dataset}\n" not in text:
        pytest.skip("this part was not run yet")
    section = text.split(f"\n## {dataset}\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")]
    said = [row[3].strip() for row in rows if len(row) == 7 and row[2].strip() in (SOFT, HARD)]
    assert len(said) == 8
    assert set(said) <= {"reproduced", "not"}
    networks = [row[1].strip() for row in rows if len(row) == 8 and row[1].strip() in NETWORKS]
    assert networks[:5] == list(NETWORKS)
    picture = section.split("](")[1].split(")")[0]
    assert (RESULTS.parent / picture).is_file()
