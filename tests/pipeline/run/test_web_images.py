"""Images of the web whose servers say little of them are classified once, and again once they changed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.running import classify

MODIFIED = {"Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"}
SAID = {  # beside the length, where the name begins so
    "sized-tag": {"ETag": '"1"'},
    "sized-time": MODIFIED,
    "sized-nothing": {},
    "tag": {"ETag": '"1"'},
    "time": MODIFIED,
    "nothing": {},
}
READ_AGAIN = ("sized-nothing", "nothing")  # only their bytes say whether they changed


class Server:
    """Serves images by name; `read` counts how often each was."""

    def __init__(self, images: dict[str, bytes]) -> None:
        self.images, self.read = images, Counter[str]()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                name = self.path.strip("/").removesuffix(".jpg")
                self.send_response(200 if name in server.images else 404)
                for key, value in SAID.get(name, {}).items():
                    self.send_header(key, value)
                if name.startswith("sized"):
                    self.send_header("Content-Length", str(len(server.images[name])))
                self.end_headers()

            def do_GET(self) -> None:
                name = self.path.strip("/").removesuffix(".jpg")
                server.read[name] += 1
                self.do_HEAD()
                self.wfile.write(server.images[name])

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(crops: Callable[..., Path]) -> Iterator[Server]:
    files = sorted(crops(len(SAID)).iterdir())
    found = Server({name: file.read_bytes() for name, file in zip(SAID, files, strict=True)})
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_images_are_classified_once_whatever_their_server_says(
    server: Server, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = tmp_path / "list.txt", tmp_path / "out"
    names = [*SAID, "gone"]
    images.write_text("\n".join(f"http://127.0.0.1:{server.http.server_port}/{name}.jpg" for name in names))
    first = classify(images, output, tiny_bundle, private_hosts=True)
    assert (first.ok, first.error) == (len(SAID), 1)
    server.read.clear()
    second = classify(images, output, tiny_bundle, private_hosts=True)
    assert (second.rows, second.error) == (1, 1), "the one that is not there is tried again"
    assert set(server.read) == set(READ_AGAIN)
    server.images["nothing"] = server.images["tag"]
    third = classify(images, output, tiny_bundle, private_hosts=True)
    assert (third.ok, third.error) == (1, 1)
