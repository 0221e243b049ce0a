"""The same images packed in other ways: tars, Parquet files with their bytes, objects of a store."""

import tarfile
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq


def files_of(folder: Path) -> list[Path]:
    """Every file below a folder, by name."""
    return sorted(each for each in folder.rglob("*") if each.is_file())


def as_tars(images: Path, folder: Path, number: int = 2) -> Path:
    """A folder of tars with the images dealt out in turn, each under its path below the images."""
    folder.mkdir(parents=True)
    for index in range(number):
        with tarfile.open(folder / f"shard-{index:04}.tar", "w") as tar:
            for file in files_of(images)[index::number]:
                tar.add(file, str(file.relative_to(images)))
    return folder


def as_parquet(images: Path, folder: Path, number: int = 2) -> Path:
    """A folder of Parquet files with the images as structs of bytes and path, as Hugging Face's data sets have them."""
    folder.mkdir(parents=True)
    for index in range(number):
        rows = [
            {"bytes": file.read_bytes(), "path": str(file.relative_to(images))}
            for file in files_of(images)[index::number]
        ]
        pq.write_table(pa.table({"image": rows}), folder / f"part-{index}.parquet", row_group_size=3)
    return folder


def upload(folder: Path, store: Any, prefix: str) -> None:
    """Put every file below a folder into a store, under its path."""
    for file in files_of(folder):
        obstore.put(store, f"{prefix}/{file.relative_to(folder)}", file)
