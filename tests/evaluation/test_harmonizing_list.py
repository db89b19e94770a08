"""The list of the metrics' properties is complete: 44 to 50, and how parts make a whole."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROPERTIES = {
    44: {"test_soundness.py"},
    45: {"test_perturbation.py"},
    46: {"test_correlation.py"},
    47: {"test_perturbation.py"},
    48: {"test_perturbation.py"},
    49: {"test_localisation.py"},
    50: {"test_agreement.py", "test_sanity.py"},
}
WHOLE = {
    "test_mean.py": "test_the_whole_is_the_merger_of_its_parts_however_it_is_cut",
    "test_catalogue.py": "test_the_whole_of_every_metric_is_the_merger_of_its_parts",
}
FILES = sorted({name for names in PROPERTIES.values() for name in names} | set(WHOLE))


def text_of(name):
    return (TESTS / name).read_text(encoding="utf-8")


def test_every_property_from_44_to_50_is_a_test_in_its_files():
    found = {}
    for path in TESTS.glob("test_*.py"):
        for number in re.findall(r"^def test_property_(\d+)_", text_of(path.name), re.MULTILINE):
            found.setdefault(int(number), set()).add(path.name)
    assert found == PROPERTIES


@pytest.mark.parametrize(("name", "test"), WHOLE.items())
def test_the_whole_is_the_merger_of_its_parts_for_the_mean_and_for_every_metric(name, test):
    assert f"def {test}(" in text_of(name)


def test_the_opposite_of_a_map_has_the_opposite_gain():
    assert "assert torch.equal(metric(f, images, some), -metric(f, images, -some))" in text_of(
        "test_perturbation.py"
    )


@pytest.mark.parametrize("name", FILES)
def test_no_test_of_the_list_is_skipped_or_expected_to_fail(name):
    assert not re.search(r"mark\.(skip|xfail)|pytest\.(skip|xfail)", text_of(name))
