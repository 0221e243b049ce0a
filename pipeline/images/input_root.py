"""The root of an input: what shows whether the images are still where they were listed."""

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline import object_store, storage

MOUNTS = Path("/proc/self/mounts")


class InputRoot(BaseModel):
    """A folder or URI below which images were listed.

    Of a folder also its `inode`, and the `mounts` at or below it, or on which images of a list lie: where a mount went
    away, its place shows another folder, and an empty one. Devices are numbered anew with every mount and on every
    machine, so they say nothing.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    inode: int | None = None
    mounts: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: str, listed: Iterable[str] = ()) -> "InputRoot":
        """The root of an input, as it is now: itself, or the folder of an image or a list; `listed` are some images."""
        local = storage.local_path(images)
        if local is None:
            return cls(path=images)
        folder = Path(local) if Path(local).is_dir() else Path(local).parent
        base = folder.resolve()
        files = () if Path(local).is_dir() else listed
        outside = [each for each in map(_real, files) if each and not each.is_relative_to(base)]
        mounts = tuple(
            storage.text_of(each)
            for each in _mounts()
            if Path(each).is_relative_to(base) or (each != "/" and any(image.is_relative_to(each) for image in outside))
        )
        return cls(path=storage.text_of(str(folder)), inode=folder.stat().st_ino, mounts=mounts)

    def check_mounts(self, path: str) -> None:
        """See that everything is still mounted on which `path` lies. Raises `OSError` where it is not.

        The kernel's table says so, not the folder: a folder of the same disk can be mounted, too.
        """
        image = _real(path)
        around = [each for each in self.mounts if image and image.is_relative_to(_local(each))]
        for mount in set(around).difference(map(storage.text_of, _mounts()) if around else ()):
            raise OSError(f"nothing is mounted at {mount} any more")

    def check(self, path: str) -> None:
        """See that what lies around `path`, an image below this root or from a list, is what was listed.

        Raises `OSError`, or what the library obstore raises, where it is not, or does not answer.
        """
        inside = path == self.path or storage.below(path, self.path) is not None
        if storage.is_uri(path):
            object_store.check(self.path if inside else bucket_of(path))
        elif inside:
            self._check_folder()
        else:
            check_folder(_local(path).parent)

    def _check_folder(self) -> None:
        if check_folder(_local(self.path)) != self.inode and self.inode is not None:
            raise OSError(f"the folder {self.path} is not the one that was listed")
        for mount in self.mounts:
            self.check_mounts(mount)


def check_folder(folder: Path) -> int:
    """See that a folder can be read; return its inode. Raises `OSError`."""
    with os.scandir(folder) as scan:
        next(scan, None)
    return folder.stat().st_ino


def _local(path: str) -> Path:
    return Path(storage.local_path(path) or os.devnull)


def _real(path: str) -> Path | None:
    """Where a local file lies or lay, whatever links lead there."""
    local = storage.local_path(path)
    return None if local is None else Path(os.path.realpath(local))


def bucket_of(uri: str) -> str:
    """The bucket or host that a URI leads to."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _mounts() -> list[str]:
    """Where something is mounted, with the escapes of the kernel's table undone."""
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:  # no such table: the inode alone has to do
        return []
    return [os.fsdecode(line.split()[1].decode("unicode_escape").encode("latin-1")) for line in lines]
