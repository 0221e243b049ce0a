"""Remove what finished or abandoned runs left behind; never what a command would continue."""

from pathlib import Path

from pipeline import durable
from pipeline.run.folder import RunFolder


def abandoned(folders: list[RunFolder]) -> list[RunFolder]:
    """The runs of one output, oldest first, of which nothing is of use any more.

    That is a run that never got a plan, an unfinished one beside a newer unfinished one of the same request (which
    is the one that its command would continue), and a refused one whose request was published or refused since.
    """
    found = [folder for folder in folders if folder.state == "unplanned"]
    planned = [
        folder for folder in folders if folder.state not in ("unplanned", "unreadable") and folder.plan_file.exists()
    ]
    for position, folder in enumerate(planned):
        later = {other.state for other in planned[position + 1 :] if other.plan().key == folder.plan().key}
        if folder.state in ("planned", "decided") and later & {"planned", "decided"}:
            found.append(folder)
        if folder.state == "refused" and later & {"published", "refused"}:
            found.append(folder)
    return found


def clean(folders: list[RunFolder]) -> tuple[list[str], int]:
    """Remove abandoned runs, and attempts that lost from the others; return the runs removed and the bytes freed.

    The caller holds the output's lock.
    """
    removed = abandoned(folders)
    leftovers: list[Path] = []
    for folder in folders:
        state = folder.state
        if folder in removed or state == "unreadable":
            continue
        leftovers += folder.path.glob(f"*{durable.TEMPORARY}-*")
        if state in ("published", "deleted"):
            leftovers += [folder.shards, folder.staged, folder.listing, folder.attempts]
        else:
            leftovers += folder.attempts.glob("*.parquet*")
    freed = 0
    for folder in removed:
        freed += durable.size_on_disk(folder.path)
        folder.discard()
    for path in leftovers:
        freed += durable.size_on_disk(path)
        durable.remove(path)
    return [folder.run for folder in removed], freed
