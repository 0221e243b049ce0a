"""What a command says when it cannot do its work: one sentence and an exit code."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import typer
from typer.core import TyperGroup

from flows import console
from flows.console import message
from pipeline.errors import RequestError, RunError
from pipeline.printable import printable
from pipeline.storage import cause

UsageError: Any = typer.BadParameter.__mro__[1]  # click's, which newer versions of typer bring along by another name


def exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what can go wrong into a sentence and an exit code."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **named: Any) -> None:
        try:
            command(*arguments, **named)
            _flush()
        except (RequestError, RunError) as error:
            _say(error)
            raise typer.Exit(2 if isinstance(error, RequestError) else 1) from None
        except OSError as error:  # the disk, the network: what is finished is kept
            if isinstance(error, BrokenPipeError) and console.is_reader_gone():
                raise  # see `Commands`
            what = f"{error.filename}: " if error.filename else ""
            message(f"shardseer: {what}{cause(error)}. When that is mended, continue with the same command.")
            raise typer.Exit(1) from None
        except duckdb.Error as error:  # a part that cannot be read, a disk too full to spill to
            what = " ".join(str(error).split())
            message(f"shardseer: DuckDB: {what}. When that is mended, continue with the same command.")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            message("shardseer: interrupted; resume with the same command.")
            raise typer.Exit(130) from None

    return guarded


def _flush() -> None:
    """Write what is buffered while an error can still be told from a reader that has gone."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _say(error: RequestError | RunError) -> None:
    first, *more = error.args
    for text in (f"shardseer: {first}", *more):
        message(text)


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
