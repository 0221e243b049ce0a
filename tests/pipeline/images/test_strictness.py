"""With `--strict` a JPEG that libjpeg only warns of is an error; whatever is sound passes."""

import numpy as np
import pytest

from pipeline import storage
from pipeline.images.batching import image_row
from pipeline.images.decoding import ExactDecoder
from pipeline.timing import Stopwatch
from tests.pipeline.images.pictures import LIMIT, SAME, quarters, stored, waves

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::DeprecationWarning:PIL")


def row_of(path, strict: bool) -> dict:
    reference = {"path": str(path), "size_bytes": None, "modified_at": None, "list_error": None}
    return image_row(
        reference,
        ExactDecoder(SAME, LIMIT, strict),
        np.zeros(SAME.shape, np.uint8),
        Stopwatch(),
        lambda: storage.read(str(path)),
    )


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"keep_rgb": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_strict_takes_every_sound_jpeg(settings: dict, mode: str, tmp_path) -> None:
    if "keep_rgb" in settings and mode != "RGB":
        settings = {}
    file = tmp_path / "sound.jpg"
    file.write_bytes(stored(waves().convert(mode), "JPEG", **settings))
    assert "error" not in row_of(file, strict=True)


def test_strict_judges_the_first_picture_of_an_mpo_and_leaves_other_formats_alone(tmp_path) -> None:
    for form in ("MPO", "PNG", "GIF", "WEBP"):
        file = tmp_path / f"sound.{form}"
        several = {"save_all": True, "append_images": [quarters()]} if form == "MPO" else {}
        file.write_bytes(stored(waves(), form, **several))
        assert "error" not in row_of(file, strict=True), form


def test_strict_refuses_what_libjpeg_only_warns_of(tmp_path) -> None:
    """Of JPEGs with a flipped bit, which Pillow decodes to silent garbage, strict finds those that libjpeg notes."""
    data = stored(waves(400, 300), "JPEG", restart_marker_rows=1)
    scan = data.index(b"\xff\xda") + 14
    file, random = tmp_path / "flipped.jpg", np.random.default_rng(5)
    lenient = strict = 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[random.integers(scan, len(data) - 2)] ^= 1 << int(random.integers(8))
        file.write_bytes(flipped)
        if "error" in row_of(file, strict=False):
            continue
        lenient += 1
        refusal = row_of(file, strict=True)
        if "error" in refusal:
            strict += 1
            assert refusal["error_stage"] == "decode"
            assert refusal["error"].startswith("strict: ")
    assert lenient > 40
    assert strict > lenient // 3


def test_strict_refuses_garbage_between_the_markers(tmp_path) -> None:
    data = stored(waves(), "JPEG")
    file = tmp_path / "garbage.jpg"
    tables = data.index(b"\xff\xdb")
    file.write_bytes(data[:tables] + b"garbage" + data[tables:])
    assert "error" not in row_of(file, strict=False)
    assert "extraneous bytes" in row_of(file, strict=True)["error"]
