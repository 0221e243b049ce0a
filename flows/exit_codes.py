"""What a command says when it cannot do its work: one sentence and an exit code."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from flows import console
from flows.console import message
from flows.failures import EXPECTED, exit_code, sentences
from pipeline.printable import printable

UsageError: Any = typer.BadParameter.__mro__[1]  # click's, which newer versions of typer bring along by another name


def exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what can go wrong into a sentence and an exit code."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **named: Any) -> None:
        try:
            command(*arguments, **named)
            _flush()
        except (*EXPECTED, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError) and console.is_reader_gone():
                raise  # see `Commands`
            first, *more = sentences(error)
            for text in (f"shardseer: {first}", *more):
                message(text)
            raise typer.Exit(exit_code(error)) from None

    return guarded


def _flush() -> None:
    """Write what is buffered while an error can still be told from a reader that has gone."""
    if sys.stdout is not None:
        sys.stdout.flush()


class Commands(TyperGroup):
    """The commands of the command line: what holds for each of them, while it is read and while it runs.

    Where one is typed wrongly, what was typed is shown as text. Where nobody reads on (`… | head`), it ends in silence.
    """

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """What is typed in front of a command, `--help` included."""
        with _held():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: Any) -> Any:
        """A command, whose own arguments are read here."""
        with _held():
            return super().invoke(ctx)


@contextmanager
def _held() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.message = printable(error.message)
        raise
    except (BrokenPipeError, SystemExit) as error:
        if not (isinstance(error.__context__, BrokenPipeError) or console.is_reader_gone()):  # rich exits from one
            raise
        console.end_output()
        raise typer.Exit(console.READER_GONE) from None
