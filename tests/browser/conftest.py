"""A headless chromium of the system, and the viewer on a small network."""

import shutil
import threading
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn

FAKES = Path(__file__).parents[1] / "report" / "fake_audit.py"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def fakes():
    spec = spec_from_file_location("fake_audit", FAKES)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")  # while it is there, its event loop runs in this thread
def browser():
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs the program chromium, which is not installed")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser):
    """A page that fails its test if its script does, or if it breaks its own policy."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(8_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on(
        "console",
        lambda message: wrong.append(message.text) if "Security Policy" in message.text else None,
    )
    yield page
    context.close()
    assert wrong == []


def small_network():
    from whence.adapters import LoadedModel, declared_preprocessing

    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()
    )
    net.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
    return LoadedModel(
        module=net.eval(),
        name="a small network",
        classes=tuple(str(digit) for digit in range(10)),
        preprocessing=declared_preprocessing({"size": 32, "mean": 0.5, "std": 0.5}, "a test"),
    )


@pytest.fixture(scope="session")
def live(fakes):
    from whence.core import TensorData
    from whence.recipes.live import LiveModels

    pictures, labels = fakes.digit_pictures()
    images = torch.from_numpy(pictures[:48]).permute(0, 3, 1, 2).float() / 127.5 - 1
    data = TensorData(
        images=images,
        labels=torch.from_numpy(labels[:48]),
        title="digits",
        classes=fakes.DIGITS,
    )
    network = small_network()
    return LiveModels(models={"first": network, "again": network}, train=data, test=data, count=3)


@pytest.fixture
def viewer(fakes, live, tmp_path):
    """The folder of an audit with findings, and the address at which it is shown live."""
    from whence.results import save_audit
    from whence.results.findings import Audited, Finding
    from whence.results.findings_file import save_findings

    record = fakes.fake_audit(queries=2, each=2)
    save_audit(record, tmp_path)
    some = tuple(sorted(record.training_images))[:3]
    save_findings(
        tmp_path,
        (
            Finding(
                id="shortcut-1", kind="region", summary="A patch.", box=(0, 0, 6, 6), images=some
            ),
            Finding(id="images-1", kind="images", summary="They do <b>harm</b>.", images=some),
        ),
        Audited(
            images=record.train.count,
            classes=record.model.classes,
            height=32,
            width=32,
            train=record.train.fingerprint,
            model=record.model.fingerprint,
        ),
    )
    with served(tmp_path, live) as address:
        yield tmp_path, address


@contextmanager
def served(folder, live=None):
    from whence.viewer import make_server
    from whence.viewer.server import bind

    server = make_server(folder, live)
    with bind(0) as place:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
        server.should_exit = True
        thread.join()
