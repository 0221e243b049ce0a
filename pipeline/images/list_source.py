"""A list of paths as a source: each path is examined; those that are URIs side by side."""

import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from pipeline import container_names, outages, storage
from pipeline.errors import RequestError
from pipeline.images import lists, ranges, table_columns, table_files
from pipeline.images.table_columns import UnclearColumnError
from pipeline.storage import Entry

THREADS = 32  # URIs examined at a time
AHEAD = 1024  # paths


def is_list(file: Entry) -> bool:
    """Whether a file is a list of paths: by its suffix, a Parquet file by a column `path` and no column of images."""
    name = storage.as_text(file.path)
    if not container_names.is_parquet(name):
        return lists.is_list(Path(name))
    try:
        rows = table_files.opened(file)
        return table_columns.image_column(rows) is None
    except UnclearColumnError:  # several have images
        return False
    except (OSError, pa.ArrowException) as error:
        outages.raise_outage(file.path, error)
        return True  # reading it as a list says what is wrong


def entries(file: Entry) -> Iterator[Entry]:
    """Examine every path of a list, in its order. Raises `RequestError` for no usable list, `OSError`."""
    waiting: deque[Entry | Future[Entry]] = deque()
    window = THREADS  # grows: who only looks at the first few does not cost the store many requests
    examining = ThreadPoolExecutor(THREADS)
    try:
        for path in _paths(file):
            waiting.append(examining.submit(storage.entry, path) if storage.is_uri(path) else storage.entry(path))
            while waiting and (len(waiting) >= window or _is_known(waiting[0])):
                window = min(window + THREADS, AHEAD)
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        examining.shutdown(wait=False, cancel_futures=True)


def _is_known(found: Entry | Future[Entry]) -> bool:
    return isinstance(found, Entry) or found.done()


def _result(found: Entry | Future[Entry]) -> Entry:
    return found if isinstance(found, Entry) else found.result()


def _paths(file: Entry) -> Iterator[str]:
    """The paths that a list names, wherever that lies."""
    local = storage.local_path(file.path)
    if local is not None:
        yield from lists.paths(Path(local))
        return
    folder, _, name = file.path.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary, ranges.opened(file.path, file.size or 0) as source:
        copy = Path(temporary) / name
        with copy.open("wb") as target:
            while block := source.read(ranges.LARGE_BLOCK):
                target.write(block)
        try:
            yield from lists.paths(copy, folder)
        except RequestError as error:
            raise RequestError(str(error).replace(str(copy), file.path)) from None
