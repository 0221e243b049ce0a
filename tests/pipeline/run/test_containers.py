"""Images in tar, Parquet and Arrow files take part in everything as files do: rows, incremental runs, missing ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.run import querying
from tests.pipeline.images.packed import arrow, parquet, tar
from tests.running import classify, rows, started

Crops = Callable[..., Path]
Pack = Callable[[Path, list[Path]], Path]


def in_tar(file: Path, images: list[Path]) -> Path:
    return tar(file.with_suffix(".tar"), [(each.name, each.read_bytes()) for each in images])


def in_compressed_tar(file: Path, images: list[Path]) -> Path:
    return tar(file.with_suffix(".tar.gz"), [(each.name, each.read_bytes()) for each in images], "w:gz")


def in_parquet(file: Path, images: list[Path]) -> Path:
    structs = [{"bytes": each.read_bytes(), "path": each.name} for each in images]
    return parquet(file.with_suffix(".parquet"), {"image": structs}, row_group_size=4)


def in_arrow(file: Path, images: list[Path]) -> Path:
    return arrow(file.with_suffix(".arrow"), {"image": [each.read_bytes() for each in images]}, "file")


PACKED = [in_tar, in_compressed_tar, in_parquet, in_arrow]


def facts(output: Path) -> list[tuple[object, ...]]:
    """Everything of each row but who and when it was."""
    columns = "content_hash, label, confidence, status, error_stage, width, height, size_bytes, class_index"
    return querying.connect(output).execute(f"SELECT {columns} FROM current ORDER BY ALL").fetchall()


@pytest.mark.parametrize("pack", PACKED)
def test_rows_are_those_of_the_same_files_in_a_folder(
    pack: Pack, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images = crops(11)
    (images / "000003.jpg").write_bytes(b"no image")
    classify(images, tmp_path / "plain", tiny_bundle)
    files = sorted(images.iterdir())
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed" / "a", files[:6])
    pack(tmp_path / "packed" / "b", files[6:])
    assert classify(tmp_path / "packed", tmp_path / "out", tiny_bundle).rows == 11
    assert facts(tmp_path / "out") == facts(tmp_path / "plain")
    assert classify(tmp_path / "packed", tmp_path / "out", tiny_bundle) is None, "nothing new"
    assert classify(tmp_path / "packed", tmp_path / "out", tiny_bundle, verify_content=True) is None


@pytest.mark.parametrize("pack", PACKED)
def test_a_changed_container_is_classified_anew_and_a_removed_one_is_missing(
    pack: Pack, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    files, packed, output = sorted(crops(9).iterdir()), tmp_path / "packed", tmp_path / "out"
    packed.mkdir()
    pack(packed / "a", files[:3])
    removed = pack(packed / "b", files[3:6])
    classify(packed, output, tiny_bundle)
    removed.unlink()
    changed = pack(packed / "a", files[6:8])
    changed.touch()
    assert classify(packed, output, tiny_bundle).rows == 2
    current = rows(output, "current")
    assert len(current) == 2 and all(path.startswith(f"{changed}#") for path, _ in current)


def test_one_archive_as_the_input_speaks_for_its_members_alone(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    files, output = sorted(crops(8).iterdir()), tmp_path / "out"
    first, second = in_tar(tmp_path / "first", files[:4]), in_tar(tmp_path / "second", files[4:])
    classify(first, output, tiny_bundle)
    classify(second, output, tiny_bundle)
    in_tar(tmp_path / "first", files[:2]).touch()
    assert classify(first, output, tiny_bundle).rows == 2
    assert len(rows(output, "current")) == 2 + 4


def test_a_container_that_breaks_is_an_error_row_and_what_was_in_it_is_not_missing(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    packed, output = tmp_path / "packed", tmp_path / "out"
    packed.mkdir()
    file = in_tar(packed / "a", sorted(crops(6).iterdir()))
    classify(packed, output, tiny_bundle)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    broken = classify(packed, output, tiny_bundle)
    assert broken.error == 1 and 1 < broken.rows < 7
    (error,) = (row for row in rows(output, "current") if row[1] == "error")
    assert error[0] == str(file)
    assert len(rows(output, "current")) == 7, "its other members were not seen to be gone"
    file.write_bytes(whole)
    assert classify(packed, output, tiny_bundle).error == 0
    assert len(rows(output, "current")) == 6, "it is whole again: its error is gone"


@pytest.mark.parametrize("pack", [in_compressed_tar, in_parquet])
def test_a_run_over_containers_resumes(pack: Pack, crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    packed, output = tmp_path / "packed", tmp_path / "out"
    packed.mkdir()
    pack(packed / "a", sorted(crops(150).iterdir()))
    started(packed, output, tiny_bundle, shards=1)
    finished = classify(packed, output, tiny_bundle)
    assert finished.rows == 150 and finished.resumed_shards == 1
    assert len({path for path, _ in rows(output)}) == 150
