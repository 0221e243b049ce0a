"""Whoever reads the bucket while runs are published sees finished runs, each whole and once."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow.dataset
import pytest
from pyarrow import fs

from tests.images import make_crops
from tests.packing import upload
from tests.processes import wait_until
from tests.running import classify
from tests.s3 import ACCESS, S3Server
from tests.store_proxy import StoreProxy

IMAGES = 70  # two shards
BUCKET = "readers"


@dataclass
class Reader:
    """Reads all that lies under `predictions/` in a loop, by pyarrow's own discovery, and counts what it saw."""

    address: str
    place: str
    snapshots: Counter[int] = field(default_factory=Counter)  # how many looks found so many runs
    wrong: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        store = fs.S3FileSystem(
            access_key=ACCESS["AWS_ACCESS_KEY_ID"],
            secret_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=self.address,
        )
        while not self.ended.is_set():
            found = store.get_file_info(fs.FileSelector(self.place, recursive=True, allow_not_found=True))
            files = [each.path for each in found if each.path.endswith(".parquet")]
            self._look(pyarrow.dataset.dataset(files, filesystem=store) if files else None)

    def has_seen(self, runs: int) -> bool:
        """Whether a look found so many runs, or anything wrong."""
        return bool(self.wrong) or max(self.snapshots, default=0) >= runs

    def _look(self, found: pyarrow.dataset.Dataset | None) -> None:
        runs: dict[str, list[str]] = {}
        for fragment in () if found is None else found.get_fragments():
            run = fragment.path.partition("/run=")[2].partition("/")[0].removesuffix(".parquet")
            runs.setdefault(run, []).extend(fragment.to_table(columns=["path"])["path"].to_pylist())
        self.wrong += [
            f"run {run}: {len(paths)} rows of {len(set(paths))} images"
            for run, paths in runs.items()
            if not len(paths) == len(set(paths)) == IMAGES
        ]
        self.snapshots[len(runs)] += 1


@contextmanager
def reading(server: S3Server, place: str) -> Iterator[Reader]:
    """A reader in a thread of its own, past the proxy."""
    reader = Reader(server.address, place)
    thread = threading.Thread(target=reader.read)
    thread.start()
    try:
        yield reader
    finally:
        reader.ended.set()
        thread.join()


@pytest.mark.parametrize("runs", [3, pytest.param(20, marks=pytest.mark.faults)])
def test_a_reader_never_sees_half_a_run_or_one_twice(
    runs: int, s3: S3Server, store_proxy: StoreProxy, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A tenth of the writer's requests is throttled; no look finds anything but whole runs."""
    store = s3.bucket(BUCKET)
    upload(make_crops(tmp_path / "images", IMAGES), store, f"{runs}/images")
    store_proxy.throttled = 0.1
    with reading(s3, f"{BUCKET}/{runs}/out/predictions") as reader:
        for number in range(1, runs + 1):
            classify(f"s3://{BUCKET}/{runs}/images", f"s3://{BUCKET}/{runs}/out", tiny_bundle, fresh=True)
            wait_until(partial(reader.has_seen, number), 200, "the reader to see the run")
    print(f"{sum(reader.snapshots.values())} looks, by the runs that they found: {dict(reader.snapshots)}")
    assert reader.wrong == []
    assert set(range(1, runs + 1)) <= reader.snapshots.keys()
    assert store_proxy.faults["throttled"] > 0
