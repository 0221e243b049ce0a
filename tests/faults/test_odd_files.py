"""2,000 odd files: every format and mode, truncated at every tenth, bits flipped. Each ends as one row."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, features

FILES = 2000
SUFFIX = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "PPM": "ppm"} | {
    "JPEG2000": "jp2",
    "MPO": "mpo",
    "AVIF": "avif",
}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
SETTINGS = (
    {},
    {"progressive": True},
    {"optimize": True, "interlace": 1},
    {"compression": "tiff_lzw"},
    {"compression": "jpeg"},
    {"lossless": True},
    {"save_all": True},
)


def pictures(random: np.random.Generator) -> dict[tuple[str, str, int], bytes]:
    """A small picture in every format, mode and setting that Pillow writes."""
    base = Image.fromarray(random.integers(0, 255, (5, 7, 3), dtype=np.uint8)).resize((43, 31))
    found = {}
    for form in SUFFIX:
        if form == "AVIF" and not features.check("avif"):
            continue
        for mode in MODES:
            picture = base.convert("L").convert(mode) if mode in ("I", "I;16", "F") else _in(base, mode)
            for number, settings in enumerate(SETTINGS):
                buffer = io.BytesIO()
                more = {"append_images": [picture.copy()]} if "save_all" in settings else {}
                try:
                    picture.save(buffer, form, **settings, **more)
                except (OSError, ValueError, KeyError, TypeError, RuntimeError):
                    continue
                found[form, mode, number] = buffer.getvalue()
    return found


def _in(base: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.merge("LAB", base.split())
    if mode == "PA":
        return base.convert("P").convert("PA")
    return base.convert(mode)


def huge_bmp() -> bytes:
    """A header that claims 2³¹−1 pixels in a row and two in a column."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2, 1, 24, 0, 0, 0, 0, 0, 0)


def huge_tiff() -> bytes:
    """A header that claims 2³²−1 pixels in a row, more than a column of Arrow's int32 can hold."""
    tags = [(256, 2**32 - 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)


def write_odd_files(folder: Path) -> None:
    random = np.random.default_rng(2026)
    sound = pictures(random)
    assert len({form for form, _, _ in sound}) == len(SUFFIX) - (not features.check("avif"))
    keys = sorted(sound)
    odd: list[tuple[str, bytes]] = [(SUFFIX[key[0]], sound[key]) for key in keys]
    plain = [min(key for key in keys if key[0] == form) for form in SUFFIX if any(key[0] == form for key in keys)]
    odd += [(SUFFIX[key[0]], sound[key][: len(sound[key]) * tenth // 10]) for key in plain for tenth in range(10)]
    odd += [("jpg", b""), ("png", b"<html>"), ("jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n"), ("gif", b"%PDF-1.7\n")]
    odd += [("ppm", b"P6 9999999999 1 255 "), ("bmp", huge_bmp()), ("tif", huge_tiff())]
    while len(odd) < FILES:
        form, mode, number = keys[random.integers(len(keys))]
        flipped = bytearray(sound[form, mode, number])
        for _ in range(int(random.integers(1, 9))):
            flipped[random.integers(len(flipped))] ^= 1 << int(random.integers(8))
        if random.random() < 0.3:
            del flipped[random.integers(len(flipped)) :]
        odd.append((SUFFIX[form], bytes(flipped)))
    for number, (suffix, data) in enumerate(odd[:FILES]):
        (folder / f"{number:04}.{suffix}").write_bytes(data)


def test_2000_odd_files_are_2000_rows(tmp_path) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_odd_files(images)
    assert len(list(images.iterdir())) == FILES
    command = [sys.executable, "-m", "flows.cli", "classify", images, "-o", output]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--workers", "inline", "--device", "cpu", "--max-pixels", "10000000", "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (summary,) = json.loads(done.stdout)["runs"]
    rows = [row for part in output.glob("predictions/*/*/*.parquet") for row in pq.read_table(part).to_pylist()]
    assert len(rows) == len({row["path"] for row in rows}) == summary["rows"] == FILES
    assert {Path(row["path"]).name for row in rows} == {path.name for path in images.iterdir()}
    statuses = Counter(row["status"] for row in rows)
    assert statuses["ok"] > FILES // 4
    assert statuses["error"] > FILES // 10
    for row in rows:
        assert (row["label"] is None) == (row["status"] == "error") == (row["error"] is not None)
        assert row["content_hash"] is not None
        assert row["error_stage"] in (None, "decode")
    assert summary["peak_memory_worker"] < 2 << 30
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 100
    assert "Warning" not in done.stderr
