"""What obstore cannot do is asked in the same region as all else."""

import pytest

from pipeline import object_keys


@pytest.mark.parametrize(
    ("region", "default", "asked"),
    [("eu-west-3", "", "eu-west-3"), ("", "eu-west-1", "eu-west-1"), ("eu-west-3", "eu-west-1", "eu-west-3")],
)
def test_the_region_is_the_one_that_obstore_takes(
    region: str, default: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in {"AWS_REGION": region, "AWS_DEFAULT_REGION": default}.items():
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    assert object_keys.client().meta.region_name == asked
