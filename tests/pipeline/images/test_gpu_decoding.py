"""JPEGs left to a GPU, with the CPU in its place: the same pixels, the same errors, the same rows."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchcodec.decoders import decode_jpeg

from pipeline import schema
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.images import nvjpeg
from pipeline.images.batching import DECODING_TIMES, batch_size, finishing, image_batches
from pipeline.images.decoders import DECODERS
from pipeline.images.fast_decoding import FastDecoder
from pipeline.images.gpu_decoding import COMPRESSED, GpuDecoder, check, check_device
from pipeline.images.isolating import IsolatedDecoding
from pipeline.images.nvjpeg import EXIF
from pipeline.images.prefetching import DecodingThreads
from pipeline.job import Options
from pipeline.timing import Stopwatch
from tests.pipeline.images.jpegs import GREY, RGB, jpeg, photograph


def references(folder: Path) -> pa.Table:
    rows = [
        {"path": str(path), "size_bytes": path.stat().st_size, "modified_at": 0} for path in sorted(folder.iterdir())
    ]
    return pa.Table.from_pylist(rows, schema.LISTING)


def batch_of(folder: Path, name: str, batches=image_batches, watch: Stopwatch | None = None, model=RGB) -> pa.Table:
    (batch,) = batches(references(folder), DECODERS[name](model, 10**7), 64, watch or Stopwatch())
    return batch


def pixels(batch: pa.Table) -> np.ndarray:
    (images,) = batch["image"].chunks
    return images.to_numpy_ndarray().astype(int)


@pytest.mark.parametrize("model", [RGB, GREY])
def test_the_device_gives_the_exact_pixels_but_for_rounding(model, tmp_path: Path) -> None:
    mode = "L" if model is GREY else "RGB"
    for orientation in range(1, 9):
        for width, height in ((150, 100), (801, 603), (99, 1333), (40, 30)):
            data = jpeg(photograph((width, height), mode), orientation)
            (tmp_path / f"{width}-{orientation}.jpg").write_bytes(data)
    left = batch_of(tmp_path, "gpu", model=model)
    assert left[COMPRESSED].is_valid().to_numpy().sum() == 16, "neither slivers nor tiny pictures"
    watch = Stopwatch()
    found = batch_of(tmp_path, "gpu", finishing(image_batches, "cpu"), watch, model)
    exact = batch_of(tmp_path, "exact", model=model)
    assert found.schema.equals(exact.schema)
    assert found.drop_columns(["image"]).equals(exact.drop_columns(["image"]))
    assert np.abs(pixels(found) - pixels(exact)).mean() < 0.5
    assert np.abs(pixels(found) - pixels(exact)).max() <= 8
    assert watch.seconds["decode"] > 0


def test_what_the_device_cannot_do_ends_as_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photograph((300, 200)))
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "garbage inside.jpg").write_bytes(data[:400] + b"\0" * 3000 + data[-2:])
    (tmp_path / "no image.jpg").write_text("no image")
    (tmp_path / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "z.jpg").write_bytes(data)
    photograph((300, 200)).save(tmp_path / "b.png")
    photograph((300, 200), "CMYK").save(tmp_path / "c.jpg")
    photograph((4000, 3000)).save(tmp_path / "large.jpg")
    monkeypatch.setattr(nvjpeg, "PIXELS_AT_ONCE", 100_000)
    found, fast = batch_of(tmp_path, "gpu", finishing(image_batches, "cpu")), batch_of(tmp_path, "fast")
    assert found.drop_columns(["image"]).equals(fast.drop_columns(["image"]))
    assert fast["error_stage"].null_count == 4, "a, b, c and z"
    assert np.abs(pixels(found) - pixels(fast)).mean() < 0.5
    failed = found["error_stage"].is_valid().to_numpy()
    assert (pixels(found)[failed] == 0).all()


def failing(sources: list[bytes], **_: object) -> list[torch.Tensor]:
    raise RuntimeError("nvJPEG is not there")


def blank(sources: list[bytes], **how: str) -> list[torch.Tensor]:
    return [torch.zeros_like(picture) for picture in decode_jpeg(sources, **how)]


def shifted(sources: list[bytes], **how: str) -> list[torch.Tensor]:
    return [decode_jpeg(sources, **how)[place - 1] for place in range(len(sources))]


def recoloured(sources: list[bytes], **how: str) -> list[torch.Tensor]:
    """Other colours of the same luma."""
    shift = torch.tensor([0.587, -0.299, 0])[:, None, None] * 60
    return [(picture + shift).clamp(0, 255).to(torch.uint8) for picture in decode_jpeg(sources, **how)]


@pytest.mark.parametrize("fault", [failing, blank, shifted, recoloured])
def test_what_a_device_gets_wrong_the_cpu_decodes_and_the_log_says_so(
    fault: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        grey = Image.new("RGB", (150, 100), (8 * number,) * 3)
        grey.paste(photograph((60, 50)), (20, 30))
        (tmp_path / f"{number:02}.jpg").write_bytes(jpeg(grey))
    monkeypatch.setattr("torchcodec.decoders.decode_jpeg", fault)
    found = batch_of(tmp_path, "gpu", finishing(image_batches, "cpu"))
    fast = batch_of(tmp_path, "fast")
    assert found.drop_columns(["image"]).equals(fast.drop_columns(["image"]))
    alike = np.abs(pixels(found) - pixels(fast)).mean(axis=(1, 2, 3)) < (0.001 if fault is failing else 8)
    assert alike.all()
    assert "CPU decoded" in caplog.text or "nvJPEG is not there" in caplog.text


def test_a_jpeg_that_the_device_skips_is_not_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photographs that look alike at a few pixels; memory is handed out again as it was left."""
    first = np.full((96, 96, 3), 128, dtype=np.uint8)
    second = first.copy()
    first[::8, :, 1] += 40
    second[:, ::8, 1] += 40
    for name, picture in (("a", first), ("b", second)):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(Image.fromarray(picture)))
    memory: list[torch.Tensor] = []

    def skipping(sources: list[bytes], **how: str) -> list[torch.Tensor]:
        memory.extend([] if memory else decode_jpeg(sources, **how))
        return memory[:]

    monkeypatch.setattr(nvjpeg, "PIXELS_AT_ONCE", 1)
    monkeypatch.setattr("torchcodec.decoders.decode_jpeg", skipping)
    found, fast = batch_of(tmp_path, "gpu", finishing(image_batches, "cpu")), batch_of(tmp_path, "fast")
    assert np.abs(pixels(fast)[0] - pixels(fast)[1]).mean() > 4
    assert (np.abs(pixels(found) - pixels(fast)).mean(axis=(1, 2, 3)) < 1).all()


def test_every_exif_is_hidden(tmp_path: Path) -> None:
    data = jpeg(photograph((150, 100)), 6)
    (segment,) = EXIF.findall(data)
    start = data.index(segment)
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    (tmp_path / "a.jpg").write_bytes(data[:start] + data[start:end] * 2 + data[end:])
    found = batch_of(tmp_path, "gpu", finishing(image_batches, "cpu"))
    assert np.abs(pixels(found) - pixels(batch_of(tmp_path, "exact"))).mean() < 0.5


def test_isolated_images_are_not_left_to_the_device(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(photograph((150, 100))))
    decoder = IsolatedDecoding(Events(), seconds=20, max_pixels=10**7)
    try:
        found = batch_of(tmp_path, "gpu", decoder.batches)
    finally:
        decoder.close()
    assert found.equals(batch_of(tmp_path, "fast"))


def test_files_that_go_along_count_as_bytes() -> None:
    assert batch_size(FastDecoder(RGB, 1), on_gpu=True, file_bytes=5_000_000) == 256
    assert batch_size(GpuDecoder(RGB, 1), on_gpu=True, file_bytes=5_000_000) == 32, "of 53 that fit"


def test_threads_leave_jpegs_to_the_device_too(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.jpg").write_bytes(jpeg(photograph((150 + number, 100))))
    with DecodingThreads(2) as threads:
        found = batch_of(tmp_path, "gpu", finishing(threads.batches, "cpu"))
    assert (pixels(found) == pixels(batch_of(tmp_path, "gpu", finishing(image_batches, "cpu")))).all()
    assert "read" in json.loads(found.schema.metadata[DECODING_TIMES])["seconds"], "what the threads took"


def test_a_request_that_cannot_be_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Options(gpu_decoding=True)
    check(wanted, RGB)
    check(Options(device="cpu"), RGB)
    check_device(wanted, "cuda")
    with pytest.raises(RequestError, match="runs on CPUs here"):
        check_device(wanted, "cpu")
    with pytest.raises(RequestError, match="--precision exact"):
        check(Options(gpu_decoding=True, precision="exact"), RGB)
    with pytest.raises(RequestError, match="--device cpu"):
        check(Options(gpu_decoding=True, device="cpu"), RGB)
    with pytest.raises(RequestError, match="lanczos"):
        check(wanted, RGB.model_copy(update={"interpolation": "lanczos"}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"shardseer\[gpu\]"):
        check(wanted, RGB)
