"""The ids of runs: a letter, UTC time, a random suffix. They sort by the time at which the runs were made.

A digits-only value of a partition turns into an integer in readers, hence the letter.
"""

import re
import secrets
from datetime import UTC, datetime

RUN_STAMP = "%Y%m%dT%H%M%S%f"
_PATTERN = re.compile(r"r[0-9]{8}T[0-9]{12}-[0-9a-f]{6}")


def make_run_id(now: datetime) -> str:
    """A new id for a run that is made now."""
    return f"r{now.strftime(RUN_STAMP)}-{secrets.token_hex(3)}"


def is_run_id(name: str) -> bool:
    """Whether a name can be the id of a run: what else lies between runs is none of them."""
    if not _PATTERN.fullmatch(name):
        return False
    try:
        started_at(name)
    except ValueError:  # no such day
        return False
    return True


def started_at(run: str) -> datetime:
    """When a run was made: no image of it was read before."""
    return datetime.strptime(run[1:].split("-", maxsplit=1)[0], RUN_STAMP).replace(tzinfo=UTC)
