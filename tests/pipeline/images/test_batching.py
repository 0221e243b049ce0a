"""A shard becomes image batches: one row per reference, in order, whatever the files are, each with its own outcome."""

import hashlib
import io
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import schema
from pipeline.images import batching
from pipeline.images.batching import BATCH_BYTES, image_batches, pieces
from pipeline.images.decoding import ExactDecoder
from pipeline.images.gpu_decoding import GpuDecoder
from pipeline.images.preprocessing import Preprocessing
from pipeline.timing import Stopwatch
from tests.events import Counting

MODEL = Preprocessing(
    channels=3, height=16, width=16, crop_pct=1.0, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
)


def references(*paths: Path, errors: dict[str, str] | None = None) -> pa.Table:
    rows = [
        {"path": str(path), "size_bytes": 1, "modified_at": None, "list_error": (errors or {}).get(path.name)}
        for path in paths
    ]
    return pa.Table.from_pylist(rows, schema.LISTING)


def batches(table: pa.Table, size: int = 4, *, limit: int = 1_000_000, strict: bool = False) -> list[pa.Table]:
    return list(image_batches(table, ExactDecoder(MODEL, limit, strict), size, Stopwatch()))


def pixels(batch: pa.Table) -> np.ndarray:
    return batch["image"].combine_chunks().to_numpy_ndarray()


def plain(path: Path, shade: int) -> Path:
    Image.new("RGB", (20, 20), (shade, shade, shade)).save(path)
    return path


def test_every_image_keeps_its_own_row_beside_bad_neighbours(tmp_path) -> None:
    good = [plain(tmp_path / f"{shade:03}.png", shade) for shade in range(10, 130, 10)]
    for number, path in enumerate(good):
        if number % 3 == 1:
            path.write_bytes(b"broken" if number % 2 else path.read_bytes()[:60])
    found = batches(references(*good))
    assert [batch.num_rows for batch in found] == [4, 4, 4]
    rows = [row for batch in found for row in batch.drop(["image"]).to_pylist()]
    shades = np.concatenate([pixels(batch) for batch in found])[:, 8, 8, 0]
    for number, (path, row) in enumerate(zip(good, rows, strict=True)):
        assert row["path"] == str(path)
        if number % 3 == 1:
            assert (row["error_stage"], shades[number]) == ("decode", 0)
        else:
            assert (row["error_stage"], shades[number]) == (None, 10 + 10 * number)
            assert row["content_hash"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
            assert (row["width"], row["height"], row["format"]) == (20, 20, "PNG")
            assert row["size_bytes"] == path.stat().st_size
            assert row["modified_at"] == datetime.fromtimestamp(path.stat().st_mtime_ns // 1000 / 1e6, UTC)


def test_each_stage_has_its_name(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    Image.new("1", (2000, 2000)).save(tmp_path / "large.png")
    paths = [tmp_path / name for name in ("listed.png", "vanished.png", "pipe.png", "empty.png", "large.png")]
    (batch,) = batches(references(*paths, errors={"listed.png": "PermissionError: no"}), 8)
    assert batch["error_stage"].to_pylist() == ["list", "read", "read", "decode", "decode"]
    assert batch["error"].to_pylist() == [
        "PermissionError: no",
        "FileNotFoundError: No such file or directory",
        "OSError: not a regular file but a pipe",
        "the file is empty",
        "2000×2000 pixels are more than the 1000000 allowed (--max-pixels)",
    ]
    assert batch["width"].to_pylist() == [None, None, None, None, 2000]


def test_the_hash_is_of_the_very_bytes_that_were_decoded(tmp_path, monkeypatch) -> None:
    """The file is replaced as soon as it was read: hash, size, time and pixels are all the old version's."""
    path = plain(tmp_path / "x.png", 40)
    old, status = path.read_bytes(), path.stat()

    def read_then_replace(name: str, read=batching.storage.read):
        content = read(name)
        plain(path, 200)
        return content

    monkeypatch.setattr(batching.storage, "read", read_then_replace)
    (batch,) = batches(references(path))
    (row,) = batch.drop(["image"]).to_pylist()
    assert row["content_hash"] == "sha256:" + hashlib.sha256(old).hexdigest()
    assert row["size_bytes"] == len(old)
    assert row["modified_at"] == datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
    assert pixels(batch)[0, 8, 8, 0] == 40
    assert path.read_bytes() != old


def test_a_file_that_changes_while_it_is_read_is_an_error_of_reading(tmp_path, monkeypatch) -> None:
    def close(name: str):
        raise batching.storage.ChangedWhileReadingError(11, "changed while it was read")

    monkeypatch.setattr(batching.storage, "read", close)
    (batch,) = batches(references(plain(tmp_path / "x.png", 40)))
    assert batch["error_stage"].to_pylist() == ["read"]
    assert batch["error"].to_pylist() == ["ChangedWhileReadingError: changed while it was read"]


@pytest.mark.parametrize("strict", [False, True])
def test_strict_comes_through(tmp_path, strict: bool) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG")
    tables = buffer.getvalue().index(b"\xff\xdb")
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue()[:tables] + b"garbage" + buffer.getvalue()[tables:])
    (batch,) = batches(references(tmp_path / "x.jpg"), strict=strict)
    assert batch["error_stage"].to_pylist() == ["decode" if strict else None]


def test_a_file_larger_than_memory_is_an_error(tmp_path, monkeypatch) -> None:
    def no_memory(name: str):
        raise MemoryError

    monkeypatch.setattr(batching.storage, "read", no_memory)
    (batch,) = batches(references(plain(tmp_path / "x.png", 40)))
    assert batch["error"].to_pylist() == ["needed more than there is of memory"]


MB = 10**6


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        ([10_000] * 600, [256, 256, 88]),
        ([10_000] * 256 + [10 * MB] * 60, [256, 16, 16, 16, 12]),  # 26 fit: 16, which a GPU need not pad
        ([10 * MB] * 60 + [10_000] * 256, [16, 16, 16, 256, 12]),
        ([10 * MB, 10_000] * 40, [32, 48]),
        ([3000 * MB, 10_000, 3000 * MB], [1, 1, 1]),  # one image is a batch however large it is
        ([None] * 300, [256, 44]),
    ],
)
def test_a_batch_is_bounded_by_the_bytes_of_its_own_files(files: list[int | None], rows: list[int]) -> None:
    table = pa.Table.from_pylist(
        [{"path": f"/{n:04}", "size_bytes": size} for n, size in enumerate(files)], schema.LISTING
    )
    found = list(pieces(table, GpuDecoder(MODEL, 10**9), 256))
    assert [piece.references.num_rows for piece in found] == rows
    assert pa.concat_tables([piece.references for piece in found]).equals(table)
    for piece in found:
        compressed = sum(size or 0 for size in piece.references["size_bytes"].to_pylist())
        assert piece.bytes == piece.references.num_rows * 16 * 16 * 3 + compressed
        assert piece.bytes <= BATCH_BYTES or piece.references.num_rows == 1
    assert [piece.references.num_rows for piece in pieces(table, ExactDecoder(MODEL, 10**9), 256)] == [
        min(256, len(files) - start) for start in range(0, len(files), 256)
    ], "files that do not go along do not count"


def test_each_image_is_a_sign_of_life(tmp_path: Path) -> None:
    for shade in range(10, 130, 10):
        plain(tmp_path / f"{shade:03}.png", shade)
    (tmp_path / "020.png").write_bytes(b"broken")
    events = Counting()
    decoded = image_batches(references(*sorted(tmp_path.iterdir())), ExactDecoder(MODEL, 10**6), 8, Stopwatch(), events)
    assert [events.count for _ in decoded] == [8, 12]
