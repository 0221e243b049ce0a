"""The device is the one that torch can use, whatever device files a GPU has; a GPU asked for is never replaced."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

FAKE_TORCH = """
import os
class cuda:
    is_available = staticmethod(lambda: os.environ["TORCH_HAS_GPU"] == "yes")
"""
ASK = """
import json, sys
from pathlib import Path
from pipeline.errors import RequestError
from pipeline.model import devices
devices.DEVICE_FILES = Path(sys.argv[1])
try:
    found = devices.device_for(sys.argv[2])
except RequestError as error:
    found = "refused"
print(json.dumps([found, "torch" in sys.modules]))
"""


def ask(folder: Path, asked: str, files: list[str], usable: bool, hidden: str | None = None) -> tuple[str, bool, str]:
    """The device, whether torch was imported for it, and what was said on stderr: in a process whose torch is ours."""
    (folder / "torch.py").write_text(FAKE_TORCH)
    dev = folder / "dev"
    dev.mkdir()
    for name in files:
        (dev / name).touch()
    environment = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "TORCH_HAS_GPU": "yes" if usable else "no"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if hidden is not None:
        environment["CUDA_VISIBLE_DEVICES"] = hidden
    command = [sys.executable, "-c", ASK, str(dev), asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    found, imported = json.loads(done.stdout)
    return found, imported, done.stderr


@pytest.mark.parametrize("file", ["nvidia0", "nvidia15", "dxg", "kfd", "nvmap"])  # NVIDIA, WSL2, ROCm, Tegra
def test_every_kind_of_gpu_is_asked_for(file: str, tmp_path: Path) -> None:
    assert ask(tmp_path, "auto", ["null", file], usable=True)[0] == "cuda"


def test_auto_says_that_it_passes_over_a_gpu(tmp_path: Path) -> None:
    found, _, said = ask(tmp_path, "auto", ["nvidia0"], usable=False)
    assert found == "cpu" and "GPU that torch cannot use" in said


def test_without_a_device_file_nobody_waits_for_torch(tmp_path: Path) -> None:
    assert ask(tmp_path, "auto", ["null"], usable=True) == ("cpu", False, "")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_the_user_hid_is_none(hidden: str, tmp_path: Path) -> None:
    assert ask(tmp_path, "auto", ["nvidia0"], usable=False, hidden=hidden) == ("cpu", False, "")


@pytest.mark.parametrize("files", [[], ["nvidia0"]])
@pytest.mark.parametrize(("usable", "found"), [(True, "cuda"), (False, "refused")])
def test_a_gpu_asked_for_is_there_for_torch_or_refused(
    usable: bool, found: str, files: list[str], tmp_path: Path
) -> None:
    assert ask(tmp_path, "cuda", files, usable=usable)[0] == found
