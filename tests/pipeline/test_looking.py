"""Two looks: the fast answer where it is clear, the exact one where it is not, each row once."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import bundle, schema, storage
from pipeline.engines import Answer, Build
from pipeline.job import Options
from pipeline.looking import Looking, joined
from pipeline.precision import EXACT, Look, Looks, looks
from pipeline.preprocessing import Pixels
from pipeline.timing import Stopwatch
from tests.conftest import make_crops

FAST = Look(way="reduced", numbers="bfloat16")


class Shading:
    """An engine for five classes: it is sure of `first` class for light images, and torn between two for dark ones."""

    def __init__(self, build: Build, threshold: float, seen: Callable[[], None] = lambda: None) -> None:
        self.exact = build.numbers == "float32"
        self.threshold = threshold
        self.seen = seen
        self.images = 0

    def __call__(self, pixels: Pixels) -> Answer:
        self.images += len(pixels)
        self.seen()
        logits = np.zeros((len(pixels), 5), dtype=np.float32)
        dark = pixels.mean(axis=(1, 2, 3)) < self.threshold
        logits[:, 0] = 5
        logits[dark, 1 if self.exact else 2] = 5.1
        return Answer(logits, None)


def references(folder: Path) -> pa.Table:
    rows = [storage.entry(str(path))[:4] for path in sorted(folder.rglob("*.jpg"))]
    columns = zip(zip(*rows, strict=True), schema.LISTING, strict=True)
    return pa.table([pa.array(column, field.type) for column, field in columns], schema.LISTING)


def looked(folder: Path, model: Path, chosen: Looks, seen: Callable[[], None] = lambda: None, **options):
    engines: list[Shading] = []

    def built(build: Build) -> Shading:
        engines.append(Shading(build, 90, seen))
        return engines[-1]

    looking = Looking(bundle.load(model), chosen, built, options=Options(**options), top_k=2)
    tables = list(looking.over(references(folder), 8, Stopwatch()))
    return tables, engines


def test_close_rows_get_the_exact_answer_and_every_row_comes_once(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 60)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    tables, (first, second) = looked(folder, tiny_bundle, Looks(engine="openvino", first=FAST, margin=0.4))
    rows = joined(tables).predictions.to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(map(str, folder.rglob("*.jpg")))
    assert {row["label"] for row in rows if row["status"] == "ok"} == {"ant", "bee"}, "never the fast look's guess"
    torn = sum(row["label"] == "bee" for row in rows)
    assert 0 < torn < 60
    assert sum(each.predictions.num_rows for each in tables if each.again) == torn == second.images
    assert first.images == 61
    assert [row["error_stage"] for row in rows if row["status"] == "error"] == ["decode"], "an error is not looked at"


def test_a_file_that_changes_between_the_looks_keeps_the_answer_of_the_bytes_that_its_row_names(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = make_crops(tmp_path / "images", 4, seed=3)
    for path in folder.iterdir():
        path.write_bytes((folder / "000000.jpg").read_bytes())
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def change() -> None:
        (folder / "000001.jpg").write_bytes(before[folder / "000000.jpg"] + b"\0")
        (folder / "000002.jpg").unlink(missing_ok=True)

    class Dark(Shading):
        pass

    def built(build: Build) -> Shading:
        return Dark(build, 256, change)

    chosen = Looks(engine="openvino", first=FAST, margin=0.4)
    looking = Looking(bundle.load(tiny_bundle), chosen, built, options=Options(), top_k=2)
    found = joined(list(looking.over(references(folder), 8, Stopwatch()))).predictions.to_pylist()
    assert {Path(row["path"]).name: row["label"] for row in found} == {
        "000000.jpg": "bee",
        "000001.jpg": "cat",
        "000002.jpg": "cat",
        "000003.jpg": "bee",
    }
    assert len({row["content_hash"] for row in found}) == 1
    assert {row["status"] for row in found} == {"ok"}


def test_near_the_threshold_of_abstention_is_close_too(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 20)
    chosen = Looks(engine="openvino", first=FAST, margin=0.4)
    light = float(np.exp(5) / (np.exp(5) + 4))
    tables, _ = looked(folder, tiny_bundle, chosen, abstain_below=light)
    assert sum(each.predictions.num_rows for each in tables if each.again) == 20


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_without_auto_there_is_one_look(precision: str, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 10)
    chosen = looks(precision, "openvino", False, 10)
    tables, engines = looked(folder, tiny_bundle, chosen)
    assert len(engines) == 1
    assert not any(each.again for each in tables)
    assert (chosen.first == EXACT) == (precision == "exact")


def test_torch_resamples_where_it_is_there_or_worth_its_import() -> None:
    assert looks("auto", "openvino", False, 100).first.way == "reduced"
    assert looks("auto", "openvino", False, 100_000).first.way == "turbo"
    assert looks("fast", "torch", False, 100).first.way == "turbo"
    assert looks("auto", "torch", True, 100).first.numbers == "float16"


def test_the_number_format_follows_the_processor() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    expected = "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
    assert os.uname().machine != "x86_64" or looks("fast", "openvino", False, 1).first.numbers == expected
