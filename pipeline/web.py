"""Images under `http://` and `https://`: examined and read, one request each.

Lists of such images come from outside: what they name on this machine or in its private network is not asked for,
unless the user allows it. That is looked at when a connection is made, so that neither a name that leads there nor a
redirection gets round it. Behind a proxy it is the proxy that decides. User names and passwords come from `~/.netrc`.
"""

import base64
import email.utils
import errno
import http.client
import ipaddress
import netrc
import os
import socket
import urllib.parse
import urllib.request
from functools import lru_cache, partial
from typing import Any
from urllib.error import HTTPError, URLError

from pipeline.store_errors import StoreFailureError

PRIVATE_HOSTS = "SHARDSEER_PRIVATE_HOSTS"  # in the environment of every process that may read from private hosts
SECONDS = 30  # without an answer
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


class Answer:
    """What a server says of a file, and the bytes that were asked for. Size and time are None where it does not say."""

    def __init__(self, response: Any, data: bytes) -> None:
        headers = response.headers
        self.data = data
        self.status = int(response.status)
        self.entity_tag = headers.get("ETag", "").removeprefix("W/").strip('"') or None
        self.modified_us = _microseconds(headers.get("Last-Modified"))
        total = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
        self.size = int(total) if total.isdecimal() else None


def allow_private_hosts(allowed: bool) -> None:
    """Say for this process, and those that it starts, whether private hosts may be read from."""
    if allowed:
        os.environ[PRIVATE_HOSTS] = "1"
    else:
        os.environ.pop(PRIVATE_HOSTS, None)


def examined(uri: str) -> Answer:
    """Ask for a file's size, time and tag. Raises `OSError`."""
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
        examined(uri)
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
            return Answer(response, response.read())
    except HTTPError as error:
        with error:
            raise _refusal(error.code) from None
    except URLError as error:
        raise _failure(error.reason) from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _failure(error) from None


def _refusal(status: int) -> OSError:
    if status in FAILING or status >= 500:
        return StoreFailureError(errno.EAGAIN, f"the server is overloaded or out of order (HTTP {status})")
    number, said = REFUSALS.get(status, (errno.EINVAL, f"the server refuses the request (HTTP {status})"))
    refusal = WebRefusalError(number, said)
    refusal.status = status
    return refusal


def _failure(error: object) -> OSError:
    if isinstance(error, PrivateHostError):
        return error
    if isinstance(error, socket.gaierror):
        return OSError(errno.ENOENT, "no host of that name")
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return OSError(f"no address that can be asked: {error}")
    if isinstance(error, TimeoutError):
        return StoreFailureError(errno.EAGAIN, "the server did not answer in time")
    return StoreFailureError(errno.EAGAIN, "the connection to the server failed")


def _connected(address: tuple[str, int], *settings: Any, **named: Any) -> socket.socket:
    """A connection, unless it leads to a private host."""
    connection = socket.create_connection(address, *settings, **named)
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
    return urllib.request.build_opener(_Handler)


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
