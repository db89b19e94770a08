import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whence.errors import DataError, MissingExtra, SettingError
from whence.execution import run_on_ray, run_serial, shards_of


@dataclass
class Words:
    """A statistic that shows the order in which it was merged."""

    text: str = ""

    def update(self, part):
        self.text += part

    def merge(self, other: Self) -> Self:
        return Words(self.text + other.text)

    def result(self):
        return self.text


def visit(statistic, shard):
    for letter in shard:
        statistic.update(letter)


@dataclass
class FakeRay:
    """Runs tasks when they are waited for, the last one first, as a cluster might."""

    running: bool = False
    tasks: dict = field(default_factory=dict)
    cancelled: list = field(default_factory=list)
    results: dict = field(default_factory=dict)

    def module(self):
        module = ModuleType("ray")
        for name in ("is_initialized", "init", "remote", "wait", "get", "cancel"):
            setattr(module, name, getattr(self, name))
        return module

    def is_initialized(self):
        return self.running

    def init(self):
        assert not self.running
        self.running = True

    def remote(self, function):
        assert self.running
        fake = self

        class Task:
            @staticmethod
            def remote(*arguments):
                reference = f"task {len(fake.tasks)}"
                fake.tasks[reference] = (function, arguments)
                return reference

        return Task

    def wait(self, references, num_returns):
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference):
        function, arguments = self.tasks[reference]
        return function(*arguments)

    def cancel(self, reference):
        self.cancelled.append(reference)


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake.module())
    return fake


@pytest.fixture(params=[run_serial, run_on_ray], ids=lambda run: run.__name__)
def run(request, ray):
    return request.param


SHARDS = ["ab", "c", "def", "g"]


def test_the_result_is_that_of_the_shards_in_their_order(run):
    assert run(Words, SHARDS, visit).result() == "abcdefg"


def test_every_shard_begins_with_an_empty_statistic_of_its_own(run):
    kept = {}
    run(Words, SHARDS, visit, keep=lambda place, own: kept.setdefault(place, own.text))
    assert kept == dict(enumerate(SHARDS))


def test_finished_shards_are_not_worked_on_again(run):
    seen, kept = [], []
    done = {0: Words("AB"), 2: Words("DEF")}

    def watched(statistic, shard):
        seen.append(shard)
        visit(statistic, shard)

    made = run(Words, SHARDS, watched, done=done, keep=lambda place, _: kept.append(place))
    assert made.result() == "ABcDEFg"
    assert sorted(seen) == ["c", "g"]
    assert sorted(kept) == [1, 3]
    assert done == {0: Words("AB"), 2: Words("DEF")}


def test_a_pass_that_was_interrupted_goes_on_from_what_was_kept(run):
    kept = {}

    def stop(place, own):
        kept[place] = own
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Words, SHARDS, visit, keep=stop)
    assert len(kept) == 2
    again = []
    made = run(Words, SHARDS, visit, done=kept, keep=lambda place, _: again.append(place))
    assert made.result() == "abcdefg"
    assert set(again) == set(range(4)) - set(kept)


def test_everything_may_be_finished_already(run):
    made = run(Words, ["a", "b"], visit, done={0: Words("x"), 1: Words("y")})
    assert made.result() == "xy"


def test_progress_ends_with_every_shard(run):
    told = []
    run(Words, SHARDS, visit, progress=lambda *report: told.append(report))
    assert told[-1] == ("shards", 4, 4)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_no_shard_is_refused(run):
    with pytest.raises(DataError, match="at least one shard"):
        run(Words, [], visit)


def test_a_finished_shard_that_does_not_exist_is_refused(run):
    with pytest.raises(SettingError, match="Shard 4 is said to be done, but there are 4"):
        run(Words, SHARDS, visit, done={4: Words()})


def test_an_error_in_a_shard_is_passed_on_and_the_other_tasks_are_cancelled(ray):
    def broken(statistic, shard):
        if shard == "def":
            raise OSError(shard)
        visit(statistic, shard)

    with pytest.raises(OSError, match="def"):
        run_on_ray(Words, SHARDS, broken)
    assert ray.cancelled == ["task 0", "task 1"]


def test_a_cluster_that_is_connected_already_is_used(ray):
    ray.running = True
    assert run_on_ray(Words, SHARDS, visit).result() == "abcdefg"


def test_ray_that_is_not_installed_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'whence\[ray\]'"):
        run_on_ray(Words, SHARDS, visit)


def test_importing_the_room_does_not_import_ray():
    import subprocess

    code = "import sys, whence.execution; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_on_a_real_cluster_the_result_is_the_same():
    ray = pytest.importorskip("ray", reason="needs whence[ray]")
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        assert run_on_ray(Words, SHARDS, visit).result() == "abcdefg"
    finally:
        ray.shutdown()


@given(st.integers(0, 40), st.integers(1, 12))
def test_shards_hold_every_index_once_and_are_of_nearly_equal_size(size, count):
    parts = shards_of(range(size), count)
    assert [index for part in parts for index in part] == list(range(size))
    assert len(parts) == min(size, count)
    sizes = [len(part) for part in parts]
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_no_part_is_refused():
    with pytest.raises(SettingError, match="at least 1; got 0"):
        shards_of([1], 0)
