"""Uploads to S3 that were begun and never ended: killed processes leave them, in no listing, and they cost their bytes.

obstore can neither list nor end them; botocore can. Azure drops such pieces after a week by itself; GCS has a rule for
it, as S3 has.
"""

import errno
from collections.abc import Iterator
from typing import Any

from pipeline import object_keys
from pipeline.object_store import parts
from pipeline.object_writing import patiently
from pipeline.store_errors import StoreFailureError

MISSING = ("NoSuchUpload", "404")  # ended meanwhile


def abort_below(prefix: str, patience: float) -> int:
    """Abort the uploads to objects below an S3 prefix, of which nobody may be writing one; how many there were.

    None in other stores. Raises `RunError` where the store does not let us.
    """
    if not object_keys.can_list(prefix):
        return 0
    return patiently(lambda: _abort(prefix), f"end the unfinished uploads below {prefix}", patience)


def _abort(prefix: str) -> int:
    from botocore.exceptions import BotoCoreError, ClientError

    client, bucket = object_keys.client(), parts(prefix)[0].removeprefix("s3://")
    number = 0
    try:
        for upload in list(_unfinished(client, bucket, parts(prefix)[1])):
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            number += 1
    except ClientError as error:
        status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
        code = str(error.response["Error"].get("Code", status))
        if code in MISSING or status >= 500 or status == 429:
            raise StoreFailureError(errno.EAGAIN, f"the store answers {code}") from None
        raise PermissionError(errno.EACCES, f"the store refuses it ({code})") from None
    except BotoCoreError as error:
        raise StoreFailureError(errno.EAGAIN, f"the store does not answer ({type(error).__name__})") from None
    return number


def _unfinished(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, str]]:
    pages = client.get_paginator("list_multipart_uploads")
    for page in pages.paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        yield from page.get("Uploads", ())
