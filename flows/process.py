"""What the process of a command is like, before anything else happens in it.

File names are UTF-8 whatever the locale (they are bytes; Parquet, DuckDB and other systems take them for UTF-8). No
character that a terminal lacks stops a command. And there is a home and a user's name, which libraries ask for when
they are imported: torch, Prefect and Matplotlib fail, or write where they may not, without.
"""

import atexit
import codecs
import getpass
import io
import locale
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path


def prepare() -> None:
    """Make this process, and those that it starts, so. Starts Python anew where its file names are not UTF-8."""
    _take_names_for_utf8()
    atexit.register(_say_nothing_more)  # first, and so called last
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=_encoding(stream), errors="escape")
    _have_a_home()
    _have_a_name()


def _take_names_for_utf8() -> None:
    if codecs.lookup(sys.getfilesystemencoding()).name == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"  # for Ray's workers, and other processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _encoding(stream: io.TextIOWrapper) -> str:
    """How a stream is written: as the user says, as a terminal needs it, and else in UTF-8, whoever reads it."""
    of_terminal = codecs.lookup(locale.getencoding()).name
    asked = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    if asked or not sys.flags.utf8_mode or not stream.isatty() or of_terminal == "ascii":
        return stream.encoding  # ascii: the C locale, in which terminals show UTF-8 all the same
    return of_terminal


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""Characters that a stream cannot carry, as JSON writes them: `\\u00e9`, and two of those beyond 16 bits."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2)), error.end


codecs.register_error("escape", _escaped)


def _say_nothing_more() -> None:
    """Leave to nobody what the interpreter's own end has to say.

    DuckDB's bindings list a hundred lines of what a process still holds then, where Prefect's threads keep modules.
    """
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _have_a_home() -> None:
    """Set HOME where there is none, as for a user of a container who has no entry among the users."""
    home = os.path.expanduser("~")  # noqa: PTH111  `Path.home` raises where there is none
    if Path(home).is_dir() and (home != "/" or os.access(home, os.W_OK)):
        return
    private = Path(tempfile.gettempdir()) / f"shardseer-home-{os.getuid()}"
    with suppress(FileExistsError):
        private.mkdir(mode=0o700)
    if private.is_symlink() or private.stat().st_uid != os.getuid():  # others can make it, too
        private = Path(tempfile.mkdtemp(prefix="shardseer-home-"))
    os.environ["HOME"] = str(private)


def _have_a_name() -> None:
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = os.environ["LOGNAME"] = str(os.getuid())
