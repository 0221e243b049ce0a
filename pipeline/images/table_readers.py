"""Rows of Parquet and Arrow files by their number: of one column, a row group or record batch at a time."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.images import ranges

GROUPS_KEPT = 2  # of one column, in memory
ARROW_MAGIC = b"ARROW1\0\0"  # begins a file; what follows is laid out like a stream, but for the index at its end

Values = Any  # pa.Array or pa.ChunkedArray: pyarrow has no types


class Rows:
    """The rows of a table. `groups` are the numbers of rows in its groups; `broken` says why there are no more, if so.

    `load(group, column)` gives the values of one column; `begin(column, number)` the first few, where that costs less.
    """

    def __init__(
        self,
        schema: pa.Schema,
        groups: Sequence[int],
        load: Callable[[int, str], Values],
        broken: str | None = None,
        begin: Callable[[str, int], Values] | None = None,
    ) -> None:
        self.schema = schema
        self.groups = groups
        self.broken = broken
        self._load = load
        self._begin = begin or (lambda column, number: self._values(0, column)[:number])
        self._ends = list(accumulate(groups))
        self._loaded: OrderedDict[tuple[int, str], Values] = OrderedDict()
        self._lock = threading.Lock()

    def value(self, column: str, row: int) -> bytes | None:
        """The bytes in a row of a column, in any thread. Raises `OSError`, `pa.ArrowException`."""
        group = bisect_right(self._ends, row)
        values = self._values(group, column)
        found: bytes | None = values[row - (self._ends[group] - self.groups[group])].as_py()
        return found

    def beginning(self, column: str, number: int) -> Iterator[bytes]:
        """The first few values of a column that are there."""
        for value in self._begin(column, number) if self.groups else ():
            if value.is_valid:
                yield value.as_py()

    def _values(self, group: int, column: str) -> Values:
        with self._lock:
            if (group, column) not in self._loaded:
                self._loaded[group, column] = self._load(group, column)
                while len(self._loaded) > GROUPS_KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end((group, column))
            return self._loaded[group, column]


def parquet_rows(path: str, size: int) -> Rows:
    """The rows of a Parquet file anywhere. Raises `OSError`, and `pa.ArrowException` for what is none."""
    file = pq.ParquetFile(pa.PythonFile(ranges.opened(path, size), mode="r"), pre_buffer=True)
    metadata = file.metadata
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def load(group: int, column: str) -> pa.ChunkedArray:
        return _field(file.read_row_group(group, columns=[column]), column)

    def begin(column: str, number: int) -> Values:
        source = pa.PythonFile(ranges.opened(path, size), mode="r")
        pages = pq.ParquetFile(source, metadata=metadata, pre_buffer=False, buffer_size=ranges.SMALL_BLOCK)
        batches = pages.iter_batches(number, row_groups=[0], columns=[column], use_threads=False)
        return next((_field(batch, column) for batch in batches), ())

    return Rows(file.schema_arrow, groups, load, begin=begin)


def arrow_rows(buffer: pa.Buffer) -> Rows:
    """The rows of an Arrow file (Feather) or stream in memory. Raises `pa.ArrowException` for what is neither."""
    batches: list[Any] = []
    broken = None
    try:
        reader = pa.ipc.open_file(buffer)
        schema, stream = reader.schema, map(reader.get_batch, range(reader.num_record_batches))
    except pa.ArrowInvalid:  # a stream, or a file without its end
        begins = buffer[: len(ARROW_MAGIC)].to_pybytes() == ARROW_MAGIC
        reader = pa.ipc.open_stream(buffer[len(ARROW_MAGIC) :] if begins else buffer)
        schema, stream = reader.schema, iter(reader)
        broken = "its end is missing" if begins else None
    try:
        batches.extend(stream)
    except (OSError, pa.ArrowException) as error:
        broken = str(error)

    def load(group: int, column: str) -> Values:
        return _field(batches[group], column)

    return Rows(schema, [batch.num_rows for batch in batches], load, broken)


def _field(table: pa.Table | pa.RecordBatch, column: str) -> Values:
    """A column, or a field of one: `image.bytes`."""
    if column in table.schema.names:
        return table.column(column)
    name, _, field = column.rpartition(".")
    return pc.struct_field(table.column(name), field)
