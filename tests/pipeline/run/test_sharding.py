"""Shards: how large, named by what, and every reference in exactly one."""

import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.images import batching
from pipeline.images.decoding import ExactDecoder
from pipeline.images.preprocessing import Preprocessing
from pipeline.model import bundle
from pipeline.run import sharding


def references(paths: list[str], sizes: int = 1) -> pa.Table:
    count = len(paths)
    columns = {
        "path": paths,
        "size_bytes": [sizes] * count,
        "modified_at": [1_700_000_000_000_000] * count,
    }
    return schema.as_listing(pa.table(columns))


@given(images=st.integers(1, 10**9), workers=st.integers(1, 4096))
def test_shards_are_neither_small_nor_large_and_enough_for_every_worker(images: int, workers: int) -> None:
    size = sharding.shard_size(images, workers)
    assert 64 <= size <= 16_384
    number = -(-images // size)
    if images >= 64 * 8 * workers:
        assert number >= 8 * workers, "every worker has several"


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 700), size=st.integers(1, 100), chunk=st.integers(1, 300))
def test_every_reference_is_in_exactly_one_shard(count: int, size: int, chunk: int) -> None:
    names = [f"/images/{index:04}.jpg" for index in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        batches = references(names).to_batches(max_chunksize=chunk) if names else []
        written = sharding.write_shards(Path(folder), iter(batches), size)
        shards = sharding.read_shards(Path(folder))
        assert written == len(shards) == -(-count // size)
        found = [path for shard in shards for path in shard.references()["path"].to_pylist()]
        assert found == names
        assert all(shard.images == shard.references().num_rows for shard in shards)
        assert sum(shard.bytes for shard in shards) == count


def test_a_shards_id_is_made_from_its_content_alone(tmp_path: Path) -> None:
    one, other = references(["/a", "/b"]), references(["/a", "/c"])
    assert sharding.shard_id(one) == sharding.shard_id(references(["/a", "/b"]))
    ids = {sharding.shard_id(table) for table in (one, other, references(["/a", "/b"], sizes=2), references(["/a/b"]))}
    assert len(ids) == 4


def test_more_shards_than_one_file_holds(tmp_path: Path) -> None:
    names = [f"/{index:05}" for index in range(600)]
    assert sharding.write_shards(tmp_path, iter(references(names).to_batches()), 2) == 300
    assert len(list(tmp_path.glob("references-*.parquet"))) == 2
    assert sharding.read_shards(tmp_path)[299].references()["path"].to_pylist() == names[598:]


def test_a_batch_of_very_large_inputs_is_smaller(tiny_bundle: Path) -> None:
    usual = bundle.load(tiny_bundle).preprocessing

    def size(model: Preprocessing, *, on_gpu: bool) -> int:
        return batching.batch_size(ExactDecoder(model, 10**9), on_gpu, file_bytes=50_000)

    assert size(usual, on_gpu=False) == 64
    assert size(usual, on_gpu=True) == 256
    large = usual.model_copy(update={"height": 4096, "width": 4096})
    assert size(large, on_gpu=True) == 4, "of five that fit: a GPU's batches are powers of two"
    huge = usual.model_copy(update={"height": 20_000, "width": 20_000})
    assert size(huge, on_gpu=True) == 1
