"""A store that answers every request with one scripted answer: faults and refusals that a real server rarely gives."""

import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple


class Answer(NamedTuple):
    """A status with an S3 error code in its body; status 0 closes the connection without a word."""

    status: int
    code: str = ""


class AnsweringStore:
    """An HTTP server on loopback while it is held; `answer(key)` says what a request for a key gets."""

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.asked = Counter[str]()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                key = self.path.partition("?")[0].rpartition("/")[2]
                store.asked[key] += 1
                found = answer(key)
                if not found.status:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                body = f"<Error><Code>{found.code}</Code><RequestId>1234</RequestId></Error>".encode()
                self.send_response(found.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find the store."""
        address = f"http://127.0.0.1:{self._server.server_port}"
        keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": address}

    def __enter__(self) -> "AnsweringStore":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
