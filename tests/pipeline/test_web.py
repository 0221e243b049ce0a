"""Images of the web: read from public hosts, and from private ones only where the user says so."""

import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import storage, web
from pipeline.store_errors import StoreFailureError
from tests.pipeline.images.packed import data, listed
from tests.web_server import serving


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as port:
        yield port


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


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_FAIL])
def test_names_that_cannot_be_looked_up_are_the_worlds_fault(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an image was listed; while it is listed, a host of that name may never have been."""

    def away(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "away")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    for ask in (web.read, web.check):
        with pytest.raises(StoreFailureError):
            ask("http://images.test/a.jpg")
    with pytest.raises(OSError) as found:
        web.examined("http://images.test/a.jpg")
    assert found.value.errno == (errno.ENOENT if code == socket.EAI_NONAME else errno.EAGAIN)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        (str(10**18 - 1), 10**18 - 1),
        (str(2**63), None),
        ("100000000000000000000", None),
        ("9" * 5000, None),
        ("-1", None),
        ("+3", None),
        ("many", None),
    ],
)
def test_a_size_that_no_file_has_is_none(said: str, size: int | None, port: int) -> None:
    assert storage.entry(f"http://127.0.0.1:{port}/size?{said}").size == size


@pytest.mark.parametrize("said", ["4", str(2**62), "100000000000000000000"])
def test_a_body_shorter_or_longer_than_can_be_is_not_taken(said: str, port: int) -> None:
    with pytest.raises(OSError):
        storage.read(f"http://127.0.0.1:{port}/size?{said}")


def test_a_body_without_an_end_is_left(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_BYTES", 5000)
    with pytest.raises(OSError, match="more than 5000 bytes"):
        storage.read(f"http://127.0.0.1:{port}/endless.jpg")
    monkeypatch.setattr(web, "SECONDS_IN_ALL", -1)
    with pytest.raises(StoreFailureError, match="in time"):
        storage.read(f"http://127.0.0.1:{port}/endless.jpg")


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:{}/a.jpg", "file:///etc/hostname", "data:,xyz", "gopher://a"])
@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:{}"])
def test_a_redirection_leads_to_nothing_but_the_web(
    target: str, proxy: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    web._opener.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        elsewhere = listener.getsockname()[1]
        monkeypatch.setenv("ftp_proxy", proxy.format(elsewhere))
        with pytest.raises(OSError) as found:
            storage.read(f"http://127.0.0.1:{port}/to?{target.format(elsewhere)}")
        assert not isinstance(found.value, StoreFailureError)
        with pytest.raises(BlockingIOError):
            listener.accept()
    web._opener.cache_clear()


def test_a_certificate_that_does_not_verify_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "certificate has expired"
    monkeypatch.setattr(web, "_connected", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(OSError, match=r"cannot be trusted: certificate has expired") as found:
        storage.read("https://images.test/a.jpg")
    assert not isinstance(found.value, StoreFailureError)
    web.check("https://images.test/a.jpg")
