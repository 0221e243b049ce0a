"""A Prefect API that does not answer, or is none, is one sentence; while one is waited for, a terminal says so."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import prefect_api
from pipeline.errors import RequestError, RunError
from tests.processes import ROOT, free_port, shardseer

Crops = Callable[..., Path]
PAGE, JSON = "text/html", "application/json"


@contextmanager
def answers(status: int, body: str, kind: str) -> Iterator[str]:
    """The address of a server that answers everything in the same way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815  http.server's

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "error", "said"),
    [
        (200, "<html>Prefect</html>", PAGE, RequestError, "not as a Prefect API"),
        (404, '{"detail": "Not Found"}', JSON, RequestError, "not as a Prefect API"),
        (405, "", PAGE, RequestError, "not as a Prefect API"),
        (200, '{"an": "object"}', JSON, RequestError, "not as a Prefect API"),
        (200, '"3.0.0"', JSON, RequestError, "not as a Prefect API"),
        (401, '{"exception_message": "Unauthorized"}', JSON, RequestError, "PREFECT_API_AUTH_STRING"),
        (403, "", PAGE, RequestError, "PREFECT_API_AUTH_STRING"),
        (500, "", PAGE, RunError, "HTTP 500"),
    ],
)
def test_what_answers_otherwise_is_one_sentence(
    status: int, body: str, kind: str, error: type[Exception], said: str
) -> None:
    with (
        answers(status, body, kind) as address,
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(error, match=said) as raised,
        prefect_api.answering(),
    ):
        pytest.fail("this is no API")
    assert address in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("http://127.0.0.1:{port}/api", RunError),
        ("http://me:secret@127.0.0.1:{port}/api", RunError),
        ("http://no.such.host.invalid/api", RunError),
        ("ftp://127.0.0.1/api", RequestError),
        ("127.0.0.1:{port}", RequestError),
        ("http://127.0.0.1:notaport/api", RequestError),
    ],
)
def test_where_nothing_answers_is_one_sentence(address: str, error: type[Exception]) -> None:
    url = address.format(port=free_port())
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(error) as raised, prefect_api.answering():
        pytest.fail("nobody listens there")
    assert "Prefect API at" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("version", ["2.20.4", "4.0"])
def test_a_server_of_another_version_is_one_sentence(version: str) -> None:
    with (
        answers(200, json.dumps(version), JSON) as address,
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(RequestError, match=re.escape(f"version {version}")),
        prefect_api.answering(),
    ):
        pytest.fail("this server is of another version")


@pytest.mark.parametrize("command", ["classify", "train"])
@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("PREFECT_API_URL", "http://127.0.0.1:{port}/api", 1),
        ("PREFECT_CLIENT_MAX_RETRIES", "many", 2),
    ],
)
def test_a_command_ends_with_that_sentence(
    command: str, setting: str, value: str, code: int, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    model = ("-m", tiny_bundle) if command == "classify" else ()
    chosen = {setting: value.format(port=free_port())}
    done = shardseer(command, crops(2), "-o", tmp_path / "out", *model, "--prefect", **chosen)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith("shardseer: ")
    assert not (tmp_path / "out").exists()


def test_a_terminal_shows_what_a_flow_waits_for_and_how_far_it_is(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    command = ("classify", crops(70), "-o", tmp_path / "out", "-m", tiny_bundle, "--prefect", "--workers", "inline")
    ours, theirs = pty.openpty()
    shown = bytearray()
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # so says Linux where the last one has closed a terminal
            pass
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    waited = [text.index(what) for what in ("waiting for Prefect's server", "listing the images", "classifying")]
    assert waited == sorted(waited)
    assert "70/70" in text
    assert "Completed" in text
