"""What images inside containers are called: `shard-0007.tar#cat/001.jpg`, `part.parquet#12`.

A container is a file with images in it: a tar, Parquet or Arrow file. In both halves of such a path `%` and `#` are
percent-escaped, so that its last `#` parts them. The path of a container that is a `file://` URI is escaped already.
"""

import re
from collections import Counter
from urllib.parse import unquote_to_bytes

TARS = (".tar", ".tar.gz", ".tgz")
TABLES = (".parquet", ".arrow", ".feather")
SUFFIXES = (*TARS, *TABLES)

_MEMBER = re.compile(rf"(.+(?:{'|'.join(map(re.escape, SUFFIXES))}))#([^#]+)", re.IGNORECASE | re.DOTALL)
_REPEATED = re.compile(r"~\d+$")


def is_container(path: str) -> bool:
    """Whether a path is that of a file with images in it, by its suffix. A Parquet file may also be a list of paths."""
    return path.lower().endswith(SUFFIXES)


def is_tar(path: str) -> bool:
    """Whether a path is that of a tar archive."""
    return path.lower().endswith(TARS)


def is_parquet(path: str) -> bool:
    """Whether a path is that of a Parquet file."""
    return path.lower().endswith(".parquet")


def escaped(path: str) -> str:
    """The path of a container as it begins the paths of its images."""
    return path if path.startswith("file://") else path.replace("%", "%25").replace("#", "%23")


def split(path: str) -> tuple[str, str] | None:
    """The container's path and the member's name in it; None for the path of a file of its own.

    Bytes of the name that are not UTF-8 are surrogates, as in `os`.
    """
    found = _MEMBER.fullmatch(path) if "#" in path else None
    if found is None:
        return None
    container, member = found[1], _REPEATED.sub("", found[2])
    return container if container.startswith("file://") else _unescaped(container), _unescaped(member)


def _unescaped(text: str) -> str:
    return unquote_to_bytes(text).decode(errors="surrogateescape")


class Members:
    """Gives the members of one container their paths. A name that comes again is `name~2`, `name~3`, …

    What is really called `name~2` is written `name%7E2`.
    """

    def __init__(self, container: str) -> None:
        self._start = f"{escaped(container)}#"
        self._times: Counter[str] = Counter()

    def path(self, name: str) -> str:
        """The path of the next member of that name, whose bytes that are not UTF-8 are surrogates."""
        self._times[name] += 1
        times = self._times[name]
        text = "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in _plain(name))
        return f"{self._start}{text}" if times == 1 else f"{self._start}{text}~{times}"


def _plain(name: str) -> str:
    plain = name.replace("%", "%25").replace("#", "%23")
    return _REPEATED.sub(lambda end: f"%7E{end[0][1:]}", plain)
