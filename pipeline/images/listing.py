"""A source → image references, streamed to `listing.parquet`: which files count as images.

It is a written rule: a known suffix in any case, and neither the file nor a folder above it (below the input) hidden by
a leading dot; in a tar archive, too. Others are counted as skipped, by kind. `--all-files` tries every file; what a
list names is tried whatever its name, but `--include` and `--exclude` hold for it, too. Every row of a table is tried.
"""

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import container_names, durable, schema, storage, web
from pipeline.images import containers, formats
from pipeline.images.side_by_side import Merger
from pipeline.images.sources import Source, source_of
from pipeline.job import Job, Options
from pipeline.storage import Entry, Skipped

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .tif .tiff .bmp .dib .ppm .pgm .pbm .pnm .avif .jp2 .j2k "  # noqa: SIM905
    ".heic .heif .hif".split()
)
CONTAINERS_WAITING, OPENED = 256, 8  # found before they are opened, and opened side by side
CHUNK = 65_536  # references held at once
KINDS_COUNTED, KINDS_REPORTED = 1000, 20  # of what is skipped: where every suffix is another one, the rest are one kind
LONGEST_SUFFIX = 16  # letters; what is longer is more of a sentence
TO_READ = " (to read them: "  # in the name of a kind that could be read if something were installed
OTHERS = "of other kinds"


class Names(NamedTuple):
    """What a file is called, for rules and globs: below the input, whole, and itself.

    Below a list's folder, or that of a single image. What is in a container has the name that it has there, and no
    name of its own where it `is_row` of a table.
    """

    below: str
    whole: str
    own: str
    is_row: bool


class Listing:
    """The images of one input. Iterating streams the references; `skipped` then says what was left out.

    Files with images in them are opened unless `containers` is False: then they are skipped by their suffix.
    """

    def __init__(self, images: str, options: Options, *, containers: bool = True) -> None:
        self.skipped: Counter[str] = Counter()
        self._images = images
        self._options = options
        self._opens_containers = containers
        web.allow_private_hosts(options.private_hosts)

    @cached_property
    def _source(self) -> Source:
        return source_of(self._images, self._options.column)

    def __iter__(self) -> Iterator[Entry]:
        why_skipped = self._why_unwanted if self._source.names_them else self.why_skipped
        waiting: list[Entry] = []
        for found in self._source.entries():
            if isinstance(found, Skipped):
                self._count(found.kind)
            elif self._is_container(found):
                waiting += self._kept(found, self._why_container_skipped(found.path))
                if len(waiting) == CONTAINERS_WAITING:
                    yield from self._inside(waiting)
                    waiting = []
            else:
                yield from self._kept(found, why_skipped(found.path, found.may_be_folder))
        yield from self._inside(waiting)

    def _is_container(self, found: Entry) -> bool:
        return self._opens_containers and found.error is None and container_names.is_container(found.path)

    def _inside(self, waiting: list[Entry]) -> Iterator[Entry]:
        """What lies in some containers, several read side by side."""
        for found in Merger(waiting, lambda each, add: containers.entries(each, self._options.column), OPENED):
            if isinstance(found, Skipped):
                self._count(found.kind)
            else:
                yield from self._kept(found, None if found.error else self.why_skipped(found.path))

    def _kept(self, found: Entry, reason: str | None) -> tuple[Entry, ...]:
        if reason is None:
            return (found,)
        self._count(reason)
        return ()

    def _count(self, kind: str) -> None:
        known = kind in self.skipped or TO_READ in kind or len(self.skipped) < KINDS_COUNTED
        self.skipped[kind if known else OTHERS] += 1

    def why_skipped(self, path: str, may_be_folder: bool = False) -> str | None:
        """The kind under which a file is counted as skipped; None for one to classify.

        What may be in a folder that cannot be looked at is not known: it is only skipped where all below it would be.
        """
        names = self._names(path)
        if self._is_hidden(names):
            return "hidden"
        if may_be_folder:
            return "excluded" if _matches_all_below(names, self._options.exclude) else None
        if not self._options.all_files and not names.is_row and (reason := _why_no_image(names.own)) is not None:
            return reason
        return self._why_unwanted(path)

    def _why_container_skipped(self, path: str) -> str | None:
        """As `why_skipped`; whatever is included may be in it."""
        names = self._names(path)
        if not self._source.names_them and path != self._images and self._is_hidden(names):
            return "hidden"
        return "excluded" if _matches(names, self._options.exclude) else None

    def _is_hidden(self, names: Names) -> bool:
        if self._options.all_files:
            return False
        return names.below.startswith(".") or "/." in names.below or names.own.startswith(".")

    def _why_unwanted(self, path: str, _may_be_folder: bool = False) -> str | None:
        """What the user's globs say of a file; an image in a container goes with that."""
        include, exclude = self._options.include, self._options.exclude
        if not include and not exclude:
            return None
        inside = container_names.split(path)
        both = [self._names(each) for each in ((path,) if inside is None else (path, inside[0]))]
        if include and not any(_matches(names, include) for names in both):
            return "not included"
        return "excluded" if any(_matches(names, exclude) for names in both) else None

    def _names(self, path: str) -> Names:
        inside = container_names.split(path)
        whole = path if storage.is_uri(path) else f"/{storage.below(path, '/')}"
        below = storage.below(path, self._source.base) or whole
        own = (below if inside is None else inside[1]).rsplit("/", 1)[-1]
        return Names(below, whole, own, inside is not None and not container_names.is_tar(inside[0]))


def _why_no_image(name: str) -> str | None:
    if (suffix := _suffix(name)) not in SUFFIXES:
        return storage.as_text(suffix) if len(suffix) <= LONGEST_SUFFIX else OTHERS
    if (needed := formats.missing(suffix)) is not None:
        return f"{suffix}{TO_READ}{needed})"
    return None


def _suffix(name: str) -> str:
    """The suffix with its dot, in lower case, or `no suffix`. A `Path` would take a third of a listing."""
    stem, _, ending = name.rpartition(".")
    return f".{ending.lower()}" if stem and ending else "no suffix"


def _matches(names: Names, globs: tuple[str, ...]) -> bool:
    """Whether a file matches a glob."""
    return any(
        fnmatch.fnmatchcase(names.whole if _is_whole(glob) else names.below if "/" in glob else names.own, glob)
        for glob in globs
    )


def _is_whole(glob: str) -> bool:
    return glob.startswith("/") or storage.is_uri(glob)


def _matches_all_below(names: Names, globs: tuple[str, ...]) -> bool:
    """Whether a glob matches whatever may lie in a folder: a `*` at its end matches further slashes, too."""
    below = names._replace(below=f"{names.below}/", whole=f"{names.whole}/")
    return _matches(below, tuple(glob for glob in globs if glob.endswith("*") and "/" in glob))


def write_listing(job: Job, target: Path, watched: Callable[[Iterable[Entry]], Iterable[Entry]] = iter) -> Counter[str]:
    """Stream the listing to a Parquet file of `schema.LISTING`; return what was skipped, by kind.

    What comes from the source goes through `watched`, where its errors are told from those of writing.
    """
    listing = Listing(job.images, job.options)
    with durable.atomic(target) as temporary, pq.ParquetWriter(temporary, schema.LISTING, compression="zstd") as writer:
        chunk: list[Entry] = []
        for entry in watched(listing):
            chunk.append(entry)
            if len(chunk) == CHUNK:
                writer.write_table(references(chunk))
                chunk.clear()
        writer.write_table(references(chunk))
    return _reported(listing.skipped)


def _reported(skipped: Counter[str]) -> Counter[str]:
    """The most frequent kinds and those that something could be installed for, and the rest as one."""
    shown = Counter({kind: count for kind, count in skipped.items() if TO_READ in kind})
    shown |= Counter(dict(skipped.most_common(KINDS_REPORTED)))
    return shown + Counter({OTHERS: skipped.total() - shown.total()})


def references(entries: Iterable[Entry]) -> pa.Table:
    """Entries as a table of `schema.LISTING`."""
    columns = list(zip(*entries, strict=True)) or [()] * len(Entry._fields)
    values = dict(zip(Entry._fields, columns, strict=True))
    names = {"size_bytes": "size", "modified_at": "modified_us", "list_error": "error"}
    arrays = [pa.array(values[names.get(field.name, field.name)], field.type) for field in schema.LISTING]
    return pa.table(arrays, schema.LISTING)
