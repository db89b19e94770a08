"""One process at a time builds in a folder."""

import subprocess
import sys

import pytest

from whence.errors import OutputError
from whence.index.lock import NAME, one_builder


def test_a_second_builder_is_refused_until_the_first_has_ended(tmp_path):
    with one_builder(tmp_path):
        with pytest.raises(OutputError, match="Another process is building"), one_builder(tmp_path):
            pass
        assert (tmp_path / NAME).is_file()
    assert not (tmp_path / NAME).exists()
    with one_builder(tmp_path):
        pass


def test_the_lock_of_a_process_that_was_killed_keeps_nobody_out(tmp_path):
    program = (
        "import os, pathlib, sys\n"
        "from whence.index.lock import one_builder\n"
        "with one_builder(pathlib.Path(sys.argv[1])):\n"
        "    os._exit(9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == 9
    assert (tmp_path / NAME).is_file()
    with one_builder(tmp_path):
        pass
    assert not (tmp_path / NAME).exists()
