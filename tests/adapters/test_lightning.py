"""Lightning behind its door: what is learnt, what is kept, and that it is silent."""

import builtins
import json
import logging
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.adapters.lightning import train
from whence.adapters.training import Loader, TrainingSettings, varied
from whence.core import TensorData
from whence.errors import DataError, MissingExtra, NumericsError, SettingError
from whence.priors import PriorLoss


def cross_entropy(module, images, labels, rows, step):
    logits = module(images)
    task = functional.cross_entropy(logits, labels)
    return PriorLoss(total=task, task=task, penalty=0 * task, logits=logits)


@pytest.fixture
def data(generator):
    images = torch.randn(40, 1, 6, 6, generator=generator)
    return TensorData(images=images, labels=(images.mean(dim=(1, 2, 3)) > 0).long())


@pytest.fixture
def network():
    def make():
        drawn = torch.Generator().manual_seed(4)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 2)
        )
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=drawn))
        return net.eval()

    return make


@pytest.fixture
def run(data, tmp_path):
    def train_(module, folder="run", loss=cross_entropy, progress=None, watch=None, **settings):
        chosen = {"epochs": 4, "batch_size": 16, "rate": 1e-2, **settings}
        return train(
            module,
            loss,
            data,
            data,
            settings=TrainingSettings(**chosen),
            folder=tmp_path / folder,
            watch=watch or (lambda rows: None),
            progress=progress or (lambda *report: None),
        )

    return train_


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_one_step_is_the_optimisers(run, network, data):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    loss = functional.cross_entropy(net(data.images), data.labels)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    expected = [p - 0.1 * g for p, g in zip(net.parameters(), gradients, strict=True)]
    (row,) = run(
        net, epochs=1, batch_size=40, optimiser="sgd", rate=0.1, decay=0.0, schedule="constant"
    )
    for found, one in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(found, one)
    assert row.task == pytest.approx(loss.item())
    assert (row.epoch, row.rate, row.penalty) == (1, 0.1, 0)


def test_the_network_ends_with_the_weights_of_its_best_epoch_in_eval_mode(run, network, data):
    net = network()
    rows = run(net, epochs=6, rate=0.3)
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5, 6]
    accuracy = (net(data.images).argmax(dim=1) == data.labels).float().mean().item()
    assert accuracy == pytest.approx(max(row.validation_accuracy for row in rows))
    assert not any(part.training for part in net.modules())


@pytest.mark.parametrize("step", [2, 3, 8])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(step, run, network):
    options = {"vary": True, "patience": 3, "seed": 5}
    whole = network()
    rows = run(whole, "whole", **options)

    def stop(stage, done, total):
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(network(), progress=stop, **options)
    resumed = network()
    assert run(resumed, **options) == rows
    assert same(resumed, whole)


@pytest.mark.parametrize("options", [{}, {"patience": 1, "rate": 1e-9}], ids=["all", "early"])
def test_a_training_that_has_ended_is_not_repeated(options, run, network):
    first, again, steps = network(), network(), []
    rows = run(first, **options)
    assert run(again, progress=lambda *report: steps.append(report), **options) == rows
    assert same(first, again)
    assert steps == []


def test_it_stops_when_the_validation_accuracy_has_not_risen_for_so_many_epochs(run, network):
    rows = run(network(), epochs=20, patience=2, rate=1e-9)
    assert len(rows) == 3


def test_seeds_decide_the_order_of_the_images(run, network):
    nets = [network() for _ in range(3)]
    for k, (net, seed) in enumerate(zip(nets, (1, 1, 2), strict=True)):
        run(net, f"{k}", epochs=1, seed=seed)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_nothing_is_printed_and_the_world_is_as_it_was(run, network, capfd):
    handler, level = signal.getsignal(signal.SIGINT), logging.getLogger("lightning.pytorch").level
    one, other = network(), network()
    before = torch.get_rng_state()

    def stop(stage, done, total):
        raise KeyboardInterrupt

    run(one, "quiet")
    with pytest.raises(KeyboardInterrupt):
        run(other, "stopped", progress=stop)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGINT) is handler
    assert logging.getLogger("lightning.pytorch").level == level


def test_progress_counts_the_steps_of_all_epochs(run, network):
    told = []
    run(network(), progress=lambda *report: told.append(report))
    assert told[0] == ("training", 1, 12)
    assert told[-1] == ("training", 12, 12)


def test_mixed_precision_trains_weights_of_single_precision(run, network):
    kinds = set()

    def loss(module, images, labels, rows, step):
        found = cross_entropy(module, images, labels, rows, step)
        kinds.add(found.logits.dtype)
        return found

    net, before = network(), network()
    run(net, loss=loss, precision="bf16-mixed")
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert not same(net, before)


def test_the_watcher_is_told_after_every_epoch_and_may_stop(run, network):
    seen = []

    def watch(rows):
        seen.append(len(rows))
        if len(rows) == 2:
            raise NumericsError

    with pytest.raises(NumericsError):
        run(network(), watch=watch)
    assert seen == [1, 2]


def test_checkpoints_hold_nothing_but_tensors_and_plain_values(run, network, tmp_path):
    run(network())
    found = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    rows = found["callbacks"]["Watch"]["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    json.dumps(rows)


def test_a_loss_that_explodes_is_named(run, network):
    with pytest.raises(NumericsError, match=r"(nan|inf) in epoch 1 .*Lower the learning rate"):
        run(network(), optimiser="sgd", rate=1e30)


def test_an_image_without_a_label_is_named(run, network, data):
    data.labels[3] = -1
    with pytest.raises(DataError, match="Image 3 has no label"):
        run(network())


def test_a_missing_library_is_named_with_its_extra(run, network, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(MissingExtra, match=r"needs lightning.*whence\[fit\]"):
        run(network())


def test_a_library_that_cannot_be_loaded_is_told_from_a_missing_one(run, network, monkeypatch):
    def broken(name, *rest, **options):
        if name == "lightning.pytorch":
            msg = "operator vision::nms does not exist"
            raise RuntimeError(msg)
        return ours(name, *rest, **options)

    ours = builtins.__import__
    net = network()
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(SettingError, match=r"cannot be loaded: operator vision::nms does not"):
        run(net)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"rate": 0.0}, "rate must be over 0"),
        ({"clip": float("nan")}, "clip must be over 0"),
        ({"decay": -1.0}, "decay must be 0 or more"),
        ({"optimiser": "adam"}, "optimiser must be one of adamw, sgd; got 'adam'"),
        ({"precision": "16"}, "precision must be one of 32, bf16-mixed, 16-mixed"),
        ({"schedule": "step"}, "schedule must be one of cosine, constant"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_out_of_range_are_refused(setting, match):
    with pytest.raises(SettingError, match=match):
        TrainingSettings(**setting)


def loader(data, rank=0, world=1, epoch=0, **settings):
    return Loader(
        data=data,
        settings=TrainingSettings(batch_size=7, **settings),
        trainer=SimpleNamespace(global_rank=rank, world_size=world, current_epoch=epoch),
        shuffled=True,
    )


def test_processes_share_the_images_of_an_epoch_evenly(data):
    parts = [[int(k) for batch in loader(data, rank, 3) for k in batch[0]] for rank in range(3)]
    assert [len(part) for part in parts] == [14, 14, 14]
    assert set().union(*parts) == set(range(40))
    assert len(loader(data, 0, 3)) == 2


def test_every_epoch_has_its_own_order(data):
    orders = [loader(data, epoch=k).order() for k in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(40))


def test_varied_images_are_moved_and_mirrored_and_nothing_else():
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 2] = 5
    found = varied(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0, 5}
    where = {(int(r), int(c)) for _, _, r, c in found.nonzero()}
    assert {r for r, _ in where} == {1, 2, 3, 4, 5}
    assert {c for _, c in where} == {0, 1, 2, 3, 4} | {3, 4, 5, 6, 7}


def test_of_several_epochs_that_are_as_good_the_last_is_kept(run, network, tmp_path):
    net, last = network(), network()
    rows = run(net, rate=1e-6, epochs=3)
    assert len({row.validation_accuracy for row in rows}) == 1
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    last.load_state_dict(
        {name.removeprefix("module."): value for name, value in state["state_dict"].items()}
    )
    assert same(net, last)
