"""HTTP/1.1 messages as they pass a proxy: a head, the pieces of a body, and answers that a store might give."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import NamedTuple

PIECE_BYTES = 1 << 16
CODE = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{0}</Code><Message>{0}</Message></Error>"
LISTED_TIME = re.compile(rb"(<LastModified>[^<]*?T\d\d:\d\d:\d\d)(\.\d+)?Z(</LastModified>)")


class Head(NamedTuple):
    """The first lines of a message: its bytes, the start line, and the header fields by their names in lower case."""

    text: bytes
    start: str
    fields: Mapping[str, str]


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None where the connection ended before it."""
    try:
        text = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = text.decode("latin-1").rstrip().split("\r\n")
    fields = (line.partition(":") for line in lines)
    return Head(text, start, {name.lower(): value.strip() for name, _, value in fields})


async def body_pieces(reader: asyncio.StreamReader, head: Head, method: str | None = None) -> AsyncIterator[bytes]:
    """The bytes of a message's body as they come, chunks with their frames; `method` is that of an answer's request."""
    is_answer = method is not None
    if is_answer and (method == "HEAD" or head.start.split(" ")[1] in ("204", "304")):
        return
    if _is_chunked(head):
        size = 1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
    else:
        left = int(head.fields.get("content-length", 0))
        while left:
            piece = await reader.read(min(left, PIECE_BYTES))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece


def _is_chunked(head: Head) -> bool:
    return head.fields.get("transfer-encoding", "").lower() == "chunked"


def content(pieces: list[bytes], head: Head) -> bytes:
    """What a body's pieces carry, without the frames of chunks."""
    return b"".join(piece.split(b"\r\n", 1)[1][:-2] if _is_chunked(head) else piece for piece in pieces)


def with_body(head: Head, body: bytes) -> bytes:
    """A message with the head's start line and fields, and another body."""
    about = ("content-length", "transfer-encoding")
    fields = [
        line for line in head.text.split(b"\r\n")[1:] if line and line.split(b":")[0].decode().lower() not in about
    ]
    lines = [head.start.encode("latin-1"), *fields, f"Content-Length: {len(body)}".encode(), b"", body]
    return b"\r\n".join(lines)


def error_answer(status: int, code: str, method: str) -> bytes:
    """An error of S3's, which keeps the connection."""
    body = CODE.format(code)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/xml"]
    lines += [f"Content-Length: {len(body)}", "", "" if method == "HEAD" else body]
    return "\r\n".join(lines).encode()


def with_milliseconds(listing: bytes, milliseconds: int) -> bytes:
    """A listing whose times have these milliseconds instead of the store's."""
    return LISTED_TIME.sub(rb"\g<1>.%03dZ\g<3>" % milliseconds, listing)
