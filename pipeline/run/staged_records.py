"""Which attempt was accepted for each shard of a run in a store: a small record, made once, that names it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import object_writing, place, storage
from pipeline.errors import RunError
from pipeline.place import Place
from pipeline.run.one_object import Accepted
from pipeline.run.parts import Receipt
from pipeline.run.run_objects import Names, RunObjects, side_by_side
from pipeline.run.sharding import Shard


class StagedRecords(RunObjects):
    """The part of `store_run.RunPrefix` that accepts attempts; see `run_files.RunFiles`."""

    def __init__(self, output: str, run: str, names: Names | None) -> None:
        super().__init__(output, run, names)
        self._records: dict[str, dict[str, Any]] = {}

    def accept(self, shard: Shard, attempt: Place, receipt: Receipt) -> None:
        """Name an attempt in the record of its shard, which is made once; see `RunFiles`."""
        name, size = place.name_of(attempt), place.size(attempt)
        record = {"file": name, "size": size, "receipt": receipt.model_dump(mode="json")}
        if object_writing.put_new(self.uri(_record_name(shard.id)), json.dumps(record).encode()) is None:
            raise RunError(f"Shard {shard.id} was staged before; a second part for it is not accepted.")
        self.changed()

    def staged_shards(self) -> set[str]:
        """See `RunFiles`."""
        return {Path(name).stem.removeprefix("part-") for name in self.list("staged")}

    def staged_files(self) -> list[Place]:
        """See `RunFiles`: none where another command discards the run meanwhile."""
        try:
            records = self.records(sorted(self.staged_shards()))
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
