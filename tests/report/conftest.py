"""The made-up audit, for tests that need one that looks real."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

FAKES = Path(__file__).parents[1] / "report" / "fake_audit.py"


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    spec = spec_from_file_location("fake_audit", FAKES)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
