"""A directory, URI, single image or list of paths → image references, streamed to `listing.parquet`.

Which files count as images is a written rule: a known suffix in any case, and neither the file nor a folder above it
(below the input) hidden by a leading dot. Others are counted as skipped, by kind. `--all-files` tries every file;
what a list names is tried whatever its name, but `--include` and `--exclude` hold for it, too.
"""

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import durable, schema, storage
from pipeline.errors import ImageError, RequestError
from pipeline.images import formats, lists
from pipeline.images.decoding import open_image
from pipeline.job import Job, Options

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .tif .tiff .bmp .dib .ppm .pgm .pbm .pnm .avif .jp2 .j2k "  # noqa: SIM905
    ".heic .heif .hif".split()
)
ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
CHUNK = 65_536  # references held at once
KINDS_COUNTED, KINDS_REPORTED = 1000, 20  # of what is skipped: where every suffix is another one, the rest are one kind
LONGEST_SUFFIX = 16  # letters; what is longer is more of a sentence
TO_READ = " (to read them: "  # in the name of a kind that could be read if something were installed
LARGEST_PROBE = 1 << 26  # bytes of a file of no known suffix that are looked at to see whether it is an image
OTHERS = "of other kinds"


class Listing:
    """The files of one input. Iterating streams the references; `skipped` then says what was left out."""

    def __init__(self, images: str, options: Options) -> None:
        self.skipped: Counter[str] = Counter()
        self._images = images
        self._options = options
        local = storage.local_path(images)
        self._file = Path(local) if local is not None and Path(local).is_file() else None
        self._base = images if self._file is None else images.rpartition("/")[0] or "/"

    def __iter__(self) -> Iterator[storage.Entry]:
        if self._file is None:
            return self._kept(
                storage.walk(self._images), lambda found: self.why_skipped(found.path, found.may_be_folder)
            )
        named = lists.paths(self._file) if lists.is_list(self._file) else [self._images]
        return self._kept(map(storage.entry, named), lambda found: self._why_unwanted(found.path))

    def _kept(
        self, found: Iterable[storage.Entry], why_skipped: Callable[[storage.Entry], str | None]
    ) -> Iterator[storage.Entry]:
        for entry in found:
            if (reason := why_skipped(entry)) is None:
                yield entry
            else:
                known = reason in self.skipped or TO_READ in reason or len(self.skipped) < KINDS_COUNTED
                self.skipped[reason if known else OTHERS] += 1

    def why_skipped(self, path: str, may_be_folder: bool = False) -> str | None:
        """The kind under which a file is counted as skipped; None for one to classify.

        What may be in a folder that cannot be looked at is not known: it is only skipped where all below it would be.
        """
        below = storage.below(path, self._base) or path
        if not self._options.all_files and (below.startswith(".") or "/." in below):
            return "hidden"
        if may_be_folder:
            return "excluded" if _matches_all_below(self._names(path), self._options.exclude) else None
        if not self._options.all_files and (suffix := _suffix(below)) not in SUFFIXES:
            return storage.as_text(suffix) if len(suffix) <= LONGEST_SUFFIX else OTHERS
        if not self._options.all_files and (needed := formats.missing(suffix)) is not None:
            return f"{suffix}{TO_READ}{needed})"
        return self._why_unwanted(path)

    def _why_unwanted(self, path: str) -> str | None:
        """What the user's globs say of a file."""
        if not self._options.include and not self._options.exclude:
            return None
        names = self._names(path)
        if self._options.include and not _matches(names, self._options.include):
            return "not included"
        return "excluded" if _matches(names, self._options.exclude) else None

    def _names(self, path: str) -> tuple[str, str]:
        """The path below the input (below the folder of a list, or of a single image), and the whole path."""
        whole = path if storage.is_uri(path) else f"/{storage.below(path, '/')}"
        return storage.below(path, self._base) or whole, whole


def _suffix(path: str) -> str:
    """The suffix with its dot, in lower case, or `no suffix`. A `Path` would take a third of a listing."""
    stem, _, ending = path[path.rfind("/") + 1 :].rpartition(".")
    return f".{ending.lower()}" if stem and ending else "no suffix"


def _matches(names: tuple[str, str], globs: tuple[str, ...]) -> bool:
    """Whether a file matches a glob. `names` are its path below the input, and its whole path."""
    below, whole = names
    return any(
        fnmatch.fnmatchcase(whole if _is_whole(glob) else below if "/" in glob else below.rsplit("/", 1)[-1], glob)
        for glob in globs
    )


def _is_whole(glob: str) -> bool:
    return glob.startswith("/") or storage.is_uri(glob)


def _matches_all_below(names: tuple[str, str], globs: tuple[str, ...]) -> bool:
    """Whether a glob matches whatever may lie in a folder: a `*` at its end matches further slashes, too."""
    below, whole = (f"{name}/" for name in names)
    return _matches((below, whole), tuple(glob for glob in globs if glob.endswith("*") and "/" in glob))


def check_input(job: Job) -> None:
    """See that there is at least one image. Raises `RequestError` with what to change."""
    try:
        _check_kind(job)
        listing = Listing(job.images, job.options)
        first = next(iter(listing), None)
    except OSError as error:
        raise RequestError(f"The input {job.images} cannot be read: {storage.cause(error)}") from None
    if first is None:
        skipped = ", ".join(f"{count:,} {kind}" for kind, count in listing.skipped.most_common(5))
        hint = f" Skipped: {skipped}. --all-files tries every file." if skipped else ""
        raise RequestError(f"There is no image in {job.images}.{hint}")
    if first.error is not None and first.path == job.images:
        raise RequestError(f"The input {job.images} cannot be read: {first.error}")


def _check_kind(job: Job) -> None:
    """See that the input is a folder, a list, or what may be an image."""
    local = storage.local_path(job.images)
    if local is None:
        return
    file = Path(local)
    if not file.exists():
        raise RequestError(f"The input {job.images} does not exist.")
    if not (file.is_file() or file.is_dir()):
        raise RequestError(f"The input {job.images} is neither a folder nor a file.")
    if file.is_dir() or lists.is_list(file) or job.options.all_files or file.suffix.lower() in SUFFIXES:
        return
    if file.suffix.lower() in ARCHIVES:
        raise RequestError(f"The input {job.images} is an archive: unpack it, and give the folder with the images.")
    try:
        with file.open("rb") as opened:
            open_image(opened.read(LARGEST_PROBE))
    except ImageError:
        raise RequestError(
            f"The input {job.images} is no image in a format that is read, no folder, and no list of paths "
            f"({', '.join(lists.SUFFIXES)})."
        ) from None


def write_listing(job: Job, target: Path) -> Counter[str]:
    """Stream the listing to a Parquet file of `schema.LISTING`; return what was skipped, by kind."""
    listing = Listing(job.images, job.options)
    with durable.atomic(target) as temporary, pq.ParquetWriter(temporary, schema.LISTING, compression="zstd") as writer:
        chunk: list[storage.Entry] = []
        for entry in listing:
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


def references(entries: Iterable[storage.Entry]) -> pa.Table:
    """Entries as a table of `schema.LISTING`."""
    columns = list(zip(*entries, strict=True)) or [()] * len(storage.Entry._fields)
    values = dict(zip(storage.Entry._fields, columns, strict=True))
    names = {"size_bytes": "size", "modified_at": "modified_us", "list_error": "error"}
    arrays = [pa.array(values[names.get(field.name, field.name)], field.type) for field in schema.LISTING]
    return pa.table(arrays, schema.LISTING)
