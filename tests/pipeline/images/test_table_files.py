"""Parquet and Arrow files with image bytes: which column has them, and that every row is one image."""

import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ImageError, RequestError
from pipeline.images import input_check, ranges, table_files
from pipeline.job import Job
from pipeline.storage import Entry
from tests.images import make_crops
from tests.pipeline.images.packed import arrow, data, listed, parquet


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return [file.read_bytes() for file in sorted(make_crops(tmp_path_factory.mktemp("t") / "in", 5).iterdir())]


def structs(values: list[bytes]) -> pa.Array:
    """As the data sets of Hugging Face have images."""
    return pa.array([{"bytes": value, "path": f"{place}.jpg"} for place, value in enumerate(values)])


FORMS = {
    "parquet": lambda file, columns: parquet(file, columns, row_group_size=2),
    "feather": lambda file, columns: arrow(file, columns, "feather"),
    "arrow": lambda file, columns: arrow(file, columns, "file"),
    "stream.arrow": lambda file, columns: arrow(file, columns, "stream"),
}
COLUMNS = {
    "binary": lambda values: {"id": list(range(5)), "picture": pa.array(values, pa.binary())},
    "large": lambda values: {"picture": pa.array(values, pa.large_binary())},
    "struct": lambda values: {"image": structs(values), "label": ["x"] * 5},
    "dotted": lambda values: {"a.b": pa.array(values, pa.binary())},
    "beside other bytes": lambda values: {"hash": [b"0123"] * 5, "image": structs(values), "path": ["p"] * 5},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_every_row_is_an_image(columns: str, form: str, jpegs: list[bytes], tmp_path: Path) -> None:
    file = FORMS[form](tmp_path / f"part.{form}", COLUMNS[columns](jpegs))
    for images in (file, tmp_path):
        rows, skipped = listed(images)
        assert [path.rpartition("/")[2] for path in rows] == [f"part.{form}#{row}" for row in range(5)]
        assert [data(row) for row in rows.values()] == jpegs
        assert skipped == {}


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (None, "`image`, `mask` have images: name one with --column"),
        ("label", "holds no bytes; columns of bytes are: `image`, `mask`, `note`"),
        ("nope", "is not there"),
    ],
)
def test_where_the_column_is_unclear_the_sentence_names_those_that_could_be_meant(
    wanted: str | None, sentence: str, jpegs: list[bytes], tmp_path: Path
) -> None:
    file = parquet(
        tmp_path / "two.parquet", {"image": jpegs, "mask": jpegs[::-1], "note": [b"?"] * 5, "label": [1] * 5}
    )
    with pytest.raises(RequestError) as refused:
        input_check.check_input(Job.of(str(file), str(tmp_path / "out"), None, {"column": wanted}))
    assert sentence in str(refused.value)
    (error,) = listed(tmp_path, column=wanted)[0].values()
    assert sentence in error["list_error"], "and found in a folder it is a row"
    assert [data(row) for row in listed(file, column="mask")[0].values()] == jpegs[::-1]


def test_a_parquet_file_is_a_list_where_it_has_paths_and_no_images(jpegs: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpegs[0])
    file = parquet(tmp_path / "list.parquet", {"path": ["a.jpg"], "hash": [b"\1\2"]})
    assert list(listed(file)[0]) == ["a.jpg"]
    rows, skipped = listed(tmp_path)
    assert (len(rows), skipped) == (1, {".parquet": 1})


@pytest.mark.parametrize("value", [None, {"bytes": None, "path": "x.jpg"}, {"bytes": b"", "path": None}])
def test_a_row_without_bytes_is_an_error_of_its_own(
    value: dict[str, object] | None, jpegs: list[bytes], tmp_path: Path
) -> None:
    images = [{"bytes": jpegs[0], "path": "0.jpg"}, value]
    rows, _ = listed(parquet(tmp_path / "t.parquet", {"image": images}))
    first, second = rows.values()
    assert data(first) == jpegs[0]
    if value is None or value["bytes"] is None:
        with pytest.raises(ImageError, match="no bytes"):
            data(second)
    else:
        assert data(second) == b""


def test_one_row_does_not_cost_the_whole_file(tmp_path: Path, jpegs: list[bytes]) -> None:
    """A broken row group costs its own rows alone."""
    file = parquet(tmp_path / "t.parquet", {"image": jpegs}, row_group_size=2, compression="none", use_dictionary=False)
    middle = pq.ParquetFile(file).metadata.row_group(1).column(0)
    content = bytearray(file.read_bytes())
    start = middle.data_page_offset
    content[start : start + 20] = b"\xff" * 20
    (tmp_path / "broken.parquet").write_bytes(content)
    rows = list(listed(tmp_path / "broken.parquet")[0].values())
    assert [data(rows[place]) for place in (0, 1, 4)] == [jpegs[place] for place in (0, 1, 4)]
    with pytest.raises((ImageError, OSError)):
        data(rows[2])


def test_of_a_truncated_arrow_file_all_is_read_that_can_be(jpegs: list[bytes], tmp_path: Path) -> None:
    for kind in ("file", "stream"):
        whole = arrow(tmp_path / f"{kind}.whole", {"image": jpegs}, kind).read_bytes()
        file = tmp_path / f"{kind}.arrow"
        file.write_bytes(whole[: len(whole) * 2 // 3])
        rows, _ = listed(file)
        assert "cannot be read to its end" in rows.pop(file.name)["list_error"]
        assert [data(row) for row in rows.values()] == jpegs[: len(rows)] != []


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>" * 100])
def test_what_is_no_table_is_one_error_row_of_a_folder(name: str, content: bytes, jpegs, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpegs[0])
    (tmp_path / name).write_bytes(content)
    rows, _ = listed(tmp_path)
    assert len(rows) == 2
    assert "cannot be read" in rows[f"{tmp_path.name}/{name}"]["list_error"]


DESCRIPTIONS = {  # what a file says of itself → the column that its rows then have, and at most how much is read of it
    "nothing": (None, "image.bytes", 1 << 21),
    "one of images": ({"image": {"_type": "Image"}, "label": {"_type": "Value"}}, "image.bytes", 1 << 17),
    "one that is not there": ({"picture": {"_type": "Image"}}, "image.bytes", 1 << 21),
    "no description": ([1], "image.bytes", 1 << 21),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_little_is_read_to_choose_the_column(case: str, jpegs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a row group that is the whole file, the first pages: a dictionary of 1 MiB, and one of values."""
    features, column, most = DESCRIPTIONS[case]
    table = pa.table({"image": structs([*jpegs, *(os.urandom(10_000) for _ in range(3000))])})
    described = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    file = tmp_path / "t.parquet"
    pq.write_table(table.replace_schema_metadata(described), file, write_batch_size=4, data_page_size=1 << 15)
    read: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            read.append(len(data := super().read(size)))
            return data

    monkeypatch.setattr(ranges, "opened", lambda path, size: Counting(path))
    first = next(table_files.entries(Entry(str(file), file.stat().st_size, 0), None))
    assert isinstance(first, Entry) and first.column == column
    assert sum(read) < most < file.stat().st_size // 10
