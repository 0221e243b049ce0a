"""Labelled images, read: what is left out in words, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PpmImagePlugin

from pipeline.errors import ImageError, RequestError
from pipeline.training import examples, labelled
from tests.pipeline.images.pictures import stored

MAX_PIXELS = 10_000


def save(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def test_unreadable_and_repeated_images_are_left_out_in_words(tmp_path: Path):
    first = save(tmp_path / "a" / "1.png", 1)
    shutil.copy(first, tmp_path / "a" / "copy.png")
    save(tmp_path / "b" / "2.png", 2)
    (tmp_path / "b" / "broken.png").write_bytes(b"<html>")
    Image.new("L", (200, 200)).save(tmp_path / "b" / "large.png")
    images = examples.read(labelled.listed(str(tmp_path)), MAX_PIXELS)
    assert [Path(each.path).name for each in images.examples] == ["1.png", "2.png"]
    assert {Path(path).name for path, _ in images.unreadable} == {"broken.png", "large.png"}
    remarks = " ".join(images.remarks)
    assert "2 of 5 images cannot be read" in remarks
    assert "not an image in a format that is read" in remarks
    assert "the same content is there more than once: 1 image." in remarks


def test_equal_bytes_with_two_labels_are_refused(tmp_path: Path):
    first = save(tmp_path / "cat" / "1.png", 1)
    (tmp_path / "dog").mkdir()
    shutil.copy(first, tmp_path / "dog" / "2.png")
    with pytest.raises(RequestError, match=r"same bytes have more than one label: .*1.png \(cat\) = .*2.png \(dog\)"):
        examples.read(labelled.listed(str(tmp_path)), MAX_PIXELS)


def test_images_are_examined_as_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pillow alone scales a PGM sample by sample in Python: seconds for a megapixel."""
    monkeypatch.delattr(PpmImagePlugin.PpmDecoder, "decode")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "deep.pgm").write_bytes(b"P5 20 10 4095\n" + np.zeros(200, ">u2").tobytes())
    (example,) = examples.read(labelled.listed(str(tmp_path)), MAX_PIXELS).examples
    assert (example.width, example.height, example.grey) == (20, 10, True)


def test_too_many_pixels_are_one_sentence_everywhere(tmp_path: Path):
    save(tmp_path / "a" / "1.png", 1)
    path = str(tmp_path / "b" / "2.png")
    save(Path(path), 2).write_bytes(stored(Image.new("L", (200, 200)), "PNG"))
    sentence = "200×200 pixels are more than the 10000 allowed (--max-pixels)"
    assert examples.read(labelled.listed(str(tmp_path)), MAX_PIXELS).unreadable == ((path, sentence),)
    with pytest.raises(ImageError, match=re.escape(sentence)):
        examples.picture(path, "RGB", MAX_PIXELS)
