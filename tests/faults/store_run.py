"""Runs over a store into a store that suffer scripted faults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.faulty_run import FaultyRun


@dataclass
class StoreRun(FaultyRun):
    """The same images as objects, and an output beside them: both are URIs."""

    bucket: str = ""

    @property
    def place(self) -> Any:
        return f"{self.bucket}/{self.folder.name}/out"

    def published(self) -> list[Path]:
        """The objects that readers see, by their keys."""
        from pipeline import object_writing

        return [Path(found.uri) for found in object_writing.names(f"{self.place}/predictions")]

    def left(self) -> list[Path]:
        return self.published()

    def check_rows(self) -> None:
        super().check_rows()
        assert len(self.published()) == 1, "a run is one object"
