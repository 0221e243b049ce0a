"""A run's parts become one object: all rows in order, the same bytes each time, there whole or not at all."""

import errno
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import MemoryStore

from pipeline import object_store, object_writing, schema
from pipeline.errors import RunError
from pipeline.run import one_object
from pipeline.run.one_object import Accepted
from pipeline.store_errors import StoreFailureError
from tests.pipeline.run.made_parts import PROVENANCE, made_receipt, make_part
from tests.processes import wait_until
from tests.s3 import S3Server

ROWS = 100  # of a row group here


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_object, "ROWS", ROWS)


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    s3.bucket("published")
    return "s3://published"


@pytest.fixture
def target(bucket: str, request: pytest.FixtureRequest) -> str:
    return f"{bucket}/{request.node.name}/model=tiny-0123/run=r1/part-0.parquet"


@pytest.fixture
def parts(tmp_path: Path, target: str) -> Callable[..., list[Accepted]]:
    """Make parts of so many rows, every other one in the store."""

    def make(*rows: int) -> list[Accepted]:
        places = [f"{target}-{number}" if number % 2 else str(tmp_path / str(number)) for number in range(len(rows))]
        return [make_part(place, sum(rows[:number]), rows[number]) for number, place in enumerate(places)]

    return make


def read(target: str) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(object_writing.get(target)))


def unfinished_uploads(s3: S3Server) -> list[int]:
    """How many pieces each upload has that nobody completed or aborted: the server's own file system has them."""
    return [len(entries(s3, upload)) for upload in entries(s3, "/buckets/published/.uploads")]


def entries(s3: S3Server, folder: str) -> list[str]:
    request = urllib.request.Request(f"{s3.filer}{folder}/", headers={"Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [entry["FullPath"] for entry in json.load(answer)["Entries"] or ()]


TABLES = {
    "one": ((7,), [7]),
    "less than a row group": ((30, 40, 5), [75]),
    "exactly": ((50, 50), [100]),
    "parts end inside row groups": ((64, 64, 64, 64), [100, 100, 56]),
    "a part of several": ((250, 10), [100, 100, 60]),
}


@pytest.mark.parametrize(("rows", "groups"), TABLES.values(), ids=TABLES)
def test_all_rows_are_there_in_order(
    rows: tuple[int, ...], groups: list[int], target: str, parts: Callable[..., list[Accepted]]
) -> None:
    accepted = parts(*rows)
    one_object.publish(target, accepted, PROVENANCE)
    file = read(target)
    assert file.read()["path"].to_pylist() == [f"/images/{number:08}.jpg" for number in range(sum(rows))]
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == groups
    assert file.schema_arrow.equals(schema.PREDICTIONS)
    footer = {key.decode(): value for key, value in file.metadata.metadata.items()}
    assert footer["shardseer.model"] == b"tiny-0123"
    receipts = json.loads(footer["shardseer.receipts"])
    assert [receipt["shard"] for receipt in receipts] == [part.receipt.shard for part in accepted]
    for receipt, part in zip(receipts, accepted, strict=True):
        first, last = receipt["row_groups"]
        found = pa.concat_tables([file.read_row_group(at) for at in range(first, last + 1)])["path"].to_pylist()
        here = [f"/images/{receipt['first_row'] + row:08}.jpg" for row in range(part.receipt.rows)]
        assert set(here) <= set(found) and here[0] in file.read_row_group(first)["path"].to_pylist()
        assert here[-1] in file.read_row_group(last)["path"].to_pylist()


def test_two_publishers_write_the_same_bytes(target: str, parts: Callable[..., list[Accepted]]) -> None:
    accepted = parts(150, 150)
    one_object.publish(target, accepted, PROVENANCE)
    one_object.publish(f"{target}-again", accepted, PROVENANCE)
    assert object_writing.get(target) == object_writing.get(f"{target}-again")


def test_what_is_published_is_left_alone(target: str) -> None:
    object_writing.put(target, b"published")
    one_object.publish(target, [Accepted("/no/part", 1, made_receipt("r1", "0", 1))], PROVENANCE)
    assert object_writing.get(target) == b"published"


@pytest.mark.parametrize("step", range(5))  # four row groups, and the footer
def test_an_error_at_any_row_group_leaves_nothing(
    step: int, s3: S3Server, target: str, parts: Callable[..., list[Accepted]], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = one_object._Sink.take
    monkeypatch.setattr(one_object._Sink, "take", lambda sink: [*take(sink), bytes(one_object.PIECE)])  # sent at once
    steps = iter(range(step))

    def check() -> None:
        if next(steps, None) is None:
            wait_until(lambda: unfinished_uploads(s3) == [step], 60, "the pieces before to arrive")
            raise RunError("lost")

    accepted = parts(150, 150, 90)
    with pytest.raises(RunError, match="lost"):
        one_object.publish(target, accepted, PROVENANCE, check)
    assert not object_writing.exists(target)
    assert not unfinished_uploads(s3)
    one_object.publish(target, accepted, PROVENANCE)
    assert object_writing.exists(target)


BROKEN = {
    "not there": (lambda part: part._replace(place=part.place + "x"), "cannot be read"),
    "another attempt's": (
        lambda part: part._replace(receipt=part.receipt.model_copy(update={"attempt": 9})),
        "another attempt",
    ),
    "no Parquet": (lambda part: object_writing.put(part.place, b"PAR1 nothing PAR1") and part, "cannot be read"),
}


@pytest.mark.parametrize(("breaking", "message"), BROKEN.values(), ids=BROKEN)
def test_a_part_that_is_not_the_accepted_one_publishes_nothing(
    breaking: Callable[[Accepted], Accepted], message: str, target: str, parts: Callable[..., list[Accepted]]
) -> None:
    first, second = parts(120, 120)
    with pytest.raises(RunError, match=message):
        one_object.publish(target, [first, breaking(second)], PROVENANCE)
    assert not object_writing.exists(target)


@pytest.mark.parametrize(
    ("tries", "goes_on"),
    [
        ([2, 5, 4, 5], True),
        ([4] * 30, False),  # an upload that breaks off at one place for ever
        ([0, 0, 0], False),
    ],
)
def test_patience_counts_from_the_last_piece_that_the_store_took(
    tries: list[int], goes_on: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The numbers of pieces after which tries are broken off; each piece, and each try, takes a good while."""
    store, clock, left = MemoryStore(), [0.0], iter(tries)

    def monotonic() -> float:
        return clock[0]

    def put(_store: object, _key: str, pieces: Iterator[bytes], **_: object) -> None:
        broken_after = next(left, None)
        clock[0] += 0.4 * object_writing.PATIENCE
        for number, _piece in enumerate(pieces):
            clock[0] += 0.2 * object_writing.PATIENCE
            if number == broken_after:
                raise StoreFailureError(errno.EAGAIN, "the connection to the store failed")

    monkeypatch.setattr(object_store, "bucket", lambda url: store)
    monkeypatch.setattr(obstore, "put", put)
    monkeypatch.setattr(one_object, "PIECE", 1)
    monkeypatch.setattr(one_object, "IN_FLIGHT", 1)
    for module in (object_writing, one_object):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic, sleep=lambda _: None))
    part = [make_part(str(tmp_path / str(at)), at * ROWS, ROWS) for at in range(5)]
    with nullcontext() if goes_on else pytest.raises(RunError, match="the connection to the store failed"):
        one_object.publish("s3://memory/out/part.parquet", part, PROVENANCE)


def test_wide_rows_make_smaller_row_groups(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_object, "GROUP_BYTES", 30 * 100 * 4)
    part = [make_part(str(tmp_path / str(at)), at * 20, 20, wide=100) for at in range(5)]
    one_object.publish(target, part, PROVENANCE)
    assert [read(target).metadata.row_group(at).num_rows for at in range(3)] == [40, 40, 20]


@pytest.mark.parametrize("total", [0, 1, 8 << 20, 70 << 30, 4 << 40])
def test_an_object_never_has_too_many_pieces(total: int) -> None:
    size = one_object.piece_size(total)
    assert 5 << 20 <= size <= 5 << 30, "S3's bounds"
    assert 1.2 * total / size <= 10_000


def test_a_run_is_as_few_objects_as_fit() -> None:
    def sized(*sizes: int) -> list[Accepted]:
        return [Accepted(str(at), size, made_receipt("r1", str(at), 1)) for at, size in enumerate(sizes)]

    def found(*sizes: int) -> list[list[int]]:
        return [[part.size for part in each] for each in one_object.objects(sized(*sizes), limit=10)]

    assert found() == []
    assert found(3, 3, 4) == [[3, 3, 4]]
    assert found(3, 3, 5, 5) == [[3, 3], [5, 5]]
    assert found(20, 1) == [[20], [1]]
