"""Whether the lock on an output is one for all hosts: by the mount that it lies on, as the kernel names it.

`flock` on a disk and on most network mounts counts for whoever opens the file. On others it counts on this host alone,
so that two hosts would both run; and a bucket that is mounted as a folder has no rename of a folder in one step either.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")
BUCKETS = re.compile(r"fuse\.(s3fs|gcsfuse|goofys|geesefs|rclone|blobfuse2?|mount-?s3|mountpoint-s3)")


class Mount(NamedTuple):
    """What is mounted on a `folder`: its `kind`, as nfs4, and its `options`."""

    folder: str
    kind: str
    options: frozenset[str]


def mount_of(path: Path, mounts: str) -> Mount | None:
    """The mount that an existing path lies on, of those in the text `mounts` (see `proc_pid_mountinfo(5)`)."""
    real = os.path.realpath(path)
    found = [mount for line in mounts.splitlines() if (mount := _mount(line)) is not None]
    holding = [mount for mount in found if f"{real}/".startswith(f"{mount.folder.rstrip('/')}/")]
    return max(reversed(holding), key=lambda mount: len(mount.folder), default=None)  # the last one covers the others


def _mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    fields, more = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(more) < 3:
        return None
    folder = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
    return Mount(folder, more[0], frozenset((*fields[5].split(","), *more[2].split(","))))


def why_lock_is_local(path: Path) -> str | None:
    """Why a lock below an existing path counts on this host alone, and what to do; None where it counts everywhere.

    What is not known counts as shared: a container's root may lie on FUSE, too.
    """
    try:
        mount = mount_of(path, MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        return None
    return None if mount is None else _why_local(mount)


def _why_local(mount: Mount) -> str | None:
    options = mount.options
    where = f"{mount.folder} is mounted as {mount.kind}"
    if BUCKETS.fullmatch(mount.kind):
        return f"{where}, where no lock counts for other hosts. Give the bucket's URI (s3://…, gs://…, az://…) instead."
    if mount.kind == "fuse.sshfs":
        return f"{where}, where no lock counts for other hosts. Mount it by NFS or SMB, or write on that host itself."
    if mount.kind in ("nfs", "nfs4") and options & {"nolock", "local_lock=flock", "local_lock=all"}:
        return f"{where} without locks for other hosts. Mount it without nolock and local_lock."
    if mount.kind in ("cifs", "smb3") and "nobrl" in options:
        return f"{where} without locks for other hosts. Mount it without nobrl."
    if mount.kind == "lustre" and "flock" not in options:
        return f"{where} without locks for other hosts. Mount it with the option flock."
    return None
