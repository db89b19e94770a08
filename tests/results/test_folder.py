"""A result folder appears whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from whence.errors import OutputError
from whence.results import new_folder, save_audit
from whence.results.folder import write_whole


@pytest.fixture
def result(fakes, tmp_path):
    """A folder with a saved audit and a report."""
    with new_folder(tmp_path / "audit") as part:
        save_audit(fakes.fake_audit(queries=1, each=1), part)
        (part / "report.html").write_text("old", "utf-8")
    return tmp_path / "audit"


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_nothing_is_there_until_the_block_ends(tmp_path):
    with new_folder(tmp_path / "out") as part:
        (part / "a.txt").write_text("a", "utf-8")
        assert part.parent == tmp_path
        assert part.name.startswith(".out.part-")
        assert not (tmp_path / "out").exists()
    assert everything_in(tmp_path) == ["out", "out/a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_behind_after_an_exception(tmp_path, error):
    def body():
        with new_folder(tmp_path / "deep" / "out") as part:
            (part / "a.txt").write_text("a", "utf-8")
            raise error

    with pytest.raises(error):
        body()
    assert everything_in(tmp_path) == []


def test_a_parent_that_was_there_before_stays_after_an_exception(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="stop"), new_folder(tmp_path / "mine" / "out"):
        msg = "stop"
        raise ValueError(msg)
    assert everything_in(tmp_path) == ["mine"]


def test_ctrl_c_in_a_real_process_leaves_nothing(tmp_path):
    script = (
        "import signal, sys, time\n"
        "from whence.results.folder import new_folder\n"
        # A process that was started in the background inherits that Ctrl-C is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with new_folder(sys.argv[1]) as part:\n"
        "    (part / 'a').write_text('a')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in errors
    assert everything_in(tmp_path) == []


def test_an_existing_result_is_refused_and_the_cure_is_named(result):
    with pytest.raises(OutputError, match="--overwrite"), new_folder(result):
        pytest.fail("the block must not run")
    assert (result / "report.html").read_text("utf-8") == "old"


def test_overwriting_replaces_an_old_result_as_a_whole(result):
    with new_folder(result, overwrite=True) as part:
        (part / "report.html").write_text("new", "utf-8")
        assert (result / "report.html").read_text("utf-8") == "old"
    assert everything_in(result.parent) == ["audit", "audit/report.html"]
    assert (result / "report.html").read_text("utf-8") == "new"


def test_overwriting_that_fails_keeps_the_old_result(result):
    before = everything_in(result.parent)
    with pytest.raises(ZeroDivisionError), new_folder(result, overwrite=True):
        raise ZeroDivisionError
    assert everything_in(result.parent) == before


def test_a_folder_with_other_files_is_never_replaced(result):
    (result / "thesis.tex").write_text("years of work", "utf-8")
    with pytest.raises(OutputError, match=r"thesis\.tex"), new_folder(result, overwrite=True):
        pytest.fail("the block must not run")
    assert (result / "thesis.tex").read_text("utf-8") == "years of work"


@pytest.mark.parametrize("content", ['{"vulnerabilities": {}}', "not json", "[]"])
def test_the_audit_json_of_another_tool_does_not_make_a_result(tmp_path, content):
    (tmp_path / "audit.json").write_text(content, "utf-8")
    with pytest.raises(OutputError, match="did not write"), new_folder(tmp_path, overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "audit.json").read_text("utf-8") == content


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as part:
        (part / "a").write_text("a", "utf-8")
    assert everything_in(tmp_path) == ["out", "out/a"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="is a file"), new_folder(tmp_path / "out"):
        pytest.fail("the block must not run")


def test_a_file_among_the_parents_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="cannot be written"), new_folder(tmp_path / "file" / "a"):
        pytest.fail("the block must not run")


def test_what_appears_meanwhile_is_kept_and_so_is_the_finished_result(tmp_path):
    def body():
        with new_folder(tmp_path / "out") as part:
            (part / "a").write_text("finished", "utf-8")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "other").write_text("someone else's", "utf-8")

    with pytest.raises(OutputError, match="The finished result is kept in"):
        body()
    assert (tmp_path / "out" / "other").read_text("utf-8") == "someone else's"
    (kept,) = tmp_path.glob(".out.part-*")
    assert (kept / "a").read_text("utf-8") == "finished"


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_folder(tmp_path / "link") as part:
        (part / "a").write_text("a", "utf-8")
    assert (tmp_path / "real" / "a").exists()
    assert (tmp_path / "link").is_symlink()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "missing" / "a", b"content")
    assert everything_in(tmp_path) == ["a"]
