"""The live pages: one computation at a time, bounded, and stopped on request."""

import dataclasses
import http.client
import io
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from whence.results import save_audit
from whence.viewer import make_server
from whence.viewer.asking import MOST_PIXELS
from whence.viewer.guard import LARGEST_REQUEST
from whence.viewer.server import bind

BOUNDARY = "----form"


class Slow:
    """A network that computes until it is let go."""

    networks = ("one",)
    classes = ("cat", "dog")
    methods = (("gradient", "a pass"),)
    sources = (("test", 3),)
    traces = False
    note = ""

    def __init__(self, record):
        self.record = record
        self.go = threading.Event()
        self.started = threading.Event()

    def pictures(self, source, places):
        return tuple((k, f"<b>{k}</b>", "cat", np.zeros((4, 4, 3), np.uint8)) for k in places)

    def explain(self, image, name, *, network, method, settings, target, versus, progress):
        self.started.set()
        while not self.go.wait(0.01):
            progress("thinking", 3, 10)
        return dataclasses.replace(self.record, names=(name,))

    def trace(self, image, explained, *, target, versus, progress):
        raise AssertionError


@pytest.fixture
def slow(fakes):
    return Slow(fakes.fake_explanation(1))


@pytest.fixture
def address(fakes, slow, tmp_path):
    save_audit(fakes.fake_audit(queries=1, each=1), tmp_path)
    with running(make_server(tmp_path, slow)) as found:
        yield found
        slow.go.set()


@contextmanager
def running(server):
    with bind(0) as place:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        yield place.getsockname()
        server.should_exit = True
        thread.join()


def send(address, path, fields=(), file=None, length=None):
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    if file is not None:
        head = 'Content-Disposition: form-data; name="picture"; filename="a.png"'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + file + b"\r\n")
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return ask(address, path, "POST", body)


def ask(address, path, method="GET", body=None):
    connection = http.client.HTTPConnection(*address, timeout=30)
    headers = {"Accept": "text/html"}
    if body is not None:
        headers["Origin"] = f"http://127.0.0.1:{address[1]}"
        headers["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    return response, content


def chosen(place):
    return [("from", "test"), ("place", str(place))]


def test_work_shows_its_progress_refuses_a_second_and_can_be_stopped(address, slow):
    response, _ = send(address, "/explain", chosen(1))
    where = response.getheader("Location")
    assert (response.status, where[:5]) == (303, "/job/")
    _, page = ask(address, where)
    assert "thinking: 3 of 10" in page
    assert 'http-equiv="refresh"' in page
    response, page = send(address, "/explain", chosen(2))
    assert (response.status, "computed already" in page) == (409, True)
    send(address, f"{where}/stop")
    _, page = ask(address, where)
    assert "Stopped" in page
    slow.go.set()
    response, _ = send(address, "/explain", chosen(2))
    assert response.getheader("Location").startswith("/result/")


def test_a_result_is_shown_with_its_name_escaped(address, slow):
    slow.go.set()
    response, _ = send(address, "/explain", chosen(1))
    response, page = ask(address, response.getheader("Location"))
    assert response.status == 200
    assert "&lt;b&gt;1&lt;/b&gt;" in page
    assert "<b>1</b>" not in page


def test_a_picture_that_unpacks_to_too_many_pixels_is_refused(address):
    side = int(MOST_PIXELS**0.5) + 1
    content = io.BytesIO()
    Image.new("1", (side, side)).save(content, "PNG")
    assert len(content.getvalue()) < 10_000
    response, page = send(address, "/explain", file=content.getvalue())
    assert (response.status, "million pixels" in page) == (400, True)


def test_an_upload_that_is_too_large_is_refused(address):
    response, page = send(address, "/explain", file=b"0" * (LARGEST_REQUEST + 1))
    assert (response.status, "larger than" in page) == (413, True)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([], "A picture is needed"),
        ([("from", "test"), ("place", "3")], "There is no image"),
        ([("from", "../x"), ("place", "0")], "There is no image"),
        ([("from", "test"), ("place", "-1")], "There is no image"),
        ([*chosen(0), ("method", "gradient"), ("method2", "gradient")], "are the same"),
    ],
)
def test_an_impossible_question_is_a_page_that_says_so(address, fields, says):
    response, page = send(address, "/explain", fields)
    assert (response.status, says in page) == (400, True)


def test_a_result_that_is_gone_is_not_found(address):
    for path in ("/result/nothing", "/job/nothing"):
        assert ask(address, path)[0].status == 404
