"""Keys that the library obstore refuses, with the whole listing they are in: `a//b`, `.`, `..`, control characters.

In S3 a key is any text, so such prefixes are listed by botocore, whatever they hold.
"""

import os
from collections.abc import Iterator
from typing import Any

from pipeline.errors import RunError
from pipeline.object_store import Found, parts

REFUSAL = "the key has an empty part, `.`, `..` or a control character, and cannot be read: rename the object"


def is_refusal(error: Exception) -> bool:
    """Whether obstore refuses a key, not the store."""
    return type(error).__name__ == "InvalidPathError" or str(error).startswith("Could not parse path")


def is_refused(uri: str) -> bool:
    """Whether obstore refuses the key of an object."""
    _, key = parts(uri)
    segments = key.split("/")
    return any(each in ("", ".", "..") or any(ord(char) < 0x20 or char == "\x7f" for char in each) for each in segments)


def can_list(uri: str) -> bool:
    """Whether prefixes with such keys can be listed in the store of a URI."""
    return uri.startswith("s3://")


def listed(root: str, after: str | None) -> Iterator[Found]:
    """Stream every object below an S3 prefix, or those that come after one; keys of folder markers end with a slash."""
    bucket, prefix = parts(root)
    start = {} if after is None else {"StartAfter": parts(after)[1]}
    pages = client().get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=bucket.removeprefix("s3://"), Prefix=prefix and f"{prefix}/", **start):
        for item in page.get("Contents", ()):
            yield Found.of(f"{bucket}/{item['Key']}", item["Size"], item["LastModified"], item.get("ETag"))


def readable(root: str, after: str | None) -> Iterator[Found]:
    """As `listed`, without those that obstore refuses. Raises `RunError` where the store cannot be listed so."""
    if not can_list(root):
        raise RunError(f"Cannot list {root}: of one object, {REFUSAL}.")
    return (found for found in listed(root, after) if not is_refused(found.uri))


def client() -> Any:
    """A client of S3 with what the environment says, for what obstore cannot do."""
    import botocore
    import botocore.session
    from botocore.config import Config

    unsigned = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
    settings = Config(signature_version=botocore.UNSIGNED) if unsigned else None
    region = os.environ.get("AWS_REGION") or None  # obstore reads it first, botocore AWS_DEFAULT_REGION alone
    return botocore.session.get_session().create_client("s3", region_name=region, config=settings)
