"""The wheel: installed where no checkout can be imported, it holds every module and runs from another folder.

The packages that Shardseer needs are those of the environment that runs the tests: a path file makes them visible in
a new environment, whose interpreter does not follow the path files beside them (an editable install is one).
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.processes import ROOT, free_port

Run = Callable[..., subprocess.CompletedProcess[str]]
PACKAGES = ("pipeline", "workers", "flows", "deploy")
REPORT = """
import atexit, json, sys
def report():
    loaded = {name: each.__file__ for name, each in list(sys.modules.items()) if name.split(".")[0] in %r}
    open(%r, "w").write(json.dumps(loaded))
atexit.register(report)
from shardseer import main
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy: building leaves files behind, and earlier ones would get into the wheel."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "shardseer.py"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip("--python", folder / "bin" / "python", "install", "--ignore-installed", wheel)
    return folder


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Run a program of that environment in a folder of its own, with nothing of the checkout on Python's path."""

    def call(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "elsewhere"
        folder.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(installed / "bin" / program), *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=240, check=False
        )

    return call


def pip(*arguments: object) -> None:
    """Run pip without a network and without dependencies."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", "--no-index", "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_module_and_what_is_no_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules | {"shardseer.py"} == {name for name in names if name.endswith(".py")}
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"deploy/prefect.yaml", "deploy/README.md"} <= names


def test_classify_from_another_folder_uses_the_modules_of_the_wheel(
    run: Run, installed: Path, crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, loaded = crops(3), tmp_path / "loaded.json"
    program = REPORT % (("shardseer", *PACKAGES), str(loaded))
    done = run("python", "-c", program, "classify", images, "-o", "out", "-m", tiny_bundle, "--workers", "inline")
    assert done.returncode == 0, done.stderr
    modules = json.loads(loaded.read_text())
    assert {"shardseer", "flows.cli", "workers.executor", "pipeline.run.publishing"} <= set(modules)
    assert {name: file for name, file in modules.items() if not file.startswith(str(installed))} == {}

    asked = run("shardseer", "query", "out", "SELECT count(*) AS n FROM current", "--format", "json")
    assert json.loads(asked.stdout) == [{"n": 3}]


def test_describe_and_the_version_from_another_folder(run: Run, tiny_bundle: Path, wheel: Path) -> None:
    done = run("shardseer", "describe", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "test_efficientnet" in done.stdout
    assert run("shardseer", "--version").stdout.split() == wheel.name.split("-")[:2]


def test_a_package_in_the_way_of_the_wheel_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("")
    done = run("shardseer", "--version", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert f"the package `flows` in {tmp_path / 'flows'} shadows" in done.stderr


def test_up_and_down_know_no_checkout(run: Run, installed: Path, tmp_path: Path) -> None:
    program = "from deploy import deployments, settings; print(deployments.FILE, settings.state_folder())"
    file, state = run("python", "-c", program, XDG_STATE_HOME=str(tmp_path)).stdout.split()
    assert Path(file).is_relative_to(installed) and Path(file).is_file()
    assert Path(state) == tmp_path / "shardseer"
    done = run("python", "-m", "deploy.local", "down", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "Nothing is up.\n")


@pytest.mark.faults
def test_up_deploys_the_flow_of_the_wheel(run: Run, crops: Callable[..., Path], tmp_path: Path) -> None:
    settings = {
        "SHARDSEER_STATE": str(tmp_path / "state"),
        "PORT": str(free_port()),
        "IMAGES": str(crops(3)),
        "OUT": str(tmp_path / "out"),
    }
    up = run("python", "-m", "deploy.local", "up", **settings)
    try:
        assert up.returncode == 0, up.stderr
        export, command = up.stdout.splitlines()
        _, *arguments = shlex.split(command)
        asked = [*arguments, "--param", 'options={"workers": "inline"}']
        done = run("python", "-m", "prefect", *asked, PREFECT_API_URL=export.partition("=")[2])
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        down = run("python", "-m", "deploy.local", "down", **settings)
    assert "Down:" in down.stderr
    (part,) = (tmp_path / "out").glob("predictions/*/*/*.parquet")
    assert pq.read_metadata(part).num_rows == 3
