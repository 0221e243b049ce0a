"""A disk or a mount that fails while images are read: no row says so, and the same command has all rows later."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.scripting import ScriptedFault
from tests.processes import shardseer
from tests.running import rows

pytestmark = pytest.mark.faults
NUMBER = 70


@pytest.mark.parametrize(
    ("error", "workers", "said"),
    [
        ("EIO", "inline", "Input/output error"),
        ("ESTALE", "inline", "Stale file handle"),
        ("ENOTCONN", "ray", "Transport endpoint is not connected"),
    ],
)
def test_a_disk_that_fails_ends_the_run_and_no_row(
    error: str, workers: str, said: str, crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(NUMBER), tmp_path / "out"
    fault = ScriptedFault(tmp_path, call="os.open", match="000030.jpg", when="before", action=error)
    command = ("classify", images, "-o", output, "-m", tiny_bundle, "--workers", workers, "--source-patience", 0)
    failed = shardseer(*command, **fault.environment)
    assert fault.reached() and failed.returncode == 1, failed.stderr
    (sentence,) = (line for line in failed.stderr.splitlines() if "failed 3 times" in line)
    assert said in sentence and "continue with the same command" in sentence
    assert not list(output.glob("predictions/**/*.parquet"))
    done = shardseer(*command)
    assert done.returncode == 0, done.stderr
    found = rows(output)
    assert len(found) == NUMBER and "error" not in {label for _, label in found}


def test_a_disk_that_fails_for_a_moment_is_waited_for(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(NUMBER), tmp_path / "out"
    fault = ScriptedFault(tmp_path, call="os.open", match="000030.jpg", when="before", action="EIO", times=3)
    done = shardseer("classify", images, "-o", output, "-m", tiny_bundle, "--workers", "ray", **fault.environment)
    assert done.returncode == 0, done.stderr
    found = rows(output)
    assert len(fault.reached()) == 3
    assert len(found) == NUMBER and "error" not in {label for _, label in found}
