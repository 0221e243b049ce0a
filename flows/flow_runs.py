"""What Prefect shows of a flow run: its name, its tags, and the state in which it ends, with one sentence.

Names and tags are text from outside, in one line and short. What the user or the world did wrong is a sentence: without
the traceback that Prefect logs of whatever is raised in a task or flow.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import MissingResult
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import BaseModel

from flows.failures import EXPECTED, in_one_line
from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.printable import printable
from pipeline.run.result import Result

WATCHER: ContextVar[Events | None] = ContextVar("WATCHER", default=None)  # who else hears how far a run is
RETURNED: ContextVar[list[Any] | None] = ContextVar("RETURNED", default=None)  # what flows that are called here return
Returned = TypeVar("Returned")
PROJECT = "shardseer"  # the tag of every flow run of ours
FOLDER_LETTERS, TAG_LETTERS = 60, 60  # of a folder in a name, of a tag
ID_LETTERS = 6  # of the flow run's id, which tell two of a minute apart


def named_after(parameter: str) -> Callable[[], str]:
    """What names a flow run: the folder of one of its parameters, the minute it is due (UTC), the end of its id."""

    def name() -> str:
        folder = short_name(flow_run.get_parameters().get(parameter), FOLDER_LETTERS)
        due = flow_run.get_scheduled_start_time()
        return f"{folder} {due:%Y-%m-%d %H:%M} {(flow_run.get_id() or '')[-ID_LETTERS:]}"

    return name


def short_name(path: object, letters: int) -> str:
    """The last part of a path, URI or name, as one line of so many letters at most, cut in the middle.

    Without what a URI may say of a user and a query, which may be secret.
    """
    scheme, is_uri, rest = str(path or "").partition("://")
    if is_uri:
        host, *folders = re.split("[?#]", rest)[0].split("/")
        rest = "/".join((host.rpartition("@")[2], *folders))
    parts = [part for part in (rest if is_uri else scheme).split("/") if part] or ["–"]
    text = printable(parts[-1])
    if len(text) <= letters:
        return text
    return f"{text[: letters // 2]}…{text[len(text) - (letters - letters // 2 - 1) :]}"


def tag(model: str, device: str) -> None:
    """Tag this flow run: with the project, a model's name and the device. Raises what Prefect raises."""
    ours = (PROJECT, f"model: {short_name(model, TAG_LETTERS)}", f"device: {device}")
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.get_id()), tags=list(dict.fromkeys((*flow_run.get_tags(), *ours))))


@contextmanager
def watched(events: Events) -> Iterator[None]:
    """Let `events` hear how far the flow run is that is called here meanwhile."""
    before = WATCHER.set(events)
    try:
        yield
    finally:
        WATCHER.reset(before)


def called(flow: Callable[..., Any], *arguments: Any) -> tuple[State[Any], Any]:
    """Run a flow here; return its state, and its result or error.

    A busy server may store the final state and not be able to say so; asked again it hands back the stored one, which
    is without the result. Then that is what the flow itself returned.
    """
    returned: list[Any] = []
    before = RETURNED.set(returned)
    try:
        state = flow(*arguments, return_state=True)
    finally:
        RETURNED.reset(before)
    try:
        return state, state.result(raise_on_failure=False)
    except MissingResult:
        if not returned:
            raise
        return state, returned[-1]


def completed(message: str, result: Returned) -> Returned:
    """The state of a flow run that returns `result`, with a message: Prefect hands the result on to who called."""
    if (returned := RETURNED.get()) is not None:
        returned.append(result)
    return cast(Returned, Completed(message=message, data=result))


def failed(error: Exception) -> Any:
    """The state of a flow run that `error`, one of `EXPECTED`, has ended; Prefect raises it for who called.

    Its message is the sentence.
    """
    return Failed(message=in_one_line(error), data=error)


def did(result: Result) -> str:
    """What a command did: `Run X: 1,234 images, 3 errors, 12.3 images/s`."""
    if not result.runs:
        return f"Nothing new: {counted(result.found or 0, 'image')}, all classified already."
    return "; ".join(
        f"Run {run.run}: {counted(run.rows, 'image')}, {counted(run.error, 'error')}, "
        f"{run.images_per_second:,} images/s"
        for run in result.runs
    )


def check_parameters(texts: dict[str, Any], settings: Any) -> None:
    """Whether a flow's parameters are of the types that they are declared with. Raises `RequestError`.

    Prefect would check them too, and fail the flow run with what pydantic prints.
    """
    for name, value in texts.items():
        if not isinstance(value, str):
            raise RequestError(f"The parameter {name} must be a text, not {value!r}.")
    if not isinstance(settings, BaseModel | dict):
        raise RequestError(f"Options must be an object of names and values, not {settings!r}.")


def log_sentences() -> None:
    """Let Prefect log what is `EXPECTED` to end a task or flow as its sentence; anything else keeps its traceback."""
    for logger in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(logger).addFilter(_as_sentence)


def _as_sentence(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, EXPECTED):
        record.msg, record.args, record.exc_info, record.exc_text = in_one_line(error), (), None, None
    return True
