"""What the process of a command is like: its names are UTF-8, no character stops it, and libraries find a home."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.running import classify, rows

Crops = Callable[..., Path]
NAME = "é 写真 😀"
ASCII = r"\u00e9 \u5199\u771f \ud83d\ude00"
ENVIRONMENTS = {
    "ascii": ({"PYTHONIOENCODING": "ascii"}, ASCII),
    "ascii, strictly": ({"PYTHONIOENCODING": "ascii:strict"}, ASCII),
    "Latin-1 streams": ({"PYTHONIOENCODING": "latin-1"}, rf"é{ASCII[6:]}"),
    "Latin-1": ({"LC_ALL": "en_US"}, NAME),
    "C": ({"LC_ALL": "C"}, NAME),
    "C, and nothing done about it": ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, NAME),
}
NOBODY = 54_321  # a user's number that no user has
WITHOUT_A_HOME = {"unset": None, "empty": "", "gone": "/nonexistent", "no folder": "/etc/hostname"}


def run(latin1: Path, *command: object, **environment: str | None) -> subprocess.CompletedProcess[bytes]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    settings = {**plain, "LOCPATH": str(latin1), "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [os.fsencode(str(word)) for word in command],
        capture_output=True,
        cwd=latin1,
        env={key: value for key, value in settings.items() if value is not None},
    )


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize(("environment", "expected"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_no_character_stops_a_command(
    environment: dict[str, str], expected: str, kind: str, latin1: Path, tmp_path: Path
) -> None:
    (tmp_path / NAME / "runs").mkdir(parents=True)
    (tmp_path / NAME / "predictions").mkdir()
    command = (sys.executable, "-m", "flows.cli", "query", tmp_path / NAME, f"SELECT '{NAME}' AS name")
    done = run(latin1, *command, "--format", kind, **environment)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("latin-1" if environment.get("PYTHONIOENCODING") == "latin-1" else "utf-8")
    if kind == "json":
        assert json.loads(shown) == [{"name": NAME}]
    else:
        assert expected in shown


@pytest.mark.parametrize("command", ["query", "runs", "clean", "report", "publish --run r"])
def test_an_output_that_is_empty_is_not_the_current_folder(command: str, latin1: Path) -> None:
    name, *more = command.split()
    done = run(latin1, sys.executable, "-m", "flows.cli", name, " ", *more)
    assert done.returncode == 2
    assert "it is empty" in done.stderr.decode()


def test_a_refusal_names_what_the_stream_cannot_carry(latin1: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "flows.cli", "classify", tmp_path / NAME, "-o", tmp_path / "out")
    done = run(latin1, *command, PYTHONIOENCODING="ascii", COLUMNS="1000")
    assert done.returncode == 2
    assert f"{ASCII} does not exist" in done.stderr.decode("ascii")


def test_a_folder_is_the_same_in_every_locale(crops: Crops, tiny_bundle: Path, latin1: Path, tmp_path: Path) -> None:
    images, output = crops(2, name="é"), tmp_path / "où"
    (images / "000000.jpg").rename(images / f"{NAME}.jpg")
    (images / "000001.jpg").rename(images / os.fsdecode(b"caf\xe9.jpg"))
    command = (sys.executable, "-m", "flows.cli", "classify", images, "-o", output, "-m", tiny_bundle)
    done = run(latin1, *command, "--workers", "inline", LC_ALL="en_US")
    assert done.returncode == 0, done.stderr
    assert sorted(path for path, _ in rows(output)) == [f"{images}/{NAME}.jpg", f"file://{tmp_path}/%C3%A9/caf%E9.jpg"]
    assert classify(images, output, tiny_bundle) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("home", WITHOUT_A_HOME.values(), ids=WITHOUT_A_HOME)
def test_libraries_find_a_home_and_a_name(home: str | None, latin1: Path, tmp_path: Path) -> None:
    code = (
        "from flows import process; process.prepare()\n"
        "import getpass, pathlib, torch._inductor.runtime.cache_dir_utils as inductor, prefect.settings as prefect\n"
        "(pathlib.Path.home() / 'made').mkdir(exist_ok=True)\n"
        "inductor.default_cache_dir()\n"
        "print(getpass.getuser(), pathlib.Path.home(), prefect.get_current_settings().home)"
    )
    done = run(latin1, *AS_NOBODY, sys.executable, "-c", code, **nobody(home, tmp_path))
    assert done.returncode == 0, done.stderr
    name, found, prefect = done.stdout.decode().split()
    assert name == str(NOBODY)
    assert Path(found).parent == tmp_path and Path(prefect).parent == Path(found)
    assert Path(found).stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_user_without_a_home_classifies(crops: Crops, tiny_bundle: Path, latin1: Path, tmp_path: Path) -> None:
    images, output = crops(2), tmp_path / "out"
    command = (sys.executable, "-m", "flows.cli", "classify", images, "-o", output, "-m", tiny_bundle)
    done = run(latin1, *AS_NOBODY, *command, "--workers", "inline", **nobody(None, tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(rows(output)) == 2


# Somebody else, who may all the same read what only root can: Python may lie there.
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)


def nobody(home: str | None, temporary: Path) -> dict[str, str | None]:
    """The environment of a user who has no entry, and whose temporary files lie in `temporary`."""
    unset = dict.fromkeys(("USER", "LOGNAME", "LNAME", "USERNAME", "SHARDSEER_CACHE", "PREFECT_HOME"))
    return {**unset, "HOME": home, "TMPDIR": str(temporary)}
