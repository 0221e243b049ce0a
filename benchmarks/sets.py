"""The sets of images that the contenders are given: as many as asked for, linked from a smaller number of originals.

A set of 20,000 is the same 4,000 photographs under five names each: to every contender they are 20,000 files.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks import photographs

Kind = Literal["ordinary", "hard", "large"]
ORIGINALS: Mapping[Kind, int] = {"ordinary": 4000, "hard": 4000, "large": 64}
PER_FOLDER = 1000


class Originals(NamedTuple):
    """So many photographs of one kind, made once; `large` ones are ordinary in 12 megapixels."""

    folder: Path
    kind: Kind
    number: int

    @property
    def path(self) -> Path:
        """Where they are; complete or not there at all."""
        return self.folder / f"{self.kind}-{self.number}"

    def make(self) -> None:
        """Write the photographs unless they are there."""
        if self.path.exists():
            return
        making = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        size = photographs.LARGE if self.kind == "large" else photographs.SMALL
        photographs.write(making, self.number, "hard" if self.kind == "hard" else "ordinary", size)
        making.rename(self.path)


class Sets:
    """Sets of images under one folder; what is there from earlier runs is used again."""

    def __init__(self, folder: Path, most: dict[Kind, int], originals: Mapping[Kind, int] = ORIGINALS) -> None:
        """`most` images of each kind will be asked for at a time; no more than `originals` are made."""
        self._folder = folder.absolute()
        self._originals = {
            kind: Originals(self._folder / "originals", kind, min(number, originals[kind]))
            for kind, number in most.items()
        }

    def make(self) -> None:
        """Make all originals, a process per kind."""
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            list(pool.map(Originals.make, self._originals.values()))

    def view(self, kind: Kind, count: int) -> Path:
        """A folder with `count` images of a kind."""
        originals = self._originals[kind]
        folder = self._folder / "views" / f"{originals.path.name}-as-{count}"
        if not folder.exists():
            making = folder.with_name(f".{folder.name}")
            shutil.rmtree(making, ignore_errors=True)
            _link(sorted(originals.path.rglob("*.jpg")), making, count)
            making.rename(folder)
        return folder


def _link(files: list[Path], folder: Path, count: int) -> None:
    again = (file for _ in range(-(-count // len(files))) for file in files)
    named: Iterable[tuple[int, Path]] = enumerate(islice(again, count))
    for index, file in named:
        target = folder / f"{index // PER_FOLDER:04}" / f"{index:07}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
