"""Errors by whose they are: the request's, the run's, the network's, or one image's with the stage where it failed."""

from enum import StrEnum

from pipeline.printable import printable


class _SentenceError(Exception):
    """Says what to do in one sentence, rarely in more `lines`: shown on many surfaces, so printable from the start."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(printable, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class RequestError(_SentenceError, ValueError):
    """The request was wrong; the message says what to change. The command line exits with 2."""


class RunError(_SentenceError, RuntimeError):
    """The run failed; the message says what happened and what to do. The command line exits with 1."""


class EngineError(RuntimeError):
    """The network fails whatever it is given: no image is at fault."""


WITHOUT_THEM = "If they are gone for good, --exclude leaves them out, and --fresh lists anew what is there."


class SourceUnavailableError(OSError):
    """The images cannot be read although none of them is at fault: a store or a mount fails. No row says so."""


class ErrorStage(StrEnum):
    """Where an image failed: the values of the column `error_stage`."""

    LIST = "list"  # the file or its folder could not be examined
    READ = "read"  # its bytes could not be read, or changed meanwhile
    DECODE = "decode"  # its bytes are no image that is allowed, or are broken, or it is too large
    CLASSIFY = "classify"  # the network failed on its pixels
    TIMEOUT = "timeout"  # reading, decoding or classifying it took too long
    WORKER = "worker"  # the process that worked at it was killed, or the machine ran out of memory

    @property
    def is_transient(self) -> bool:
        """Whether the error may go away by itself: such an image is tried again by the next run."""
        return self not in (ErrorStage.DECODE, ErrorStage.CLASSIFY)


TRANSIENT = tuple(stage.value for stage in ErrorStage if stage.is_transient)


class ImageError(Exception):
    """This image cannot be classified: the `stage` where it failed, and the cause in one line."""

    def __init__(self, stage: ErrorStage, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
