"""What Prefect shows of a flow run: its name, its tags, its state with one sentence, and a log without a traceback."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.testing.utilities import prefect_test_harness

from flows import flow_runs
from flows.classify import classify_images
from flows.failures import in_one_line
from flows.train import train_classifier
from pipeline.errors import RequestError, RunError
from tests.images import make_old

Crops = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=200):
        yield


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Whatever Prefect logs of tasks and flows, tracebacks included."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    handler, loggers = Kept(), [logging.getLogger(f"prefect.{name}") for name in ("task_runs", "flow_runs")]
    for logger in loggers:
        logger.addHandler(handler)
    yield found
    for logger in loggers:
        logger.removeHandler(handler)


def stored(state: State[Any]) -> FlowRun:
    """The flow run as the server knows it."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def test_a_run_says_what_it_did(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images = crops(3, "photos of 2024")
    (images / "broken.jpg").write_bytes(b"no image")
    make_old(images)
    arguments = (str(images), str(tmp_path / "out"), str(tiny_bundle), {"workers": "inline"})
    first = classify_images(*arguments, return_state=True)
    (run,) = first.result().runs
    known = stored(first)
    assert known.state_name == "Completed"
    assert re.fullmatch(rf"Run {run.run}: 4 images, 1 error, [\d.,]+ images/s", known.state.message)
    assert re.fullmatch(r"photos of 2024 \d{4}-\d\d-\d\d \d\d:\d\d [0-9a-f]{6}", known.name)
    assert set(known.tags) == {"shardseer", f"model: {run.model}", "device: cpu"}

    second = classify_images(*arguments, return_state=True)
    assert second.result().runs == ()
    known = stored(second)
    assert (known.state_name, known.state.message) == ("Completed", "Nothing new: 4 images, all classified already.")
    assert known.name != stored(first).name


def test_a_training_says_what_it_did(few_digits: Path, tmp_path: Path) -> None:
    arguments = (str(few_digits), str(tmp_path / "my bundle"), {"epochs": 1, "device": "cpu"})
    known = stored(train_classifier(*arguments, return_state=True))
    assert re.fullmatch(r"Bundle .*/my bundle: accuracy \d\.\d{3} on \d+ images\.", known.state.message)
    assert known.name.startswith("my bundle 2")
    assert set(known.tags) == {"shardseer", "model: plain", "device: cpu"}
    known = stored(train_classifier(*arguments, return_state=True))
    assert "is trained already" in known.state.message


WRONG: dict[str, tuple[Callable[..., State[Any]], dict[str, Any], str]] = {
    "images that are not there": (classify_images, {"images": "/nothing/here"}, "/nothing/here"),
    "an option out of range": (classify_images, {"options": {"top_k": 0}}, "--top-k"),
    "an option that is none": (classify_images, {"options": {"topk": 3}}, "--topk"),
    "options that are no object": (classify_images, {"options": "fast"}, "object"),
    "a model that is none": (classify_images, {"model": "./no-bundle"}, "no-bundle"),
    "a number for a folder": (classify_images, {"images": 7}, "images"),
    "an output in no store that is known": (classify_images, {"output": "ftp://bucket/out"}, "ftp://"),
    "labelled images that are not there": (train_classifier, {"labelled": "/nothing/here"}, "/nothing/here"),
    "a setting out of range": (train_classifier, {"recipe": {"epochs": 0}}, "--epochs"),
    "settings that are no object": (train_classifier, {"recipe": [1]}, "object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_one_sentence_everywhere(
    case: str, crops: Crops, tiny_bundle: Path, tmp_path: Path, logged: list[str]
) -> None:
    flow, changed, expected = WRONG[case]
    parameters: dict[str, Any] = {"output": str(tmp_path / "out")}
    if flow is classify_images:
        parameters |= {"images": str(crops(1)), "model": str(tiny_bundle)}
    else:
        parameters |= {"labelled": str(crops(1))}
    state: State[Any] = flow(**{**parameters, **changed}, return_state=True)
    message = stored(state).state.message
    assert stored(state).state_name == "Failed"
    assert expected in message
    assert "\n" not in message and not message.startswith(("Flow run", "Validation"))
    assert "Traceback" not in "\n".join(logged) and "NoneType" not in "\n".join(logged)
    with pytest.raises(RequestError) as raised:
        state.result()
    assert in_one_line(raised.value) == message
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_is_one_sentence_everywhere(
    crops: Crops, tiny_bundle: Path, tmp_path: Path, logged: list[str]
) -> None:
    images = crops(2)
    for image in images.iterdir():
        image.write_bytes(b"no image")
    options = {"workers": "inline", "max_error_rate": 0.1}
    state = classify_images(str(images), str(tmp_path / "out"), str(tiny_bundle), options, return_state=True)
    with pytest.raises(RunError):
        state.result()
    message = stored(state).state.message
    assert "--max-error-rate" in message
    assert any(message in line for line in logged)
    assert "Traceback" not in "\n".join(logged)


def test_what_nobody_expected_keeps_its_traceback(logged: list[str]) -> None:
    from prefect import flow, task

    @task
    def broken() -> None:
        raise AssertionError("our own mistake")

    @flow
    def other() -> None:
        flow_runs.log_sentences()
        broken()

    assert other(return_state=True).is_failed()
    assert "Traceback" in "\n".join(logged)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/photos/", "photos"),
        ("s3://bucket/a/b", "b"),
        ("s3://bucket", "bucket"),
        ("https://user:secret@host/set?token=secret", "set"),
        ("s3://key:secret@bucket/", "bucket"),
        ("https://user:secret@host?token=secret#secret", "host"),
        ("/data/what?/now#", "now#"),
        ("plain", "plain"),
        ("/a/red\x1b[31m\u202e\ntext", r"red\x1b[31…02e\ntext"),
        ("/a/caf\udce9", r"caf\udce9"),
        ("/" + "x" * 200 + "y", "x" * 10 + "…" + "x" * 8 + "y"),
        ("/" + "é" * 20, "é" * 20),
        ("/", "–"),
        ("", "–"),
        (None, "–"),
    ],
)
def test_a_name_is_one_short_line_of_text(path: object, name: str) -> None:
    assert flow_runs.short_name(path, 20) == name


def test_a_result_is_there_where_the_server_hands_back_a_state_without_it() -> None:
    """As where it stored the state, could not answer, and was asked again."""

    def flow(answer: Any, *, return_state: bool) -> State[Any]:
        assert return_state
        completed = flow_runs.completed("done", answer)
        return completed.model_copy(update={"data": None})

    state, result = flow_runs.called(flow, 42)
    assert (state.message, result) == ("done", 42)
    _, error = flow_runs.called(lambda return_state: flow_runs.failed(RunError("wrong")))
    assert isinstance(error, RunError)
