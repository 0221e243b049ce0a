"""An object store in memory whose keys are any text, as S3's are: what the real server of the tests makes tidy stays.

It lists times with milliseconds and gives whole seconds with an object, as most stores do, and counts what is asked.
"""

import threading
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from types import TracebackType
from xml.sax.saxutils import escape

TIME = 1_700_000_000
PAGE = 1000


class OpaqueStore:
    """An HTTP server on loopback while it is held, with `objects` in its only bucket, by their keys."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self.objects = dict(objects)
        self.asked = Counter[str]()  # requests: `list`, and GET and HEAD of objects
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                key = urllib.parse.unquote(path).lstrip("/").partition("/")[2]
                asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
                store.asked["list" if "list-type" in asked else self.command] += 1
                if "list-type" in asked:
                    self._answer(200, store.page(asked).encode(), {"Content-Type": "application/xml"})
                elif key in store.objects:
                    self._object(store.objects[key])
                else:
                    self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {})

            do_HEAD = do_GET  # noqa: N815

            def _object(self, data: bytes) -> None:
                headers = {"ETag": tag(data), "Last-Modified": formatdate(TIME, usegmt=True)}
                if (span := self.headers.get("Range")) is None:
                    self._answer(200, data, headers)
                    return
                first, _, last = span.removeprefix("bytes=").partition("-")
                piece = data[int(first) : int(last) + 1]
                place = f"bytes {first}-{int(first) + len(piece) - 1}/{len(data)}"
                self._answer(206, piece, headers | {"Content-Range": place})

            def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def page(self, asked: Mapping[str, str]) -> str:
        """An answer to ListObjectsV2."""
        start = asked.get("continuation-token") or asked.get("start-after", "")
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")

        def shown(key: str) -> str:
            """The key, or the prefix that stands for it."""
            below, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key[len(prefix) :], "", "")
            return prefix + below + found

        keys = sorted(key for key in self.objects if key.startswith(prefix))
        items = [name for name, _ in groupby(map(shown, keys)) if name > start]
        page, rest = items[:PAGE], items[PAGE:]
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        body = "".join(self._item(name, bool(delimiter) and name.endswith("/") and name != prefix) for name in page)
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{token}{body}</ListBucketResult>"
        )

    def _item(self, name: str, is_prefix: bool) -> str:
        text = "".join(f"&#{ord(char)};" if ord(char) < 0x20 or char in "&<\x7f" else char for char in name)
        if is_prefix:
            return f"<CommonPrefixes><Prefix>{text}</Prefix></CommonPrefixes>"
        data = self.objects[name]
        return (
            f"<Contents><Key>{text}</Key><LastModified>2023-11-14T22:13:20.123Z</LastModified>"
            f"<ETag>{escape(tag(data))}</ETag><Size>{len(data)}</Size></Contents>"
        )

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find the store."""
        keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": self.address}

    def __enter__(self) -> "OpaqueStore":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def tag(data: bytes) -> str:
    """The entity tag of an object, in its quotes."""
    return f'"{md5(data, usedforsecurity=False).hexdigest()}"'
