"""What an error that ends a command says: the same sentences on stderr, in `--json`, and as a flow run's message."""

import duckdb

from pipeline import storage
from pipeline.errors import RequestError, RunError
from pipeline.printable import printable

EXPECTED = (RequestError, RunError, OSError, duckdb.Error)  # of which there is a sentence; others are our mistakes
GO_ON = "When that is mended, continue with the same command."


def sentences(error: BaseException) -> tuple[str, ...]:
    """What one of `EXPECTED`, or Ctrl-C, says: one sentence, rarely more."""
    if isinstance(error, RequestError | RunError):
        return error.args
    if isinstance(error, KeyboardInterrupt):
        return ("interrupted; resume with the same command.",)
    if isinstance(error, OSError):  # the disk, the network: what is finished is kept
        where = f"{error.filename}: " if error.filename else ""
        return (printable(f"{where}{storage.cause(error)}. {GO_ON}"),)
    assert isinstance(error, duckdb.Error)  # a part that cannot be read, a disk too full to spill to
    return (printable(f"DuckDB: {' '.join(str(error).split())}. {GO_ON}"),)


def in_one_line(error: BaseException) -> str:
    """The same as one line of text."""
    return " ".join(" ".join(sentences(error)).split())


def exit_code(error: BaseException) -> int:
    """2 for a wrong request, 130 for Ctrl-C, 1 for what failed."""
    return 2 if isinstance(error, RequestError) else 130 if isinstance(error, KeyboardInterrupt) else 1
