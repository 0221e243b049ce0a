"""What changes the rows of a model makes another model of it: what the earlier one answered is not known."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.model import fingerprint
from tests.running import classify

Crops = Callable[..., Path]


def test_other_settings_that_change_rows_classify_everything_anew(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(4), tmp_path / "out"
    models = set()
    for options in ({}, {"top_k": 2}, {"abstain_below": 0.9}, {"embeddings": True}, {"max_pixels": 5000}):
        summary = classify(images, output, tiny_bundle, **options)
        assert summary is not None and summary.rows == 4
        models.add(summary.model)
    assert len(models) == 5
    assert classify(images, output, tiny_bundle, engine="torch") is None, "engines are recorded, not keyed"


def test_what_was_decoded_otherwise_is_classified_anew(
    crops: Crops, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output = crops(3), tmp_path / "out"
    with monkeypatch.context() as before:
        before.setattr(fingerprint, "PIXELS", fingerprint.PIXELS - 1)
        assert classify(images, output, tiny_bundle).rows == 3
        assert classify(images, output, tiny_bundle) is None
    assert classify(images, output, tiny_bundle).rows == 3
    assert classify(images, output, tiny_bundle) is None


def test_the_versions_of_what_reads_and_decodes_are_recorded() -> None:
    assert {"pillow", "pi-heif", "obstore"} <= fingerprint.versions().keys()
