"""Two looks: the fast answer where it is clear, the exact one where it is not, each row once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import schema, storage
from pipeline.images.batching import Decoding, image_batches
from pipeline.images.preprocessing import Pixels
from pipeline.job import Options
from pipeline.model import bundle
from pipeline.model.cascade import Cascade, joined
from pipeline.model.engine import Build, EngineOutput
from pipeline.model.precision import EXACT, CascadeSettings, Margins, Pass, looks
from pipeline.timing import Stopwatch
from tests.conftest import make_crops

FAST = Pass(way="fast", numbers="bfloat16")


def within(numbers: float, decoding: float) -> CascadeSettings:
    margins = Margins(numbers=numbers, decoding=decoding)
    return CascadeSettings(engine="openvino", first=FAST, whole=margins, reduced=margins)


class Shading:
    """An engine for five classes: it is sure of `first` class for light images, and torn between two for dark ones."""

    def __init__(self, build: Build, threshold: float, seen: Callable[[], None] = lambda: None) -> None:
        self.exact = build.numbers == "float32"
        self.threshold = threshold
        self.seen = seen
        self.images = 0

    def __call__(self, pixels: Pixels) -> EngineOutput:
        self.images += len(pixels)
        self.seen()
        logits = np.zeros((len(pixels), 5), dtype=np.float32)
        dark = pixels.mean(axis=(1, 2, 3)) < self.threshold
        logits[:, 0] = 5
        logits[dark, 1 if self.exact else 2] = 5.1
        return EngineOutput(logits, None)


def references(folder: Path) -> pa.Table:
    rows = [storage.entry(str(path))[:4] for path in sorted(folder.rglob("*.jpg"))]
    columns = zip(zip(*rows, strict=True), schema.LISTING, strict=True)
    return pa.table([pa.array(column, field.type) for column, field in columns], schema.LISTING)


def looked(folder: Path, model: Path, chosen: CascadeSettings, seen: Callable[[], None] = lambda: None, **options):
    engines: list[Shading] = []

    def built(build: Build) -> Shading:
        engines.append(Shading(build, 90, seen))
        return engines[-1]

    looking = Cascade(bundle.load(model), chosen, built, options=Options(**options), top_k=2)
    tables = list(looking.over(references(folder), 8, Stopwatch()))
    return tables, engines


def test_close_rows_get_the_exact_answer_and_every_row_comes_once(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 60)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    tables, (first, second) = looked(folder, tiny_bundle, within(0.4, 0.4))
    rows = joined(tables).predictions.to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(map(str, folder.rglob("*.jpg")))
    assert {row["label"] for row in rows if row["status"] == "ok"} == {"ant", "bee"}, "never the fast look's guess"
    close = sum(row["label"] == "bee" for row in rows)
    assert 0 < close < 60
    looks = joined(tables).looks
    assert (looks == 3).sum() == close
    assert (looks == 2).sum() == 0, "still torn after the second look"
    assert (first.images, second.images) == (61, 2 * close)
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

    def built(build: Build) -> Shading:
        return Shading(build, 256, change)

    looking = Cascade(bundle.load(tiny_bundle), within(0.4, 0.4), built, options=Options(), top_k=2)
    found = joined(list(looking.over(references(folder), 8, Stopwatch())))
    rows = found.predictions.to_pylist()
    assert {Path(row["path"]).name: looks for row, looks in zip(rows, found.looks, strict=True)} == {
        "000000.jpg": 3,
        "000001.jpg": 2,
        "000002.jpg": 2,
        "000003.jpg": 3,
    }
    assert len({row["content_hash"] for row in rows}) == 1
    assert {row["status"] for row in rows} == {"ok"}


def test_a_second_look_that_the_world_fails_leaves_the_first_answer(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 6)

    def decode(asked: pa.Table, decoding: Decoding, size: int, watch: Stopwatch) -> Iterator[pa.Table]:
        for batch in image_batches(asked, decoding, size, watch):
            if decoding.way == "exact":  # as an isolated decoder tells of a child that was taken by the kernel
                stage = pa.array(["worker"] * batch.num_rows)
                batch = batch.set_column(batch.column_names.index("error_stage"), "error_stage", stage)
            yield batch

    looking = Cascade(
        bundle.load(tiny_bundle), within(0.4, 0.4), lambda build: Shading(build, 256), options=Options(), top_k=2
    )
    found = joined(list(looking.over(references(folder), 8, Stopwatch(), decode)))
    assert found.predictions["status"].to_pylist() == ["ok"] * 6
    assert (found.looks == 2).all()


def test_what_float32_settles_is_not_decoded_again(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 30)
    tables, (_, second) = looked(folder, tiny_bundle, within(0.4, 0.01))
    looks = joined(tables).looks
    assert 0 < (looks == 2).sum() == second.images < 30
    assert (looks == 1).sum() + (looks == 2).sum() == 30


def test_a_reduced_picture_has_margins_of_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    chosen = CascadeSettings(engine="openvino", first=FAST, reduced=Margins(numbers=0.5, decoding=0.3))
    batch = pa.table(
        {"width": [64, 4000, 4000, None], "height": [48, 3000, 3000, None], "format": ["JPEG"] * 2 + ["PNG", None]}
    )
    numbers, decoding = chosen.margins(batch, bundle.load(tiny_bundle).preprocessing)
    assert numbers.tolist() == [0, 0.5, 0, 0]
    assert decoding.tolist() == [0, 0.3, 0, 0], "a PNG is decoded the exact way at once"


def test_near_the_threshold_of_abstention_is_close_too(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 20)
    light = float(np.exp(5) / (np.exp(5) + 4))
    tables, _ = looked(folder, tiny_bundle, within(0.4, 0), abstain_below=light)
    assert (joined(tables).looks == 2).all()


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_without_auto_there_is_one_look(precision: str, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 10)
    chosen = looks(precision, "openvino", False)
    tables, engines = looked(folder, tiny_bundle, chosen)
    assert len(engines) == 1
    assert (joined(tables).looks == 1).all()
    assert (chosen.first == EXACT) == (precision == "exact")


def test_the_number_format_follows_the_processor() -> None:
    assert looks("auto", "torch", True).first.numbers == "float16"
    flags = Path("/proc/cpuinfo").read_text()
    expected = "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
    assert os.uname().machine != "x86_64" or looks("fast", "openvino", False).first.numbers == expected
