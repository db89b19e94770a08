"""The list is complete: each of the numbered properties 1 to 43 has a test here."""

import re
from pathlib import Path

FILES = {
    "test_lrp_properties.py": range(1, 12),
    "test_cam_properties.py": range(12, 18),
    "test_path_properties.py": range(18, 26),
    "test_guided_and_contrastive_properties.py": range(26, 32),
    "test_soundness_properties.py": range(32, 44),
}


def test_every_property_from_1_to_43_is_a_test_in_its_file():
    listed = []
    for name, numbers in FILES.items():
        text = (Path(__file__).parent / name).read_text(encoding="utf-8")
        found = {int(n) for n in re.findall(r"^def test_property_(\d\d)_", text, re.MULTILINE)}
        assert found == set(numbers), name
        listed += sorted(found)
    assert listed == list(range(1, 44))


def test_no_test_of_the_list_is_without_a_number_or_left_out():
    for name in FILES:
        text = (Path(__file__).parent / name).read_text(encoding="utf-8")
        tests = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
        assert all(re.match(r"test_property_\d\d_", test) for test in tests), name
        assert "skip" not in text, name
        assert "xfail" not in text, name
