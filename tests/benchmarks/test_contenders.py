"""Contenders really run, and one whose rows are not one per image has failed."""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import contenders
from benchmarks.contenders import PEERS_BESIDE, Contender, ContenderError
from tests.processes import shardseer

TIMM = next(peer for peer in PEERS_BESIDE if peer.name == "timm's loop, defaults")


def write(folder: Path, paths: list[str], labels: list[str | None]) -> None:
    """Parquet as a contender leaves it."""
    folder.mkdir()
    pq.write_table(pa.table({"path": paths, "label": labels, "confidence": [0.5] * len(paths)}), folder / "a.parquet")


def test_timms_loop_classifies_a_folder(crops, tmp_path):
    outcome = contenders.run(TIMM, crops(8), 8, tmp_path, os.environ)
    rows = pq.read_table(tmp_path / "output").to_pylist()
    assert {Path(row["path"]).name for row in rows} == {f"{index:06}.jpg" for index in range(8)}
    assert all(Path(row["path"]).exists() and row["label"] and 0 < row["confidence"] <= 1 for row in rows)
    assert outcome.printed["images"] == 8
    assert 0 < outcome.printed["seconds"] < outcome.whole
    assert outcome.start_up == pytest.approx(outcome.whole - outcome.printed["seconds"])


def test_a_missing_row_fails_it(crops, tmp_path):
    with pytest.raises(ContenderError, match=r"9 images, but .* \(8, 8, 8, 8\)"):
        contenders.run(TIMM, crops(8), 9, tmp_path, os.environ)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [(["a", "b", "b"], ["x", "y", "y"]), (["a", "b", "c"], ["x", "y", None]), (["a", "b"], ["x", "y"])],
    ids=["twice", "no label", "lost"],
)
def test_rows_that_are_wrong(tmp_path, paths, labels):
    write(tmp_path / "out", paths, labels)
    with pytest.raises(ContenderError, match="3 images, but"):
        contenders.check_rows(tmp_path / "out", "**/*.parquet", 3)


def test_rows_that_are_right(tmp_path):
    write(tmp_path / "out", ["a", "b", "c"], ["x", "y", "x"])
    contenders.check_rows(tmp_path / "out", "**/*.parquet", 3)


def test_no_parquet_at_all(tmp_path):
    with pytest.raises(ContenderError, match="no Parquet"):
        contenders.check_rows(tmp_path, "**/*.parquet", 3)


@pytest.mark.parametrize(
    ("code", "said"),
    [("import sys; sys.exit('out of luck')", "exit code 1: out of luck"), ("print('no figures')", "cannot be read")],
    ids=["exits", "says nothing"],
)
def test_a_contender_that_fails_says_how(tmp_path, code, said):
    broken = Contender("broken", lambda *_: [sys.executable, "-c", code], contenders.last_line, rows=None)
    with pytest.raises(ContenderError, match=said):
        contenders.run(broken, tmp_path, 1, tmp_path, os.environ)


def test_steady_state_leaves_the_first_part_of_a_worker_out(crops, tiny_bundle, tmp_path):
    images, output = crops(200), tmp_path / "out"
    done = shardseer("classify", images, "-o", output, "-m", tiny_bundle, "--workers", "inline", "--json")
    summary = contenders.summary(done.stdout, output)
    parts = sorted(Path(summary.printed["output"]).glob("*.parquet"))
    assert len(parts) > 2
    assert summary.images == 200
    for second, part in enumerate(parts):
        os.utime(part, (0, 1_700_000_000 + 2 * second))
    later = sum(pq.read_metadata(part).num_rows for part in parts[1:])
    assert contenders.steady(parts[0].parent) == pytest.approx(later / (2 * (len(parts) - 1)))
    for part in parts[1:]:
        part.unlink()
    assert contenders.steady(parts[0].parent) is None
