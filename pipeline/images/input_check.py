"""Whether there is anything to classify, before a run is planned: the user's mistakes, each with what to change."""

from pathlib import Path

from pipeline import container_names, storage
from pipeline.errors import ImageError, RequestError
from pipeline.images import lists
from pipeline.images.decoding import open_image
from pipeline.images.listing import SUFFIXES, Listing
from pipeline.job import Job

ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
LARGEST_PROBE = 1 << 26  # bytes of a file of no known suffix that are looked at to see whether it is an image


def check_input(job: Job) -> None:
    """See that there is at least one image. Raises `RequestError` with what to change."""
    try:
        _check_kind(job)
        listing = Listing(job.images, job.options)
        first = next(iter(listing), None)
    except OSError as error:
        said = error.strerror or storage.cause(error)
        for known in ("listed", "examined"):
            said = said.removeprefix(f"{job.images} cannot be {known}: ")
        raise RequestError(f"The input {job.images} cannot be read: {said}.") from None
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
    known = file.is_dir() or lists.is_list(file) or container_names.is_container(job.images)
    if known or job.options.all_files or file.suffix.lower() in SUFFIXES:
        return
    if file.suffix.lower() in ARCHIVES:
        raise RequestError(
            f"The input {job.images} is an archive of a kind that is not read: unpack it, and give the folder with the "
            f"images, or pack them as {', '.join(container_names.TARS)}."
        )
    try:
        with file.open("rb") as opened:
            open_image(opened.read(LARGEST_PROBE))
    except ImageError:
        raise RequestError(
            f"The input {job.images} is no image in a format that is read, no folder, no list of paths "
            f"({', '.join(lists.SUFFIXES)}), and no file with images in it ({', '.join(container_names.SUFFIXES)})."
        ) from None
