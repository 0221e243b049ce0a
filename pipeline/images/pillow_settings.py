"""Pillow's process-wide settings, ours only while an image is decoded.

Pillow warns of, and refuses, images by a pixel count of its own; here the cap is `max_pixels`, checked on the header
before any pixel is decoded. That is a setting of the whole process, which may be a user's: it is changed when the first
of several threads begins to decode, and put back by the last. Remarks on corrupt EXIF, which come for every image, are
left out in processes of our own only, where they start.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.Lock()
_depth = 0
_before: int | None = None


@contextmanager
def decoding_settings() -> Iterator[None]:
    """Without Pillow's own pixel limit; may be entered by several threads, and again."""
    global _depth, _before
    with _lock:
        _depth += 1
        if _depth == 1:
            _before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                Image.MAX_IMAGE_PIXELS = _before


def ignore_remarks() -> None:
    """Leave out Pillow's warnings, of corrupt EXIF above all. For processes of our own, once, where they start."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
