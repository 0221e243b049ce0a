"""Which kind of output a place is: a folder of a disk, or a prefix of an object store."""

from functools import lru_cache
from pathlib import Path

from pipeline.place import Place
from pipeline.run.local_output import LocalOutput
from pipeline.run.output import Output
from pipeline.run.run_files import RunFiles
from pipeline.run.store_output import StoreOutput


def output_at(place: Place) -> Output:
    """The output at a place."""
    return LocalOutput(place) if isinstance(place, Path) else _store(place)


@lru_cache(maxsize=16)
def _store(uri: str) -> StoreOutput:
    """Remembered, with what it listed: each look costs a request."""
    return StoreOutput(uri)


def run_at(output: Place, run: str) -> RunFiles:
    """The files of a run in an output."""
    return output_at(output).run(run)
