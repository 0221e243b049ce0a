"""Runs over a store into a store that suffer scripted faults; and the boundaries of the commit path there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.faulty_run import FaultyRun

INLINE = ("--workers", "inline")
LEASE_SECONDS = 4.0
SHORT_LEASE = (
    "-c",
    f"from pipeline.run import lease; lease.held.__wrapped__.__defaults__ = ({LEASE_SECONDS},);"
    "from flows.cli import main; main()",
)
# As in `boundaries.BOUNDARIES`.
STORE_BOUNDARIES: dict[str, dict[str, Any]] = {
    "before a part": {"call": "pipeline.object_writing.put", "when": "before", "match": "/attempts/", "nth": 2},
    "after a part": {"call": "pipeline.object_writing.put", "when": "after", "match": "/attempts/", "nth": 2},
    "before staging": {"call": "pipeline.object_writing.put_new", "when": "before", "match": "/staged/part-", "nth": 2},
    "after staging": {"call": "pipeline.object_writing.put_new", "when": "after", "match": "/staged/part-", "nth": 2},
    "before the plan": {"call": "pipeline.object_writing.put", "when": "before", "match": "plan.json"},
    "after the plan": {"call": "pipeline.object_writing.put", "when": "after", "match": "plan.json"},
    "before the manifest": {"call": "pipeline.object_writing.put_new", "when": "before", "match": "manifest.json"},
    "before the upload": {
        "call": "pipeline.object_writing.put_new",
        "when": "after",
        "match": "manifest.json",
    },
    "in the upload": {"call": "pipeline.run.one_object:_Sink.take", "when": "after"},
    "after the upload": {"call": "pipeline.run.one_object.publish", "when": "after"},
    "before the mark": {"call": "pipeline.object_writing.put", "when": "before", "match": "published.json"},
    "after the mark": {"call": "pipeline.object_writing.put", "when": "after", "match": "published.json"},
}


@dataclass
class StoreRun(FaultyRun):
    """The same images as objects, and an output beside them: both are URIs."""

    bucket: str = ""

    @property
    def output(self) -> Any:
        return f"{self.bucket}/{self.folder.name}/out"

    def published(self) -> list[Path]:
        """The objects that readers see, by their keys."""
        from pipeline import object_writing

        return [Path(found.uri) for found in object_writing.names(f"{self.output}/predictions")]

    def left(self) -> list[Path]:
        return self.published()

    def check_rows(self) -> None:
        super().check_rows()
        assert len(self.published()) == 1, "a run is one object"
