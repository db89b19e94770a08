"""The viewer answers a closed list of addresses, on this machine only."""

import dataclasses
import http.client
import json
import logging
import socket
import threading
from contextlib import contextmanager

import pytest

from whence.errors import OutputError, RecordError
from whence.results import load_audit, new_folder, save_audit, save_explanation
from whence.viewer import get, make_server, serve
from whence.viewer.server import bind


@contextmanager
def running(server):
    """The address of a server, which runs in a thread meanwhile."""
    with bind(0) as place:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        yield place.getsockname()
        server.should_exit = True
        thread.join()


@pytest.fixture
def folder(fakes, tmp_path):
    (tmp_path / "secret.txt").write_text("secret", "utf-8")
    save_audit(fakes.fake_audit(queries=1, each=1), tmp_path / "audit")
    (tmp_path / "audit" / "notes.txt").write_text("secret", "utf-8")
    return tmp_path / "audit"


@pytest.fixture
def address(folder):
    with running(make_server(folder)) as found:
        yield found


def ask(address, path, method="GET", host=None, origin=None):
    connection = http.client.HTTPConnection(*address, timeout=30)
    headers = {"Host": host} if host is not None else {}
    if origin is not None:
        headers["Origin"] = origin
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_the_page_is_made_from_the_result(folder):
    answer = get(folder, "/")
    assert answer.status == 200
    assert answer.content_type == "text/html; charset=utf-8"
    assert load_audit(folder).queries[0].name in answer.body.decode()


def test_the_page_follows_a_changed_result(fakes, folder):
    before = get(folder, "/").body.decode()
    (folder / "notes.txt").unlink()
    changed = dataclasses.replace(load_audit(folder), notes=("something new",))
    with new_folder(folder, overwrite=True) as part:
        save_audit(changed, part)
    assert "something new" not in before
    assert "something new" in get(folder, "/").body.decode()


def test_the_machine_readable_files_are_served(folder):
    answer = get(folder, "/audit.json?fresh=1")
    assert json.loads(answer.body)["whence"] == "audit"
    assert answer.content_type.startswith("application/json")
    table = get(folder, "/influences.csv")
    assert table.content_type.startswith("text/csv")
    assert table.body == (folder / "influences.csv").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/notes.txt",
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "//secret.txt",
        "/./audit.json",
        "/audit.json/",
        "/audit.json%00.html",
        "audit.json",
        "",
        "/explanation.json",
        "\\..\\secret.txt",
    ],
)
def test_nothing_else_is_served(folder, path):
    answer = get(folder, path)
    assert answer.status == 404
    assert b"secret" not in answer.body


def test_an_address_that_cannot_be_parsed_is_answered_with_404(folder):
    assert get(folder, "//[").status == 404


def test_a_damaged_result_is_an_answer_with_the_reason(folder):
    (folder / "arrays.npz").write_bytes(b"")
    answer = get(folder, "/")
    assert answer.status == 500
    assert b"damaged" in answer.body
    assert answer.content_type.startswith("text/plain")


def test_an_explanation_has_a_page_too(fakes, tmp_path):
    save_explanation(fakes.fake_explanation(2), tmp_path)
    assert get(tmp_path, "/").status == 200
    assert json.loads(get(tmp_path, "/explanation.json").body)["whence"] == "explanation"
    assert get(tmp_path, "/audit.json").status == 404
    assert get(tmp_path, "/influences.csv").status == 404


def test_the_server_is_bound_to_this_machine_only(address):
    assert address[0] == "127.0.0.1"


def test_the_server_answers_like_get(folder, address):
    for path in ("/", "/audit.json", "/influences.csv", "/nothing"):
        response, body = ask(address, path)
        expected = get(folder, path)
        assert (response.status, body) == (expected.status, expected.body)
        assert response.getheader("Content-Type") == expected.content_type
        assert response.getheader("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize("path", ["/../secret.txt", "/..%2fsecret.txt", "/notes.txt"])
def test_the_server_serves_no_other_file(address, path):
    response, body = ask(address, path)
    assert response.status == 404
    assert b"secret" not in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", ""])
def test_a_request_in_the_name_of_another_host_is_refused(address, host):
    response, body = ask(address, "/audit.json", host=host)
    assert response.status == 403
    assert b"whence" not in body


def test_localhost_is_this_machine(address):
    response, _ = ask(address, "/", host=f"localhost:{address[1]}")
    assert response.status == 200


def test_head_tells_the_length_without_the_content(address):
    response, body = ask(address, "/audit.json", method="HEAD")
    assert response.status == 200
    assert int(response.getheader("Content-Length")) > 100
    assert body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(address, method):
    response, _ = ask(address, "/audit.json", method=method)
    assert response.status == 403
    origin = f"http://127.0.0.1:{address[1]}"
    response, _ = ask(address, "/audit.json", method=method, origin=origin)
    assert response.status == 405


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", ""])
def test_what_was_not_sent_by_its_own_page_is_refused(address, origin):
    response, _ = ask(address, "/", method="POST", origin=origin)
    assert response.status == 403


def test_the_server_is_quiet_on_the_terminal(address, capfd, caplog):
    caplog.set_level(logging.INFO)
    ask(address, "/")
    assert capfd.readouterr().err == ""


def test_a_folder_without_a_result_is_refused_at_once(tmp_path):
    with pytest.raises(RecordError, match="holds no result"):
        make_server(tmp_path)


def test_a_taken_port_is_named(folder, address):
    with pytest.raises(OutputError, match=f"Port {address[1]}"):
        serve(folder, address[1])
    with pytest.raises(OutputError, match="Port 99999"):
        serve(folder, 99999)


def test_serving_tells_its_address_and_ends_with_ctrl_c(folder, monkeypatch):
    told = []

    def interrupted(server, sockets=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.run", interrupted)
    serve(folder, 0, ready=told.append)
    (url,) = told
    assert url.startswith("http://127.0.0.1:")
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_figures_and_tables_are_served(folder):
    assert get(folder, "/figures/image-1.png").body.startswith(b"\x89PNG")
    assert get(folder, "/figures/image-2.png").status == 404
    assert get(folder, "/figures/image-0.png").status == 404
    assert get(folder, "/arrays.npz").body == (folder / "arrays.npz").read_bytes()
    assert get(folder, "/suspects.csv").body == (folder / "suspects.csv").read_bytes()
    assert get(folder, "/removal.csv").status == 404


def test_a_training_and_an_index_have_pages_of_their_facts(tmp_path):
    document = {
        "whence": "fit",
        "model": "a <b>net</b>",
        "rows": [{"name": "no prior", "weight": 0.0}, {"name": "weight 1", "weight": 1.0}],
        "after": {"accuracy": 0.9125},
        "notes": ["something <i>odd</i>"],
    }
    (tmp_path / "fit.json").write_text(json.dumps(document), "utf-8")
    page = get(tmp_path, "/").body.decode()
    assert "a &lt;b&gt;net&lt;/b&gt;" in page
    assert "something &lt;i&gt;odd&lt;/i&gt;" in page
    assert "<td>weight 1</td>" in page
    assert "0.9125" in page
    (tmp_path / "fit.json").write_text("{", "utf-8")
    assert get(tmp_path, "/").status == 500


def test_a_browser_gets_errors_as_pages(address):
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request("GET", "/<script>", headers={"Accept": "text/html"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 404
    assert response.getheader("Content-Type").startswith("text/html")
    assert b"Nothing here" in body
    assert b"<script>alert" not in body


def test_every_answer_says_what_its_page_may_do(address):
    for path in ("/", "/audit.json", "/nothing"):
        response, _ = ask(address, path)
        policy = response.getheader("Content-Security-Policy")
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert response.getheader("Referrer-Policy") == "same-origin"
    response, _ = ask(address, "/audit.json", host="evil.example")
    assert response.getheader("X-Frame-Options") == "DENY"
