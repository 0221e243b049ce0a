"""Uploads that nobody ended are ended by `clean`, those of this output only."""

import secrets

import pytest

from pipeline import object_keys, object_writing, unfinished_uploads
from pipeline.errors import RunError
from tests.s3 import READER, S3Server


def begin(key: str) -> str:
    client = object_keys.client()
    upload: str = client.create_multipart_upload(Bucket="uploads", Key=key)["UploadId"]
    client.upload_part(Bucket="uploads", Key=key, UploadId=upload, PartNumber=1, Body=b"x")
    return key


def unfinished() -> set[str]:
    return {each["Key"] for each in object_keys.client().list_multipart_uploads(Bucket="uploads").get("Uploads", ())}


def test_those_below_a_prefix_are_ended(s3: S3Server) -> None:
    s3.bucket("uploads")
    name = secrets.token_hex(4)
    for number in range(3):
        begin(f"{name}/predictions/model=a b/run=r{number}/part-00000.parquet")
    others = {begin(f"{name}/predictions2/part"), begin(f"{name}x/part")}
    object_writing.put(f"s3://uploads/{name}/predictions/there", b"whole")
    assert unfinished_uploads.abort_below(f"s3://uploads/{name}/predictions", 60.0) == 3
    assert unfinished() == others
    assert unfinished_uploads.abort_below(f"s3://uploads/{name}/predictions", 60.0) == 0
    assert object_writing.get(f"s3://uploads/{name}/predictions/there") == b"whole"


def test_who_may_not_is_told(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.bucket("uploads")
    begin("denied/predictions/part")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    with pytest.raises(RunError, match="Cannot end the unfinished uploads below s3://uploads/denied"):
        unfinished_uploads.abort_below("s3://uploads/denied/predictions", 60.0)


@pytest.mark.parametrize("prefix", ["gs://bucket/out/predictions", "az://container/out/predictions"])
def test_other_stores_end_them_by_themselves(prefix: str) -> None:
    assert unfinished_uploads.abort_below(prefix, 0.0) == 0
