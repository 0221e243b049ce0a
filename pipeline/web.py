"""Images under `http://` and `https://`: examined and read, one request each.

Lists of such images come from outside: what they name on this machine or in its private network is not asked for,
unless the user allows it. That is looked at when a connection is made, so that neither a name that leads there nor a
redirection gets round it; nothing but HTTP is spoken. Behind a proxy it is the proxy that decides. User names and
passwords come from `~/.netrc`.
"""

import base64
import email.utils
import errno
import http.client
import ipaddress
import netrc
import os
import re
import socket
import ssl
import time
import urllib.parse
import urllib.request
from functools import lru_cache, partial
from typing import Any
from urllib.error import HTTPError, URLError

from pipeline.store_errors import StoreFailureError
from pipeline.uris import WEB

PRIVATE_HOSTS = "SHARDSEER_PRIVATE_HOSTS"  # in the environment of every process that may read from private hosts
SECONDS = 30  # without an answer
SECONDS_IN_ALL = 600  # of a body that keeps coming, as in `object_store.TIMEOUTS`
MOST_BYTES = 1 << 30  # of a body: more is no image, and may have no end
BLOCK = 1 << 20  # bytes asked for at once
SIZE = re.compile("[0-9]{1,18}")  # as a listing can hold
NEVER_ESCAPED = "%/:=&?~#+!$,;'@()*[]"
NOT_HEAD = (403, 405, 501)  # answers to HEAD where GET may be allowed, as with signed addresses
REFUSALS = {
    401: (errno.EACCES, "the server asks for a user name and a password: put them into ~/.netrc"),
    403: (errno.EACCES, "the server denies it"),
    404: (errno.ENOENT, "no such file"),
    410: (errno.ENOENT, "no such file any more"),
}
FAILING = (408, 425, 429)  # for now, as everything from 500 on


class PrivateHostError(PermissionError):
    """A host of this machine or of its private network, which the user did not allow."""


class UnknownHostError(StoreFailureError):
    """No host of that name is known: a mistyped name, or the network is away."""


class Answer:
    """What a server says of a file, and the bytes that were asked for. Size and time are None where it does not say."""

    def __init__(self, response: Any, data: bytes) -> None:
        headers = response.headers
        self.data = data
        self.status = int(response.status)
        self.entity_tag = headers.get("ETag", "").removeprefix("W/").strip('"') or None
        self.modified_us = _microseconds(headers.get("Last-Modified"))
        total = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
        self.size = int(total) if SIZE.fullmatch(total) else None


def allow_private_hosts(allowed: bool) -> None:
    """Say for this process, and those that it starts, whether private hosts may be read from."""
    if allowed:
        os.environ[PRIVATE_HOSTS] = "1"
    else:
        os.environ.pop(PRIVATE_HOSTS, None)


def examined(uri: str) -> Answer:
    """Ask for a file's size, time and tag. Raises `OSError`, `FileNotFoundError` also for a host that is not known."""
    try:
        return _examined(uri)
    except UnknownHostError as error:
        raise FileNotFoundError(errno.ENOENT, error.strerror) from None


def _examined(uri: str) -> Answer:
    try:
        return _asked(uri, method="HEAD")
    except WebRefusalError as error:
        if error.status not in NOT_HEAD:
            raise
        return _asked(uri, **{"Range": "bytes=0-0"})


def read(uri: str) -> Answer:
    """Read a file whole. Raises `OSError`."""
    return _asked(uri)


def read_range(uri: str, start: int, length: int) -> Answer:
    """Read some bytes of a file. Raises `OSError`."""
    answer = _asked(uri, **{"Range": f"bytes={start}-{start + length - 1}"})
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        raise OSError("the server gives whole files only: download it")
    return answer


def check(uri: str) -> None:
    """See that the host of a file answers, be it by a refusal: nothing can be listed there."""
    try:
        _examined(uri)
    except StoreFailureError:
        raise
    except OSError:
        return


class WebRefusalError(OSError):
    """An answer that says why there is no file."""

    status = 0


def _asked(uri: str, method: str = "GET", **headers: str) -> Answer:
    request = urllib.request.Request(urllib.parse.quote(uri, safe=NEVER_ESCAPED), headers=headers, method=method)
    if (authorization := _authorization(request.host)) is not None:
        request.add_unredirected_header("Authorization", authorization)
    try:
        with _opener().open(request, timeout=SECONDS) as response:
            return Answer(response, _body(response))
    except HTTPError as error:
        with error:
            raise _refusal(error.code) from None
    except URLError as error:
        raise _failure(error.reason) from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _failure(error) from None


def _body(response: http.client.HTTPResponse) -> bytes:
    """The bytes of an answer, as many as it announced, or up to its end."""
    announced, deadline = response.length, time.monotonic() + SECONDS_IN_ALL
    data = bytearray()
    while announced is None or len(data) < announced:
        if max(len(data), announced or 0) > MOST_BYTES:
            raise WebRefusalError(errno.EFBIG, f"more than {MOST_BYTES} bytes, which no image has")
        if time.monotonic() > deadline:
            raise TimeoutError
        block = response.read1(BLOCK)  # what is there: `read` would wait for a whole block
        if not block:
            break
        data += block
    if len(data) < (announced or 0):
        raise http.client.IncompleteRead(b"")
    return bytes(data)


def _refusal(status: int) -> OSError:
    if status in FAILING or status >= 500:
        return StoreFailureError(errno.EAGAIN, f"the server is overloaded or out of order (HTTP {status})")
    number, said = REFUSALS.get(status, (errno.EINVAL, f"the server refuses the request (HTTP {status})"))
    refusal = WebRefusalError(number, said)
    refusal.status = status
    return refusal


def _failure(error: object) -> OSError:
    if isinstance(error, PrivateHostError | UnknownHostError | WebRefusalError):
        return error
    if isinstance(error, socket.gaierror):
        return StoreFailureError(errno.EAGAIN, "the host's name cannot be looked up")
    if isinstance(error, ssl.SSLCertVerificationError):  # a ValueError, too
        return OSError(errno.EPROTO, f"the server's certificate cannot be trusted: {error.verify_message}")
    if isinstance(error, str) or (isinstance(error, ValueError) and not isinstance(error, UnicodeError)):
        return OSError(f"no address that can be asked: {error}")
    if isinstance(error, TimeoutError):
        return StoreFailureError(errno.EAGAIN, "the server did not answer in time")
    return StoreFailureError(errno.EAGAIN, "the connection to the server failed")


def _connected(address: tuple[str, int], *settings: Any, **named: Any) -> socket.socket:
    """A connection, unless it leads to a private host."""
    try:
        connection = socket.create_connection(address, *settings, **named)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            raise
        raise UnknownHostError(errno.EAGAIN, "no host of that name") from None
    if os.environ.get(PRIVATE_HOSTS) != "1" and _is_private(connection.getpeername()[0]):
        connection.close()
        raise PrivateHostError(
            errno.EACCES,
            f"{address[0]} is a host of this machine or of its private network: --private-hosts allows it",
        )
    return connection


def _is_private(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return not (mapped or found).is_global


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections that are looked at."""

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPSConnection, request)

    def _open(self, kind: Any, request: urllib.request.Request) -> http.client.HTTPResponse:
        by_proxy = request.has_proxy() or bool(getattr(request, "_tunnel_host", None))
        return self.do_open(kind if by_proxy else partial(_made, kind), request)


def _made(kind: Any, *settings: Any, **named: Any) -> Any:
    connection = kind(*settings, **named)
    connection._create_connection = _connected
    return connection


@lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of `build_opener` for ftp:, file: and data:, to which a redirection may lead."""
    opener = urllib.request.OpenerDirector()
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme in WEB}
    opener.add_handler(urllib.request.ProxyHandler(proxies))
    for kind in (
        _Handler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(kind())
    return opener


def _authorization(host: str) -> str | None:
    try:
        found = netrc.netrc().authenticators(host.rpartition("@")[2].partition(":")[0])
    except (OSError, netrc.NetrcParseError):
        return None
    return found and "Basic " + base64.b64encode(f"{found[0]}:{found[2]}".encode()).decode()


def _microseconds(date: str | None) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(date).timestamp()) * 1_000_000 if date else None
    except ValueError:
        return None
