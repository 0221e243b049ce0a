"""The objects of one run in a store, by name: small ones, scratch files beside them, and what attempts leave."""

import tempfile
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pipeline import object_writing
from pipeline.object_writing import Name, Tag

T = TypeVar("T")
R = TypeVar("R")
AT_ONCE = 16  # requests of one kind side by side
Names = dict[str, Name]  # below a prefix, by what follows it


class RunObjects:
    """The part of `store_run.RunPrefix` that knows names only; see `run_files.RunFiles`."""

    marker_seconds = 10.0

    def __init__(self, output: str, run: str, names: Names | None) -> None:
        self.output, self.run = output, run
        self.prefix = f"{output}/runs/{run}"
        self._names = names
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def uri(self, name: str) -> str:
        """The URI of an object of the run."""
        return f"{self.prefix}/{name}"

    # --- names

    def names(self) -> Names:
        """Every object of the run, as a listing found it that is older than no change of ours."""
        if self._names is None:
            self._names = below(self.prefix)
        return self._names

    def list(self, folder: str) -> list[str]:
        """The names in one of its folders, now."""
        return [*below(self.uri(folder))]

    def changed(self) -> None:
        """Look again the next time."""
        self._names = None

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects of the run."""
        side_by_side(lambda name: object_writing.delete(self.uri(name)), names)
        self.changed()

    def size(self) -> int:
        """See `RunFiles`."""
        return sum(name.size for name in self.names().values())

    # --- small files

    def has(self, name: str) -> bool:
        """See `RunFiles`."""
        return object_writing.exists(self.uri(name)) if self._names is None else name in self._names

    def read(self, name: str) -> bytes:
        """See `RunFiles`."""
        if self._names is not None and name in self._names:
            return read_once(self.uri(name), self._names[name].tag)
        return object_writing.get(self.uri(name))

    def write(self, name: str, text: str) -> None:
        """See `RunFiles`."""
        object_writing.put(self.uri(name), text.encode())
        self.changed()

    @property
    def scratch(self) -> Path:
        """See `RunFiles`: gone with this object."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="shardseer-")
        return Path(self._scratch.name)

    def log_file(self, _name: str) -> Path | None:
        """See `RunFiles`: an object cannot grow."""
        return None

    # --- attempts

    def attempt_file(self, name: str) -> str:
        """See `RunFiles`."""
        return self.uri(f"attempts/{name}")

    def write_marker(self, shard: str, text: str) -> None:
        """See `RunFiles`."""
        object_writing.put(self._marker(shard), text.encode())

    def remove_marker(self, shard: str) -> None:
        """See `RunFiles`: with little patience, since a marker that stays costs no row."""
        object_writing.delete(self._marker(shard), object_writing.START_PATIENCE)

    def has_marker(self, shard: str) -> bool:
        """See `RunFiles`."""
        return object_writing.exists(self._marker(shard))

    def markers(self, shards: Collection[str]) -> dict[str, str]:
        """See `RunFiles`: their entity tags, by one listing."""
        found = below(self.uri("progress"))
        return {shard: str(found[name].tag) for shard in shards if (name := f"{shard}.in-progress") in found}

    def marker_text(self, shard: str) -> str:
        """See `RunFiles`."""
        try:
            return object_writing.get(self._marker(shard)).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _marker(self, shard: str) -> str:
        return self.uri(f"progress/{shard}.in-progress")


def below(prefix: str, patience: float = object_writing.PATIENCE) -> Names:
    """The objects below a prefix, by what follows it."""
    start = len(prefix) + 1
    return {name.uri[start:]: name for name in object_writing.names(prefix, patience)}


@lru_cache(maxsize=1 << 16)  # as many as there may be runs: each command asks for all, in turn
def read_once(uri: str, _tag: Tag) -> bytes:
    """A small object, which is read once as long as its tag is the same."""
    return object_writing.get(uri)


def side_by_side(what: Callable[[T], R], things: Iterable[T]) -> list[R]:
    """What becomes of each thing, in turn: a store answers late, but answers many at a time."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(what, things))
