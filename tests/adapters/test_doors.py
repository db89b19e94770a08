"""The doors of the optional libraries, each tried in a fresh interpreter."""

import subprocess
import sys
import textwrap

import pytest


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        check=False,
        text=True,
    )


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from whence.errors import MissingExtra
try:
    {action}
except MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("absent", "module", "action", "install"),
    [
        ("torchvision", "torchvision", "open_torchvision", "whence[torchvision]"),
        ("timm", "timm", "open_timm", "whence[timm]"),
        ("torchvision", "timm", "open_timm", "whence[torchvision]"),
        ("transformers", "transformers", "open_transformers", "whence[transformers]"),
    ],
)
def test_a_missing_library_prints_its_install_line(absent, module, action, install):
    call = f"from whence.adapters.{module} import {action}; {action}()"
    done = run(ABSENT.format(absent={absent}, action=call))
    assert f"pip install '{install}'" in done.stdout, done.stderr


def test_importing_the_adapters_opens_no_door():
    done = run(
        """
        import sys, whence.adapters
        print(sorted({"torchvision", "timm", "transformers", "sklearn"} & set(sys.modules)))
        """
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_operators_are_declared_only_where_torchvision_does_not_open_without():
    fits = run("import torchvision").returncode == 0
    done = run(
        """
        from whence.adapters.torchvision import DECLARED, open_torchvision
        module = open_torchvision()
        assert open_torchvision() is module
        import timm
        print(module.__name__, len(DECLARED), timm.is_model("resnet18"))
        """
    )
    assert done.stdout.strip() == f"torchvision {0 if fits else 1} True", done.stderr


def test_another_failure_of_torchvision_is_passed_on():
    done = run(
        """
        import sys
        from whence.adapters.torchvision import DECLARED, open_torchvision
        class Broken:
            def find_spec(self, name, path=None, target=None):
                if name == "torchvision":
                    raise RuntimeError("CUDA versions differ")
        sys.meta_path.insert(0, Broken())
        try:
            open_torchvision()
        except RuntimeError as error:
            print(error, len(DECLARED))
        """
    )
    assert done.stdout.strip() == "CUDA versions differ 0", done.stderr
