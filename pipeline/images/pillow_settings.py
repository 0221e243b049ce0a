"""Pillow's process-wide settings, ours only while an image is decoded.

Pillow warns of, and refuses, images by a pixel count of its own; here the cap is `max_pixels`, checked on the header
before any pixel is decoded. And it warns of corrupt EXIF, for every image. Both are settings of the whole process,
which may be a user's: they are changed when the first of several threads begins to decode, and put back by the last.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

_lock = threading.Lock()
_depth = 0
_before: tuple[int | None, Any] = (None, None)


@contextmanager
def decoding_settings() -> Iterator[None]:
    """Without Pillow's own pixel limit and its remarks on EXIF; may be entered by several threads, and again."""
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _begin()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _end()


def _begin() -> None:
    global _before
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    _before = Image.MAX_IMAGE_PIXELS, warnings.filters[0]
    Image.MAX_IMAGE_PIXELS = None


def _end() -> None:
    Image.MAX_IMAGE_PIXELS, ours = _before
    if ours in warnings.filters:  # someone else may have reset them
        warnings.filters.remove(ours)  # type: ignore[attr-defined]
