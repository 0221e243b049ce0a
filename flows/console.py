"""The terminal: stdout and stderr as consoles on which every string is text.

No markup (`[red]`), no `:smile:`, no character that steers a terminal: a name is shown as it is.
Where the reader of a pipe has gone (`… | head`), a command ends in silence, as others do.
"""

import os
import select
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.printable import printable

PIPE_WIDTH = 240  # columns of a table where there is no terminal to fit into
READER_GONE = 141  # what a shell reports of a command that SIGPIPE ended


class PlainConsole(Console):
    """A console that takes strings for text, whatever they hold; a line break in one is shown, not made."""

    def __init__(self, **named: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **named)

    def render_str(self, text: str, **named: Any) -> Text:
        """Every string comes through here: what is printed, and titles, heads and cells of tables."""
        return super().render_str(printable(text), **named)

    def on_broken_pipe(self) -> None:
        """Leave it to `exit_codes`, as for what is printed without a console."""
        raise BrokenPipeError


err = PlainConsole(stderr=True)
out = PlainConsole(width=None if sys.stdout is not None and sys.stdout.isatty() else PIPE_WIDTH)


def message(text: str) -> None:
    """One sentence for the person, on stderr."""
    err.print(text, soft_wrap=True)


def line(text: str = "") -> None:
    """One line of a result, on stdout."""
    out.print(text, soft_wrap=True)


def is_reader_gone() -> bool:
    """Whether nobody reads stdout or stderr any more: then, and only then, a broken pipe is no failure."""
    return bool(_broken())


def end_output() -> None:
    """Let what is still buffered for a reader that has gone end nowhere, not in an error when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in _broken():
        os.dup2(nowhere, descriptor)


def _broken() -> list[int]:
    """Those of stdout and stderr that lead to a pipe without a reader."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # errors are always reported
    return [descriptor for descriptor, event in poll.poll(0) if event & select.POLLERR]
