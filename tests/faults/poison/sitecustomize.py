"""Put on PYTHONPATH by tests: JPEGs with a magic comment make Pillow's decoder misbehave as broken native code does."""

import ctypes
import os
import signal
import sys

SWOLLEN = 6 << 30  # bytes at which the "kernel" takes a process that nothing else bounds


def _abort() -> None:
    ctypes.CDLL(None).abort()


def _loop() -> None:
    while True:
        ctypes.PyDLL(None).pause()  # PyDLL keeps the GIL: no other Python thread runs, ever


def _swell() -> None:
    import numpy as np

    held = []
    while 256 * len(held) << 20 < SWOLLEN:
        held.append(np.empty(256 << 20, dtype=np.uint8))  # asked for, not touched: this machine shall live
    os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does where memory runs out


FAULTS = {b"poison: abort": _abort, b"poison: loop": _loop, b"poison: swell": _swell}


def _arm() -> None:
    from PIL import JpegImagePlugin

    load = JpegImagePlugin.JpegImageFile.load

    def poisoned(self):
        fault = FAULTS.get(self.info.get("comment"))
        if fault is not None:
            fault()
        return load(self)

    JpegImagePlugin.JpegImageFile.load = poisoned


class _Finder:
    """Arms the decoder when Pillow's plugin is imported: most processes never pay for it."""

    def find_spec(self, name, path=None, target=None):
        if name == "pipeline.decoding":
            sys.meta_path.remove(self)
            _arm()
        return None


sys.meta_path.insert(0, _Finder())
