"""PGM and PPM of any maxval have the pixels that Pillow would give them, sample by sample."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.images import portable_maps
from pipeline.images.decoding import open_image
from tests.pipeline.images.pictures import refused


@pytest.mark.parametrize("maxval", [1, 7, 100, 254, 255, 256, 1000, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize(("magic", "bands"), [(b"P5", 1), (b"P6", 3)])
def test_any_maxval(magic: bytes, bands: int, maxval: int) -> None:
    dtype = ">u2" if maxval > 255 else np.uint8
    values = np.random.default_rng(0).integers(0, min(maxval + 3, np.iinfo(dtype).max), 20 * 30 * bands)
    data = magic + b" 20 30\n# words\n%d\n" % maxval + values.astype(dtype).tobytes()
    ours = open_image(data)
    portable_maps.scale(ours)
    assert np.array_equal(ours, Image.open(io.BytesIO(data)))


def test_a_truncated_one_is_refused() -> None:
    assert refused(b"P5 20 30 4095\n" + b"\0\1" * 599)
    assert refused(b"P6 20 30 100\n" + b"\0" * 1799)
