"""Pillow's process-wide settings are a user's own, except while an image is decoded."""

import io
import subprocess
import sys
import threading
import warnings

import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.decoding import open_image
from pipeline.images.pillow_settings import decoding_settings


def test_importing_everything_leaves_the_settings_alone() -> None:
    code = """
import warnings
from PIL import Image

def settings():
    return Image.MAX_IMAGE_PIXELS, [each for each in warnings.filters if each[3] and "PIL" in str(each[3])]

before = settings()
import flows.cli, flows.classify, pipeline.training.phases, pipeline.explain.explaining, workers.ray_executor
assert settings() == before, settings()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_users_limit_holds_for_the_user_and_not_for_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_image(png(50)).size == (50, 50)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(png(50)))


def test_settings_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    filters = list(warnings.filters)
    with pytest.raises(ImageError):
        open_image(b"no image")
    with pytest.raises(KeyError), decoding_settings(), decoding_settings():
        assert Image.MAX_IMAGE_PIXELS is None
        raise KeyError
    assert Image.MAX_IMAGE_PIXELS == 12345
    assert warnings.filters == filters


def test_the_last_of_several_threads_puts_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    inside, leave = threading.Event(), threading.Event()

    def decode() -> None:
        with decoding_settings():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=decode)
    thread.start()
    assert inside.wait(30)
    with decoding_settings():
        pass
    assert Image.MAX_IMAGE_PIXELS is None, "the other thread still decodes"
    leave.set()
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == 12345


def test_a_warning_that_was_shown_once_is_not_shown_again_for_every_image() -> None:
    code = """
import io, warnings
from PIL import Image
from pipeline.images.decoding import open_image

buffer = io.BytesIO()
Image.new("L", (8, 8)).save(buffer, "PNG")
for _ in range(3):
    open_image(buffer.getvalue())
    warnings.warn("the user's own")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.count("the user's own") == 1
