"""Outputs on network mounts: a lock that counts on one host only is found out, and one that is refused is told."""

import errno
import fcntl
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.run import mounts, outputs

ROOT = "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


def line(kind: str, options: str, folder: str = "/mnt/out") -> str:
    return f"99 24 0:50 / {folder} rw,relatime shared:2 - {kind} server:/export rw,{options}"


@pytest.mark.parametrize(
    ("kind", "options", "is_local"),
    [
        ("nfs", "vers=3,proto=tcp,local_lock=none", False),
        ("nfs", "vers=3,nolock,local_lock=all", True),
        ("nfs4", "vers=4.2,local_lock=none", False),
        ("nfs4", "vers=4.2,local_lock=flock", True),
        ("nfs", "vers=3,local_lock=posix", False),
        ("cifs", "vers=3.1.1", False),
        ("cifs", "vers=3.1.1,nobrl", True),
        ("lustre", "flock", False),
        ("lustre", "localflock", True),
        ("ceph", "acl", False),
        ("fuse.sshfs", "user_id=0", True),
        ("fuse.s3fs", "user_id=0", True),
        ("fuse.gcsfuse", "user_id=0", True),
        ("fuse.rclone", "user_id=0", True),
        ("fuse.mountpoint-s3", "user_id=0", True),
        ("fuse.fuse-overlayfs", "user_id=0", False),
        ("xfs", "noquota", False),
    ],
)
def test_whether_a_lock_counts_on_other_hosts(
    kind: str, options: str, is_local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "mountinfo"
    listed.write_text("\n".join([ROOT, line(kind, options, str(tmp_path).replace(" ", r"\040"))]))
    monkeypatch.setattr(mounts, "MOUNTS", listed)
    why = mounts.why_lock_is_local(tmp_path)
    assert (why is not None) == is_local
    if why is not None:
        assert str(tmp_path) in why and kind in why
        with pytest.raises(RequestError, match="cannot be held by one run alone"):
            outputs.check_output(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        outputs.check_output(tmp_path / "out")


def test_the_mount_of_a_path_is_the_nearest_and_newest() -> None:
    text = "\n".join([ROOT, line("nfs", "a"), line("xfs", "b"), line("ceph", "c", "/mnt/out\\040side"), "no mount"])
    kinds = {path: mounts.mount_of(Path(path), text) for path in ("/mnt/out/x", "/mnt/out side/x", "/mnt/outer", "/")}
    assert {path: mount and mount.kind for path, mount in kinds.items()} == {
        "/mnt/out/x": "xfs",
        "/mnt/out side/x": "ceph",
        "/mnt/outer": "ext4",
        "/": "ext4",
    }


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refusing)
    with pytest.raises(RequestError, match="has no locks"), outputs.locked(tmp_path / "out", Events()):
        pass
