"""What is no image, or only part of one, is an error of decoding; a file is known by the hash of its bytes."""

import hashlib
import resource
import subprocess
import sys

import pytest

from pipeline.errors import ImageError
from pipeline.images import decoding
from tests.pipeline.images.pictures import SAME, decoded, quarters, refused, stored, waves

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::DeprecationWarning:PIL")


def test_empty() -> None:
    assert refused(b"") == "the file is empty"


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBP",
        b"\0" * 4096,
        bytes(range(256)) * 20,
    ],
)
def test_what_is_no_image(data: bytes) -> None:
    assert refused(data)


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "DDS", "ICNS", "IM", "MSP", "XBM"])
def test_parsers_that_are_not_on_the_list_do_not_run(form: str) -> None:
    mode = {"MSP": "1", "XBM": "1"}.get(form, "RGB")
    assert "not an image in a format that is read" in refused(stored(quarters(32).convert(mode), form))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_truncated_anywhere_is_an_error_or_a_whole_picture(form: str) -> None:
    data = stored(waves(), form)
    for tenth in range(10):
        try:
            assert decoded(data[: len(data) * tenth // 10]).shape == SAME.shape
        except ImageError as error:
            assert error.stage == "decode"
    refused(data[: len(data) // 2])


def test_lack_of_memory_is_told_with_the_bound() -> None:
    assert decoding.decode_cause(MemoryError()) == "needed more than there is of memory"
    code = (
        "import resource; from pipeline.images import decoding;"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); print(decoding.decode_cause(MemoryError()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "needed more than 3.0 GiB of memory"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_the_hash_is_of_the_file() -> None:
    assert decoding.content_hash(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
