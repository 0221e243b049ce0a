"""One run in an object store: what lies below `runs/<run id>/`, and the states that follow from it.

A store has no rename, and whoever lost the lease may still write. So nothing that counts is ever replaced:

    run.json               the run was begun
    attempts/…             parts, each under a name of its own; one that no record names never surfaces
    staged/part-….json     the record that a shard's part was accepted: it names the attempt, and is replaced only
                           where that was deleted
    manifest.json          how the run ended, published, refused or discarded: made once and kept for good
    manifest-2.json        the same for a run that was refused at first
    published.json         the object that readers see was complete

Publishing makes one object of the accepted parts, which is there whole or not at all, and the same whoever makes it.
"""

import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipeline import object_writing, place, storage
from pipeline.errors import RunError
from pipeline.place import Place
from pipeline.run import one_object, sharding
from pipeline.run.one_object import Accepted
from pipeline.run.parts import provenance
from pipeline.run.plan import Plan, stored_plan
from pipeline.run.run_files import State
from pipeline.run.run_objects import Names
from pipeline.run.sharding import Shard
from pipeline.run.sql_files import parquet_files
from pipeline.run.staged_records import StagedRecords, places_in

ENDS = ("manifest.json", "manifest-2.json")


class _PublishedError(RunError):
    """What is being published was published before."""


class RunPrefix(StagedRecords):
    """The files and the state of one run; see `run_files.RunFiles`."""

    def __init__(self, output: str, run: str, names: Names | None = None, readers_see: Iterable[str] = ()) -> None:
        """`names` and what `readers_see` are what a listing of the whole output found, where there was one."""
        super().__init__(output, run, names)
        self._readers_see = None if names is None else sorted(readers_see)
        self._is_ours = False

    @property
    def state(self) -> State:
        """See `RunFiles`."""
        return self.examine()[0]

    def examine(self) -> tuple[State, str]:
        """See `RunFiles`."""
        try:
            return self._examined(), ""
        except RunError as error:
            return "unreadable", str(error)
        except (OSError, ValueError, KeyError) as error:
            return "unreadable", f"{self.prefix} cannot be read: {storage.cause(error)}."

    def _examined(self) -> State:
        names = self.names()
        end = "published" if "published.json" in names else self._end_of(names)  # made after it: nothing is read
        if end == "discarded":
            return "discarded"
        if "plan.json" in names:
            self.plan()
        if self.published_files() and ("published.json" in names or self._is_complete(end)):
            return "published"
        if "published.json" in names:
            return "deleted"
        if "plan.json" not in names:
            return "unplanned"
        return {"": "planned", "published": "decided", "refused": "refused"}[end]  # type: ignore[return-value]

    def _is_complete(self, end: str) -> bool:
        """Whether readers see all objects of a run that may have been cut off between two of them."""
        seen = {place.name_of(file) for file in self.published_files()}
        return end != "published" or {name for name, _ in self._objects()} <= seen

    def _end_of(self, names: Mapping[str, object]) -> str:
        """How the run ended: published, refused, discarded; empty for one that has not."""
        ends = [name for name in ENDS if name in names]
        return str(json.loads(self.read(ends[-1]))["end"]) if ends else ""

    def _end(self, end: str, content: dict[str, Any]) -> None:
        """Decide once and for all how the run ends. Raises `RunError` where it came to another end."""
        before = self._end_of(self.names())
        if before not in ("", "refused") and before != end:
            raise RunError(f"Run {self.run} was {before} by another command. Give the same command again.")
        if before == end:
            return
        name = ENDS[1] if before else ENDS[0]
        stored = json.dumps({"end": end, **content}, indent=1).encode()
        made = object_writing.put_new(self.uri(name), stored)
        self.changed()
        if made is None and (other := self._end_of(self.names())) != end:
            raise RunError(f"Run {self.run} was {other} by another command meanwhile. Give the same command again.")

    # --- planning

    def create(self) -> None:
        """See `RunFiles`: from now on a new holder of the output knows of this run."""
        begun = {"host": socket.gethostname(), "begun_at": f"{datetime.now(UTC):%FT%TZ}"}
        self.write("run.json", json.dumps(begun))
        self._is_ours = True

    def write_shards(self, references: Iterator[pa.RecordBatch], size: int) -> int:
        """See `RunFiles`."""
        folder = self.scratch / "plan"
        folder.mkdir()
        number = sharding.write_shards(folder, references, size)
        for file in folder.iterdir():  # large ones are sent in pieces side by side: never many files in memory
            object_writing.put(self.uri(f"plan/{file.name}"), file)
        return number

    def read_shards(self) -> list[Shard]:
        """See `RunFiles`."""
        return sharding.read_shards(self.uri("plan"))

    def plan(self) -> Plan:
        """See `RunFiles`."""
        return stored_plan(self.output, self.uri("plan.json"), lambda: self.read("plan.json"))

    # --- ends

    def decide(self, manifest: dict[str, Any]) -> None:
        """See `RunFiles`. The manifest says of each part which attempt it is, and which rows of which object."""
        shards = [part["shard"] for part in manifest["parts"]]
        self.changed()
        is_open = self._end_of(self.names()) in ("", "refused")
        records = self.records_there(shards) if is_open else self.records(shards)
        parts = [self.accepted(record) for record in records]
        where = places_in(one_object.objects(parts))
        named = [
            {**part, "file": record["file"], "size": record["size"], **rows}
            for part, record, rows in zip(manifest["parts"], records, where, strict=True)
        ]
        self._end("published", {**manifest, "parts": named})

    def decision(self) -> bytes:
        """See `RunFiles`."""
        names = [name for name in ENDS if self.has(name)]
        return self.read(names[-1] if names else ENDS[0])

    def withdraw_decision(self) -> None:
        """See `RunFiles`: a decision is for good, but where there is none yet, nothing stands against new parts."""
        if self._end_of(self.names()):
            raise RunError(
                f"Run {self.run} is decided, but parts that it was decided about were deleted. To give it up, delete "
                f"{self.prefix}."
            )

    def refuse(self, counted: dict[str, Any]) -> None:
        """See `RunFiles`."""
        self._end("refused", counted)

    def refusal(self) -> dict[str, Any]:
        """See `RunFiles`."""
        counted: dict[str, Any] = json.loads(self.read(ENDS[0]))
        return counted

    def forget_refusal(self) -> None:
        """See `RunFiles`: what was decided is kept; a later decision stands above it."""

    def publish(self) -> None:
        """See `RunFiles`: by one upload, which is looked for first.

        Where another run published it meanwhile, it was done, and somebody may have deleted the rows since.
        """
        plan = self.plan()
        folder = f"{self.output}/predictions/model={plan.model_name}/run={self.run}"
        with suppress(_PublishedError):
            for name, parts in self._objects():
                one_object.publish(f"{folder}/{name}", parts, provenance(plan), self._check_unpublished)
        self._readers_see = None
        self.changed()

    def _check_unpublished(self) -> None:
        if object_writing.exists(self.uri("published.json")):
            raise _PublishedError(f"Run {self.run} was published by another command.")

    def _objects(self) -> list[tuple[str, list[Accepted]]]:
        """The objects that the manifest asks for, each with its parts. Raises `RunError`."""
        try:
            parts = json.loads(self.decision())["parts"]
            return [
                (str(name), [self.accepted(part) for part in some])
                for name, some in groupby(parts, lambda part: part["object"])
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"The manifest of run {self.run} cannot be read: {storage.cause(error)}.") from error

    @property
    def published(self) -> str:
        """See `RunFiles`."""
        return f"{self.output}/{self.published_name}"

    @property
    def published_name(self) -> str:
        """See `RunFiles`."""
        for file in self._readers_see or ():
            return str(place.parent_of(file)).removeprefix(f"{self.output}/")
        return f"predictions/model={self.plan().model_name}/run={self.run}"

    def published_files(self) -> list[Place]:
        """See `RunFiles`."""
        if self._readers_see is None:
            planned = self.has("plan.json")
            below = f"{self.output}/{self.published_name}" if planned else f"{self.output}/predictions"
            found = (name.uri for name in object_writing.names(below))
            self._readers_see = [uri for uri in found if f"/run={self.run}/" in uri and uri.endswith(".parquet")]
        return [*self._readers_see]

    def error_rows(self, shards: Sequence[Shard]) -> str:
        """See `RunFiles`."""
        asked = {shard.id for shard in shards}
        parts = [part for part in json.loads(self.decision())["parts"] if part["shard"] in asked]
        found = []
        for name, rows in groupby(parts, lambda part: str(part["object"])):
            ranges = " OR ".join(
                f"file_row_number BETWEEN {part['first_row']} AND {part['first_row'] + part['rows'] - 1}"
                for part in rows
            )
            file = parquet_files([f"{self.published}/{name}"], "file_row_number=true")
            found.append(f"SELECT path FROM {file} WHERE status = 'error' AND ({ranges})")
        return " UNION ALL ".join(found)

    def discard(self) -> None:
        """See `RunFiles`. The decision stays, so that nobody who worked at the run still publishes it."""
        names = self.names()
        if not (self._is_ours and "plan.json" not in names):
            self._end("discarded", {"run": self.run})
        kept = ENDS if not self._is_ours or "plan.json" in names else ()
        self.delete(["plan.json"] if "plan.json" in names else [])
        self.delete(name for name in names if name not in kept)
