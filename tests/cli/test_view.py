"""`whence view`: live with the network that the run.toml names, or with one that is given."""

import shutil


def test_the_audited_network_explains_when_it_is_asked_for(audit, whence):
    assert audit().exit_code == 0
    static = whence("view", "audit", "--get", "/")
    assert (static.exit_code, "Explain a picture" in static.stdout) == (0, False)
    assert whence("view", "audit", "--get", "/explain").exit_code == 1
    page = whence("view", "audit", "--live", "--get", "/explain")
    assert (page.exit_code, page.stderr) == (0, "")
    assert '<option value="circle">' in page.stdout
    assert "12 training images" in page.stdout
    assert "Not what was audited" not in page.stdout


def test_live_refuses_other_data_than_the_audited(audit, whence, place):
    audit()
    shutil.copy(place / "train/circle/0.png", place / "train/square/0.png")
    refused = whence("view", "audit", "--live", "--get", "/explain")
    assert (refused.exit_code, "training images are others" in refused.stderr) == (1, True)
    told = whence(
        *("view", "audit", "--model", "model.py:tiny", "--train", "train", "--get", "/explain")
    )
    assert (told.exit_code, "training images are others" in told.stdout) == (0, True)


def test_two_networks_are_given_the_same_way_as_elsewhere(audit, whence):
    audit()
    both = ("--model", "one=model.py:tiny", "--model", "two=model.py:branching")
    page = whence("view", "audit", *both, "--get", "/explain")
    assert "The networks: one, two" in page.stdout


def test_what_is_missing_is_named(audit, whence, place):
    audit()
    alone = whence("view", "audit", "--train", "train", "--get", "/")
    assert (alone.exit_code, "--train is for a network" in alone.stderr) == (1, True)
    (place / "audit" / "run.toml").unlink()
    nothing = whence("view", "audit", "--live", "--get", "/")
    assert (nothing.exit_code, "Give --model" in nothing.stderr) == (1, True)
