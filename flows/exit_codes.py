"""What a command says when it cannot do its work: one sentence and an exit code."""

import functools
from collections.abc import Callable
from typing import Any

import duckdb
import typer

from flows.terminal import message
from pipeline.errors import RequestError, RunError
from pipeline.storage import cause


def exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what can go wrong into a sentence and an exit code."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **named: Any) -> None:
        try:
            command(*arguments, **named)
        except RequestError as error:
            message(f"shardseer: {error}")
            raise typer.Exit(2) from None
        except RunError as error:
            message(f"shardseer: {error}")
            raise typer.Exit(1) from None
        except OSError as error:  # the disk, the network: what is finished is kept
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
