"""What a user calls an output → its place: a folder, or a prefix of an object store in one spelling without secrets."""

import re
from pathlib import Path

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.place import Place
from pipeline.uris import SAME, STORES, canonical, why_no_uri

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/]*)(.*)", re.DOTALL)


def output_named(name: str) -> Place:
    """The place of this name; a local one as it is spelt. Raises `RequestError` for one that can be no output."""
    found = None if name.startswith(("/", "file://")) else _URI.fullmatch(name)
    if found is None:
        if (why := why_no_uri(name)) is not None:
            raise RequestError(f"The output {why}.")
        return Path((storage.local_path(name) or "") if name.startswith("file://") else name)
    scheme, bucket, key = SAME.get(found[1].lower(), found[1].lower()), found[2], found[3].strip("/")
    if scheme not in STORES:
        where = ", ".join(f"{each}://" for each in STORES)
        raise RequestError(f"{scheme}:// is no place for an output: choose a folder, or a store ({where}).")
    if (shown := canonical(name)).partition("://")[2] != found[2] + found[3]:
        raise RequestError(
            f"The output {shown} was given with a user name or password: leave them out, and put the credentials "
            "into the environment."
        )
    if not bucket:
        raise RequestError(f"The output {name} has no bucket: write {scheme}://BUCKET/PREFIX.")
    if key and not all(_is_plain(segment) for segment in key.split("/")):
        raise RequestError(
            f"The output {scheme}://{bucket}/{key} has an empty or special name in it (//, ., .., a control "
            "character), which object stores do not take. Choose another prefix."
        )
    return f"{scheme}://{bucket}/{key}" if key else f"{scheme}://{bucket}"


def _is_plain(segment: str) -> bool:
    return segment not in ("", ".", "..") and segment.isprintable()
