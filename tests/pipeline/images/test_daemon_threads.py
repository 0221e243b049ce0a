"""Reads that hang do not keep their process from ending."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

INTERRUPTED = """
import sys
from pathlib import Path
import pyarrow as pa
from pipeline import object_store, schema, web
from pipeline.images.batching import image_batches
from pipeline.images.fast_decoding import FastDecoder
from pipeline.images.patient_reading import ReadPolicy
from pipeline.images.prefetching import DecodingThreads
from pipeline.model.bundle import load
from pipeline.timing import Stopwatch

web.SECONDS = 1000
object_store.TIMEOUTS = {"read_timeout": "1000s", "timeout": "1000s"}
bundle, is_threaded, *paths = sys.argv[1:]
policy = ReadPolicy(private_hosts=True)
rows = pa.Table.from_pylist([{"path": path, "size_bytes": 1000} for path in paths], schema.LISTING)
how = rows, FastDecoder(load(Path(bundle)).preprocessing, 10**9), 8, Stopwatch()
if is_threaded == "True":
    with DecodingThreads(2) as threads:
        list(threads.batches(*how, policy=policy))
else:
    list(image_batches(*how, policy=policy))
"""


@pytest.mark.parametrize("is_threaded", [False, True])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_process_ends_although_its_reads_hang(tiny_bundle: Path, scheme: str, is_threaded: bool) -> None:
    """On a server that takes connections and never answers. The seconds are far fewer than those of a request."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
        paths = [f"{address if scheme == 'http' else 's3://silent'}/{number}" for number in range(3)]
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, str(tiny_bundle), str(is_threaded), *paths],
            env={**os.environ, **keys, "AWS_ENDPOINT_URL": address},
            stderr=subprocess.PIPE,
        )
        silent.settimeout(100)
        with closing(silent.accept()[0]) as connection:
            connection.recv(1)  # it is asked
            process.send_signal(signal.SIGINT)
            try:
                _, said = process.communicate(timeout=100)
            finally:
                process.kill()
    assert process.returncode == -signal.SIGINT and b"KeyboardInterrupt" in said
