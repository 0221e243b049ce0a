"""Two passes: the fast answer where it is clear, the exact one where it is not, each row once."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.images.batching import image_batches
from pipeline.images.decoding import ExactDecoder
from pipeline.images.fast_decoding import FastDecoder
from pipeline.images.preprocessing import Pixels
from pipeline.job import EngineName, Options
from pipeline.model import bundle
from pipeline.model.cascade import Cascade, joined
from pipeline.model.engine import Engine, EngineOutput, EngineSpec
from pipeline.model.inference import Inference
from pipeline.model.precision import EXACT, CascadeSettings, Margins, Pass, cascade_settings
from pipeline.timing import Stopwatch
from tests.batches import references
from tests.images import make_crops

FAST = Pass(decoder="fast", dtype="bfloat16")


def within(dtype: float, decoding: float) -> CascadeSettings:
    margins = Margins(dtype=dtype, decoding=decoding)
    return CascadeSettings(engine=EngineName.OPENVINO, first=FAST, full_size=margins, reduced_size=margins)


class Shading:
    """An engine for five classes: light images are clearly of the first class, dark ones close calls of two."""

    def __init__(self, spec: EngineSpec, threshold: float, seen: Callable[[], None] = lambda: None) -> None:
        self.exact = spec.dtype == "float32"
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


def cascade_of(model: Path, chosen: CascadeSettings, build: Callable[[EngineSpec], Engine], **options) -> Cascade:
    inference = Inference(cascade=chosen, features=False, batch_size=8, top_k=2)
    return Cascade(bundle.load(model), inference, Options(**options), device="cpu", threads=1, build=build)


def classified(folder: Path, model: Path, chosen: CascadeSettings, seen: Callable[[], None] = lambda: None, **options):
    engines: list[Shading] = []

    def built(spec: EngineSpec) -> Shading:
        engines.append(Shading(spec, 90, seen))
        return engines[-1]

    cascade = cascade_of(model, chosen, built, **options)
    tables = list(cascade.classify(references(folder), 8, Stopwatch()))
    return tables, engines


def test_close_rows_get_the_exact_answer_and_every_row_comes_once(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 60)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    tables, (first, second) = classified(folder, tiny_bundle, within(0.4, 0.4))
    rows = joined(tables).predictions.to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(map(str, folder.rglob("*.jpg")))
    assert {row["label"] for row in rows if row["status"] == "ok"} == {"ant", "bee"}, "never the fast pass's guess"
    close = sum(row["label"] == "bee" for row in rows)
    assert 0 < close < 60
    passes = joined(tables).passes
    assert (passes == 3).sum() == close
    assert (passes == 2).sum() == 0, "still close after float32"
    assert (first.images, second.images) == (61, 2 * close)
    assert [row["error_stage"] for row in rows if row["status"] == "error"] == ["decode"], "an error is not classified"


def test_a_file_that_changes_between_the_passes_keeps_the_answer_of_the_bytes_that_its_row_names(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = make_crops(tmp_path / "images", 4, seed=3)
    for path in folder.iterdir():
        path.write_bytes((folder / "000000.jpg").read_bytes())
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def change() -> None:
        (folder / "000001.jpg").write_bytes(before[folder / "000000.jpg"] + b"\0")
        (folder / "000002.jpg").unlink(missing_ok=True)

    def built(spec: EngineSpec) -> Shading:
        return Shading(spec, 256, change)

    cascade = cascade_of(tiny_bundle, within(0.4, 0.4), built)
    found = joined(list(cascade.classify(references(folder), 8, Stopwatch())))
    rows = found.predictions.to_pylist()
    assert {Path(row["path"]).name: passes for row, passes in zip(rows, found.passes, strict=True)} == {
        "000000.jpg": 3,
        "000001.jpg": 2,
        "000002.jpg": 2,
        "000003.jpg": 3,
    }
    assert len({row["content_hash"] for row in rows}) == 1
    assert {row["status"] for row in rows} == {"ok"}


def test_a_second_pass_that_a_transient_error_fails_leaves_the_first_answer(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 6)

    def batches(asked: pa.Table, decoder: ExactDecoder, size: int, watch: Stopwatch) -> Iterator[pa.Table]:
        for batch in image_batches(asked, decoder, size, watch):
            if decoder.name == "exact":  # as isolated decoding reports a child that the kernel killed
                stage = pa.array(["worker"] * batch.num_rows)
                batch = batch.set_column(batch.column_names.index("error_stage"), "error_stage", stage)
            yield batch

    cascade = cascade_of(tiny_bundle, within(0.4, 0.4), lambda spec: Shading(spec, 256))
    found = joined(list(cascade.classify(references(folder), 8, Stopwatch(), batches)))
    assert found.predictions["status"].to_pylist() == ["ok"] * 6
    assert (found.passes == 2).all()


def test_what_float32_settles_is_not_decoded_again(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 30)
    tables, (_, second) = classified(folder, tiny_bundle, within(0.4, 0.01))
    passes = joined(tables).passes
    assert 0 < (passes == 2).sum() == second.images < 30
    assert (passes == 1).sum() + (passes == 2).sum() == 30


def test_a_reduced_picture_has_margins_of_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    chosen = CascadeSettings(engine=EngineName.OPENVINO, first=FAST, reduced_size=Margins(dtype=0.5, decoding=0.3))
    batch = pa.table(
        {"width": [64, 4000, 4000, None], "height": [48, 3000, 3000, None], "format": ["JPEG"] * 2 + ["PNG", None]}
    )
    dtype, decoding = chosen.margins(batch, FastDecoder(bundle.load(tiny_bundle).preprocessing, 10**9))
    assert dtype.tolist() == [0, 0.5, 0, 0]
    assert decoding.tolist() == [0, 0.3, 0, 0], "a PNG is decoded exactly at once"


def test_near_the_threshold_of_abstention_is_close_too(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 20)
    light = float(np.exp(5) / (np.exp(5) + 4))
    tables, _ = classified(folder, tiny_bundle, within(0.4, 0), abstain_below=light)
    assert (joined(tables).passes == 2).all()


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_which_images_take_the_second_pass_does_not_depend_on_the_temperature(
    temperature: float, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = make_crops(tmp_path / "images", 30)
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "temperature": temperature}))
    expected, found = (joined(classified(folder, model, within(0.4, 0.4))[0]) for model in (tiny_bundle, other))
    assert 0 < (expected.passes == 3).sum() < 30
    assert found.passes.tolist() == expected.passes.tolist()
    assert found.predictions["label"].equals(expected.predictions["label"])
    assert not found.predictions["confidence"].equals(expected.predictions["confidence"])


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_without_auto_there_is_one_pass(precision: str, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 10)
    chosen = cascade_settings(Options(precision=precision), EngineName.OPENVINO, "cpu")
    tables, engines = classified(folder, tiny_bundle, chosen)
    assert len(engines) == 1
    assert (joined(tables).passes == 1).all()
    assert (chosen.first == EXACT) == (precision == "exact")


def test_the_dtype_of_the_first_pass_is_one_that_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(device: str, flags: str) -> str:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : fpu avx2 {flags} sse4_2")
        return cascade_settings(Options(), EngineName.TORCH, device).first.dtype

    assert first("cuda", "") == "float16"
    assert first("cpu", "") == "float32"
    assert first("cpu", "avx512_bf16_like") == "float32", "a flag is a whole word"
    assert first("cpu", "amx_bf16") == first("cpu", "avx512_bf16") == first("cpu", "bf16") == "bfloat16"
