"""A server of the web on loopback that answers as some servers do: redirections, refusals, sizes that are none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
        elif self.path.startswith("/size?"):
            self.answer(200, b"xyz", **{"Content-Length": self.path.removeprefix("/size?")})
        elif self.path.startswith("/endless"):
            self.drip()
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
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def drip(self) -> None:
        """A body without an end, a thousand bytes at a time."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while self.command == "GET":
                self.wfile.write(bytes(1000))
        except OSError:  # nobody listens any more
            return

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serving() -> Iterator[int]:
    """The port of such a server, while it is held."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()
