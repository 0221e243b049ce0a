"""Images of the web: read from public hosts, and from private ones only where the user says so."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import storage, web
from pipeline.store_errors import StoreFailureError
from tests.pipeline.images.packed import data, listed

MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
STATUS = {"/denied.jpg": 403, "/gone.jpg": 404, "/busy.jpg": 503, "/name.jpg": 401}


class Handler(BaseHTTPRequestHandler):
    """Serves pictures of three bytes, redirections, and refusals."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        if self.path.startswith("/signed"):
            self.answer(403)
        else:
            self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/to?"):
            self.answer(302, Location=self.path.removeprefix("/to?"))
        elif self.path in STATUS:
            self.answer(STATUS[self.path])
        elif self.headers.get("Range"):
            self.answer(206, b"x", **{"Content-Range": "bytes 0-0/3", "ETag": '"t"', "Last-Modified": MODIFIED})
        else:
            self.answer(200, b"xyz", **{"ETag": 'W/"t"', "Last-Modified": MODIFIED})

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.PRIVATE_HOSTS, "1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", ["a.jpg", "sp ace/ü.jpg", "a.jpg?size=1&x=%20", "to?/b.jpg", "signed.jpg"])
def test_an_image_is_examined_and_read(path: str, port: int) -> None:
    uri = f"http://127.0.0.1:{port}/{path}"
    assert storage.entry(uri) == storage.Entry(uri, 3, 1_700_000_000_000_000, entity_tag="t")
    assert storage.read(uri).data == b"xyz"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("gone.jpg", "no such file"),
        ("denied.jpg", "denies"),
        ("name.jpg", "put them into ~/.netrc"),
        ("busy.jpg", "HTTP 503"),
    ],
)
def test_a_refusal_is_a_sentence(path: str, sentence: str, port: int) -> None:
    assert sentence in (storage.entry(f"http://127.0.0.1:{port}/{path}").error or "")


def test_a_server_that_fails_is_the_worlds_fault(port: int) -> None:
    with pytest.raises(StoreFailureError):
        storage.read(f"http://127.0.0.1:{port}/busy.jpg")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(StoreFailureError):
            storage.read(f"http://127.0.0.1:{closed.getsockname()[1]}/a.jpg")


PRIVATE = ["127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", PRIVATE)
def test_private_hosts_are_not_asked_whatever_they_are_called(
    host: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://{host}:{port}/a.jpg"
    assert storage.entry(uri).error is None
    monkeypatch.delenv(web.PRIVATE_HOSTS)
    assert "--private-hosts allows it" in (storage.entry(uri).error or "")
    with pytest.raises(web.PrivateHostError):
        storage.read(uri)


def test_a_redirection_to_a_private_host_is_not_followed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the first host counts as public, its redirection does not."""
    monkeypatch.delenv(web.PRIVATE_HOSTS)
    connect: Callable[..., socket.socket] = web._connected
    seen = []

    def first_is_public(address: tuple[str, int], *settings: object, **named: object) -> socket.socket:
        seen.append(address[0])
        return socket.create_connection(address) if len(seen) == 1 else connect(address, *settings, **named)

    monkeypatch.setattr(web, "_connected", first_is_public)
    with pytest.raises(web.PrivateHostError):
        storage.read(f"http://127.0.0.1:{port}/to?http://localhost:{port}/a.jpg")
    assert seen == ["127.0.0.1", "localhost"]


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("169.254.169.254", True),  # where clouds keep their machines' credentials
        ("100.64.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("::ffff:10.0.0.1", True),
        ("93.184.216.34", False),
        ("2606:2800:220:1::", False),
    ],
)
def test_which_addresses_are_private(address: str, private: bool) -> None:
    assert web._is_private(address) == private


def test_a_list_of_the_web(port: int, tmp_path: Path) -> None:
    names = ["a.jpg", "gone.jpg", "b.jpg?x=1"]
    (tmp_path / "list.txt").write_text("\n".join(f"http://user:hunter2@127.0.0.1:{port}/{name}" for name in names))
    rows, _ = listed(tmp_path / "list.txt", private_hosts=True)
    assert [(row["path"].rpartition("/")[2], row["list_error"] is None) for row in rows.values()] == [
        ("a.jpg", True),
        ("gone.jpg", False),
        ("b.jpg?x=1", True),
    ]
    assert "hunter2" not in str(rows)
    assert data(next(iter(rows.values()))) == b"xyz"
    rows, _ = listed(tmp_path / "list.txt")
    assert all("--private-hosts" in str(row["list_error"]) for row in rows.values())


def test_user_names_and_passwords_come_from_netrc(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert web._authorization(f"127.0.0.1:{port}") == "Basic YW5uOnNlY3JldA=="
    assert web._authorization("example.org") is None
