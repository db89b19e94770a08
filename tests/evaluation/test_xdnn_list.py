"""The list of X-DNNs' properties is complete: each number from 1 to 24 has a test that runs."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = {
    "convert/test_properties.py": {*range(1, 17), 23},
    "priors/test_properties.py": {17, 18, 19, 20, 24},
    "evaluation/test_masking.py": {21},
    "evaluation/test_idsds.py": {22, 23},
}


def test_every_property_from_1_to_24_is_a_test_in_its_file():
    listed = set()
    for name, numbers in FILES.items():
        text = (TESTS / name).read_text(encoding="utf-8")
        found = {int(n) for n in re.findall(r"^def test_(\d\d)_", text, re.MULTILINE)}
        assert found == numbers, name
        listed |= found
    assert listed == set(range(1, 25))


def test_no_test_of_the_list_is_left_out():
    for name in FILES:
        text = (TESTS / name).read_text(encoding="utf-8")
        assert not re.search(r"mark\.(skip|xfail)|pytest\.(skip|xfail)|importorskip", text), name
