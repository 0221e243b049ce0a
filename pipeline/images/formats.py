"""Formats that are read only where something is installed, by their suffixes, and what that is."""

from functools import cache

from PIL import features

from pipeline.images import heif

PILLOW_FEATURES = {".avif": "avif", ".webp": "webp", ".jp2": "jpg_2000", ".j2k": "jpg_2000"}


@cache
def missing(suffix: str) -> str | None:
    """What to install to read files with this suffix (lower case, with its dot); None where nothing is missing."""
    if suffix in heif.SUFFIXES and not heif.is_installed():
        return heif.INSTALL
    feature = PILLOW_FEATURES.get(suffix)
    if feature is not None and not features.check(feature):
        return "pip install --force-reinstall pillow"
    return None
