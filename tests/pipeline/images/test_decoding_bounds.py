"""Decoding is bounded: pixels by the header, memory whatever the shape."""

import subprocess
import sys

import pytest
from PIL import Image

from tests.pipeline.images.pictures import SAME, decoded, refused, stored, waves

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::DeprecationWarning:PIL")


def test_the_pixel_cap_is_read_from_the_header_before_anything_is_decoded(monkeypatch) -> None:
    data = stored(Image.new("1", (20_000, 20_000)), "PNG")  # 400 Mpx in 50 KB
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", lambda self: pytest.fail("decoded"))
    assert refused(data, limit=100_000_000) == "20000×20000 pixels are more than the 100000000 allowed (--max-pixels)"


def test_the_cap_itself_is_allowed() -> None:
    data = stored(waves(100, 50), "PNG")
    assert decoded(data, limit=5000).shape == SAME.shape
    assert "100×50" in refused(data, limit=4999)


MEASURED = """
import io, resource, sys
import numpy as np
from PIL import Image
from pipeline.images import decoding
from pipeline.images.preprocessing import Preprocessing
model = Preprocessing(channels=3, height=224, width=224, crop_pct=0.875, interpolation="bicubic", mean=(0,), std=(1,))
buffer = io.BytesIO()
Image.new(MODE, SIZE).save(buffer, FORM)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decoding.decode(decoding.open_image(buffer.getvalue()), model, 100_000_000).shape == (224, 224, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def grown(mode: str, size: tuple[int, int], form: str) -> int:
    """MiB that decoding a picture adds to the peak of a process of its own."""
    code = MEASURED.replace("MODE", repr(mode)).replace("SIZE", repr(size)).replace("FORM", repr(form))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) // 1024


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 1_000_000)])
def test_a_thin_picture_takes_little_memory(size: tuple[int, int]) -> None:
    """Scaled to a short side of 256 as the textbook says, these would have 4 to 30 gigapixels."""
    assert grown("RGB", size, "PNG") < 64


def test_deep_grey_takes_bounded_memory() -> None:
    assert grown("F", (4000, 4000), "TIFF") < 16 * 4000 * 4000 >> 20
