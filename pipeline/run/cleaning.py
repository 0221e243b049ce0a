"""Remove what finished or abandoned runs left behind; never what a command would continue."""

from collections.abc import Callable, Sequence

from pipeline.run.run_files import RunFiles, State

# The states of a newer run of the same request beside which a run in a state is of no use any more.
NEWER: dict[State, set[State]] = {
    "planned": {"planned", "decided"},
    "decided": {"planned", "decided"},
    "refused": {"published", "refused"},
}


def abandoned(folders: Sequence[RunFiles]) -> list[RunFiles]:
    """The runs of one output, oldest first, of which nothing is of use any more.

    That is a run that never got a plan, an unfinished one beside a newer unfinished one of the same request (which
    is the one that its command would continue), and a refused one whose request was published or refused since.
    """
    found = []
    later: dict[str, set[State]] = {}  # the states of the newer runs of each request
    for folder in reversed(folders):  # each plan is read once: there may be very many
        state = folder.state
        if state in ("unplanned", "discarded"):
            found.append(folder)
        elif state != "unreadable" and folder.has("plan.json"):
            newer = later.setdefault(folder.plan().key, set())
            if newer & NEWER.get(state, set()):
                found.append(folder)
            newer.add(state)
    return found[::-1]


def clean(folders: Sequence[RunFiles], check: Callable[[], None] = lambda: None) -> tuple[list[str], int]:
    """Remove abandoned runs, and attempts that lost from the others; return the runs removed and the bytes freed.

    The caller holds the output's lock; `check` raises where it was lost, and is called before each run is touched.
    """
    removed = abandoned(folders)
    gone = {folder.run for folder in removed}
    freed = 0
    for folder in removed:
        freed += folder.size()
        check()
        folder.discard()
    for folder in folders:
        state = folder.state
        if folder.run not in gone and state != "unreadable":
            freed += folder.clean(state, check)
    return [folder.run for folder in removed], freed
