"""What is asked of an object store, by what it means there."""

import urllib.parse
from collections.abc import Container
from typing import NamedTuple

from tests.http_messages import Head


class Request(NamedTuple):
    """What was asked: the method, what it means to an object store, and the bucket and key, unescaped."""

    method: str
    kind: str
    path: str
    bytes_asked: str | None  # the header Range

    @classmethod
    def of(cls, head: Head) -> "Request":
        """The request that a head begins."""
        method, target, _ = head.start.split(" ", 2)
        path, _, query = target.partition("?")
        asked, unescaped = head.fields.get("range"), urllib.parse.unquote(path)
        names = urllib.parse.parse_qs(query, keep_blank_values=True).keys()
        return cls(method, _kind(method, unescaped, names, asked), unescaped, asked)


def _kind(method: str, path: str, names: Container[str], asked: str | None) -> str:
    """GET, ranged GET, LIST, HEAD, PUT, DELETE, or a step of a multipart upload."""
    if "uploadId" in names or "uploads" in names:
        steps = {"POST": "complete" if "uploadId" in names else "create", "PUT": "part", "DELETE": "abort"}
        return f"multipart {steps.get(method, 'list')}"
    if method == "GET" and ("/" not in path.strip("/") or "list-type" in names):
        return "LIST"
    return "ranged GET" if method == "GET" and asked else method
