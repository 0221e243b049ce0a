"""A TIFF's samples are read as meant in every byte order, compressed or not, in tiles, strips and planes."""

import io

import numpy as np
import pytest
import tifffile

from tests.pipeline.images.deep import COLOURS, GREY, held, seen, shown

STORED = [{}, {"tile": (16, 16)}, {"rowsperstrip": 7}]


def written(values: np.ndarray, **settings: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("order", "dtype", "white"),
    [
        *((order, dtype, white) for order in "<>" for dtype, white in (("u2", 255), ("u2", 65535), ("i2", 4095))),
        *((order, dtype, white) for order in "<>" for dtype, white in (("i4", 65535), ("f4", 1), ("f4", 255))),
        ("<", "u4", 255),
    ],
)
def test_grey(order: str, dtype: str, white: float, compression: str | None, stored: dict) -> None:
    data = written(held(dtype, white), byteorder=order, compression=compression, **stored)
    assert np.abs(shown(data)[0] - GREY).max() < 0.02


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colours(dtype: str, planes: str, order: str, compression: str | None) -> None:
    values = (COLOURS * np.iinfo(dtype).max).astype(dtype)
    data = written(
        np.moveaxis(values, -1, 0) if planes == "separate" else values,
        photometric="rgb",
        planarconfig=planes,
        byteorder=order,
        compression=compression,
    )
    assert np.abs(seen(data)[0] - COLOURS).max() < 0.02
