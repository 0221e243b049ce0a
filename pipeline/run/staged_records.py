"""Which attempt was accepted for each shard of a run in a store: a small record, made once, that names it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline import object_writing, place, storage
from pipeline.counting import counted
from pipeline.errors import RunError
from pipeline.place import Place
from pipeline.run.one_object import Accepted
from pipeline.run.parts import Receipt
from pipeline.run.run_files import State
from pipeline.run.run_objects import Names, RunObjects, below, side_by_side
from pipeline.run.sharding import Shard

WORK = ("attempts/", "plan/", "progress/", "staged/")  # of no use any more once a run is published


class StagedRecords(RunObjects):
    """The part of `store_run.RunPrefix` that accepts attempts, and removes what is of no use; see `RunFiles`."""

    def __init__(self, output: str, run: str, names: Names | None) -> None:
        super().__init__(output, run, names)
        self._records: dict[str, dict[str, Any]] = {}

    def accept(self, shard: Shard, attempt: Place, receipt: Receipt) -> None:
        """Name an attempt in the record of its shard; see `RunFiles`.

        Where there is one already, of a run that lost the lease meanwhile, its attempt counts and this one came late.
        It is replaced only where its attempt was deleted: by a `clean` that had lost the lease, or before it was named.
        """
        name, size = place.name_of(attempt), place.size(attempt)
        record = {"file": name, "size": size, "receipt": receipt.model_dump(mode="json")}
        uri, made = self.uri(_record_name(shard.id)), json.dumps(record).encode()
        self.changed()
        self._records.pop(shard.id, None)
        while object_writing.put_new(uri, made) is None:
            try:
                found, tag = object_writing.get_tagged(uri)
            except FileNotFoundError:
                continue
            if not self._is_lost(json.loads(found), self._attempts()):
                self._check_fits(shard, json.loads(found))
                return
            object_writing.replace(uri, made, tag)

    def _check_fits(self, shard: Shard, record: Mapping[str, Any]) -> None:
        """Raise `RunError` where a record is not of this run's shard."""
        receipt = Receipt.model_validate(record["receipt"])
        if (receipt.run, receipt.shard, receipt.rows) != (self.run, shard.id, shard.images):
            raise RunError(f"Shard {shard.id} was staged before, with another part than one of {shard.images} images.")

    def staged_shards(self) -> set[str]:
        """See `RunFiles`: by the names of their records, by one listing."""
        return {Path(name).stem.removeprefix("part-") for name in self.list("staged")}

    def accepted_shards(self) -> set[str]:
        """See `RunFiles`: a record whose attempt was deleted counts for nothing."""
        shards = sorted(self.staged_shards())
        attempts = self._attempts() if shards else {}
        return {
            shard
            for shard, record in zip(shards, self.records(shards), strict=True)
            if not self._is_lost(record, attempts)
        }

    def _attempts(self) -> Names:
        return below(self.uri("attempts"))

    def _is_lost(self, record: Mapping[str, Any], attempts: Names) -> bool:
        """Whether the attempt that a record names is not there, as large as it was."""
        found = attempts.get(record["file"])
        return found is None or found.size != record["size"]

    def staged_files(self) -> list[Place]:
        """See `RunFiles`: none where another command discards the run meanwhile."""
        try:
            records = self.records(sorted(self.accepted_shards()))
        except RunError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return []
            raise
        return [self.attempt_file(record["file"]) for record in records]

    def staged_receipts(self, shards: Sequence[Shard]) -> list[Receipt]:
        """See `RunFiles`."""
        receipts = []
        for shard, record in zip(shards, self.records([shard.id for shard in shards]), strict=True):
            receipt = Receipt.model_validate(record["receipt"])
            if (receipt.shard, receipt.rows) != (shard.id, shard.images):
                raise RunError(f"Shard {shard.id} has {shard.images} images, but {receipt.rows} rows were staged.")
            receipts.append(receipt)
        return receipts

    def records(self, shards: Sequence[str]) -> list[dict[str, Any]]:
        """The records of shards, each read once. Raises `RunError` where one cannot be read."""

        def read(shard: str) -> dict[str, Any]:
            try:
                record: dict[str, Any] = json.loads(object_writing.get(self.uri(_record_name(shard))))
            except (OSError, ValueError) as error:
                raise RunError(f"The record of shard {shard} cannot be read: {storage.cause(error)}") from error
            return record

        missing = [shard for shard in shards if shard not in self._records]
        self._records |= zip(missing, side_by_side(read, missing), strict=True)
        return [self._records[shard] for shard in shards]

    def records_there(self, shards: Sequence[str]) -> list[dict[str, Any]]:
        """The records of shards, to decide by. Raises `RunError` where an attempt that one names was deleted."""
        records, attempts = self.records(shards), self._attempts()
        if lost := sum(self._is_lost(record, attempts) for record in records):
            self._records.clear()
            raise RunError(
                f"{counted(lost, 'accepted part')} of run {self.run} were deleted, by a command that had lost the "
                "output. Nothing was published; the same command classifies their images again."
            )
        return records

    def remove_leftovers(self) -> None:
        """See `RunFiles`."""
        with suppress(RunError):
            self.changed()
            self.delete(name for name in self.names() if name.startswith(WORK))

    def clean(self, state: State, check: Callable[[], None]) -> int:
        """See `RunFiles`: what was listed before another run took over, that run may have accepted since.

        So the records are looked at now; after them, `check` says whether the output is still held.
        """
        names = self.names()
        if state in ("published", "deleted"):
            leftovers = [name for name in names if name.startswith(WORK)]
        else:
            records = self.records(sorted(self.accepted_shards()))
            accepted = {f"attempts/{record['file']}" for record in records}
            leftovers = [name for name in names if name.startswith("attempts/") and name not in accepted]
        freed = sum(names[name].size for name in leftovers)
        check()
        self.delete(leftovers)
        return freed

    def accepted(self, record: Mapping[str, Any]) -> Accepted:
        """A part as its record, or the manifest, names it."""
        receipt = Receipt.model_validate(record.get("receipt", record))
        return Accepted(self.attempt_file(record["file"]), int(record["size"]), receipt)


def _record_name(shard: str) -> str:
    return f"staged/part-{shard}.json"


def places_in(objects: Iterable[Sequence[Accepted]]) -> Iterator[dict[str, Any]]:
    """Of each part in turn: the object that it is published in, and its first row there."""
    for number, parts in enumerate(objects):
        first = 0
        for part in parts:
            yield {"object": f"part-{number:05}.parquet", "first_row": first}
            first += part.receipt.rows
