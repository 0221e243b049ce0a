"""The console script: which packages it runs, and what it says where others stand in their place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT


def shardseer(folder: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run the module `shardseer` in `folder`, with these folders on PYTHONPATH."""
    return subprocess.run(
        [sys.executable, "-m", "shardseer", "--version"],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
    )


def test_it_runs_from_any_folder(tmp_path: Path) -> None:
    done = shardseer(tmp_path, ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("shardseer ")


@pytest.mark.parametrize("name", ["pipeline", "workers", "flows"])
@pytest.mark.parametrize("form", ["package", "module"])
def test_a_package_of_the_same_name_is_named_with_its_place(tmp_path: Path, name: str, form: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    place = other / name if form == "package" else other / f"{name}.py"
    code = place / "__init__.py" if form == "package" else place
    code.parent.mkdir(exist_ok=True)
    code.write_text("raise SystemExit('the other package was imported')")
    done = shardseer(tmp_path, other, ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"shardseer: the package `{name}` in {place} shadows Shardseer's own in {ROOT / name}.")
    assert f"Take {other} out of PYTHONPATH" in line


def test_a_folder_without_code_is_no_package_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    assert shardseer(tmp_path, tmp_path, ROOT).returncode == 0
