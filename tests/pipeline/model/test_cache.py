"""The cache of models: whole entries only, made anew where they are damaged, as readable as the umask has it."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.job import EngineName
from pipeline.model import bundle, cache, engines, resolving
from pipeline.model.engine import EngineSpec

SPEC = EngineSpec(EngineName.OPENVINO, features=False)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: list[Callable[[Path], None]] = [truncate, flip_a_bit, Path.unlink, lambda file: os.truncate(file, 0)]


def make(folder: Path) -> None:
    folder.mkdir()
    (folder / "a").write_text("first")
    (folder / "b").write_text("second")


@pytest.mark.parametrize("name", ["a", "b", cache.SEAL])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_anew(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    target = cache.entry(tmp_path / "kind" / "entry", make)
    whole = {path.name: path.read_bytes() for path in target.iterdir()}
    damage(target / name)
    assert not cache.is_whole(target)
    cache.entry(target, make)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == whole
    assert [path.name for path in target.parent.iterdir()] == ["entry"], "nothing is left beside it"


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []
    for _ in range(2):
        cache.entry(tmp_path / "entry", lambda folder: (made.append(folder), make(folder))[1])
    assert len(made) == 1


def test_what_fails_in_the_making_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise RequestError("no")

    with pytest.raises(RequestError):
        cache.entry(tmp_path / "entry", fail)
    assert not list(tmp_path.iterdir())


def test_what_was_abandoned_long_ago_is_removed(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / f"{cache.MAKING}{name}" / "made").mkdir(parents=True)
    os.utime(tmp_path / f"{cache.MAKING}old", (0, 0))
    cache.entry(tmp_path / "entry", make)
    assert {path.name for path in tmp_path.iterdir()} == {f"{cache.MAKING}new", "entry"}


def test_where_another_process_was_first_its_entry_stays(tmp_path: Path) -> None:
    def overtaken(folder: Path) -> None:
        cache.entry(tmp_path / "entry", make)
        folder.mkdir()
        (folder / "a").write_text("later")

    cache.entry(tmp_path / "entry", overtaken)
    assert (tmp_path / "entry" / "a").read_text() == "first"


@pytest.mark.parametrize("name", [bundle.WEIGHTS, bundle.CONFIG])
def test_a_truncated_cached_model_is_made_anew(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDSEER_CACHE", str(tmp_path))
    first = resolving.resolve(None)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in first.folder.iterdir()}
    umask = os.umask(0o022)
    os.umask(umask)
    assert modes == {0o666 & ~umask}
    truncate(first.folder / name)
    assert resolving.resolve(None) == first


def test_a_whole_model_of_a_version_without_seals_is_kept_and_sealed(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been downloaded, and there may be no network now: nothing can make this one."""
    monkeypatch.setenv("SHARDSEER_CACHE", str(tmp_path))
    old = tmp_path / "bundles" / "resnet_none"
    shutil.copytree(tiny_bundle, old)
    assert resolving.resolve("resnet_none").folder == old
    assert cache.is_whole(old)
    (old / cache.SEAL).unlink()
    truncate(old / bundle.WEIGHTS)
    with pytest.raises(RequestError):
        resolving.resolve("resnet_none")


@pytest.mark.parametrize("name", ["network.xml", "network.bin"])
def test_a_truncated_converted_network_is_converted_anew(
    name: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDSEER_CACHE", str(tmp_path))
    model = bundle.load(tiny_bundle)
    engines.prepare(model, SPEC)
    with monkeypatch.context() as reading:  # the driver did: a worker would read all of it again
        reading.setattr(hashlib, "file_digest", pytest.fail)
        engines.build(model, SPEC, "cpu", threads=1)
    (file,) = tmp_path.glob(f"openvino/*/{name}")
    truncate(file)
    cut = file.stat().st_size
    assert not engines.module_of(EngineName.OPENVINO).is_prepared(model, SPEC)
    engines.build(model, SPEC, "cpu", threads=1)
    assert engines.module_of(EngineName.OPENVINO).is_prepared(model, SPEC)
    assert file.stat().st_size > cut


def where(**environment: str) -> str:
    program = "from pipeline.model import cache; print(cache.cache_folder())"
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=kept | environment)
    return done.stdout.strip() or done.stderr


def test_the_cache_is_where_it_can_be_written(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    own = temporary / f"shardseer-{os.getuid()}"
    named = {"HOME": str(home), "TMPDIR": str(temporary)}
    assert where(**named) == str(home / ".cache" / "shardseer")
    assert where(**named, XDG_CACHE_HOME=str(home / "xdg")) == str(home / "xdg" / "shardseer")
    assert where(**named, XDG_CACHE_HOME="relative") == str(home / ".cache" / "shardseer")
    assert where(**named, SHARDSEER_CACHE=str(home / "own")) == str(home / "own")
    (tmp_path / "file").touch()
    assert where(**(named | {"HOME": str(tmp_path / "file")})) == str(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    own.rmdir()
    own.symlink_to(home)
    assert "is another user's" in where(**(named | {"HOME": str(tmp_path / "file")}))
