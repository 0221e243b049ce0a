"""Runs over a store that misbehaves: its faults end no row, and an object's own end one."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest

from flows import phases
from pipeline import object_store
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.run import querying, retrying
from pipeline.run.parts import read_receipt
from pipeline.run.reporting import Summary
from tests.images import make_crops
from tests.processes import wait_until
from tests.running import classify
from tests.s3 import WITHOUT_READING, S3Server
from tests.store_proxy import Request, StoreProxy

NUMBER = 70
IMAGES = "s3://failing/deep"


@pytest.fixture(scope="module", autouse=True)
def objects(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = s3.bucket("failing")
    for image in make_crops(tmp_path_factory.mktemp("failing") / "images", NUMBER).iterdir():
        obstore.put(store, f"deep/{image.name}", image.read_bytes())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def proxy(store_proxy: StoreProxy) -> Iterator[StoreProxy]:
    yield store_proxy
    store_proxy.outage = None


def classify_after(change: Callable[[], object], output: Path, model: Path, patience: float) -> Summary:
    """A run whose store changes when it is planned."""
    job = Job.of(IMAGES, str(output), str(model), {"workers": "inline", "source_patience": patience})
    with phases.Run(job, Events()) as run:
        assert run.plan() is not None
        change()
        run.classify()
        run.publish()
        return run.report()


def causes(output: Path) -> dict[str | None, int]:
    """How many rows there are by what is said of them; None for those without an error."""
    return dict(querying.connect(output).execute("SELECT error, count(*) FROM predictions GROUP BY ALL").fetchall())


def gets_of(key: str, status: int, code: str) -> Callable[[Request], tuple[int, str] | None]:
    return lambda request: (status, code) if request.kind == "GET" and request.path.endswith(key) else None


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "PermissionError: the store denies access"),
        (404, "NoSuchKey", "FileNotFoundError: no such object"),
        (500, "InternalError", "StoreFailureError: the store is out of order (HTTP 500)"),
    ],
)
def test_an_object_that_alone_is_not_given_is_a_row(
    proxy: StoreProxy, tmp_path: Path, tiny_bundle: Path, status: int, code: str, said: str
) -> None:
    def change() -> None:
        proxy.denied = gets_of("000007.jpg", status, code)

    classify_after(change, tmp_path / "out", tiny_bundle, patience=0.5)
    assert causes(tmp_path / "out") == {None: NUMBER - 1, said: 1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"denied": lambda request: (403, "AccessDenied")}, "cannot be read: the credentials lack the right"),
        ({"denied": gets_of("", 403, "AccessDenied")}, "cannot be read: the credentials lack the right"),
        ({"denied": lambda request: (400, "ExpiredToken")}, "cannot be read: the credentials have expired"),
        ({"denied": lambda request: (500, "InternalError")}, "failed 3 times.*the store is out of order"),
        ({"outage": "refused"}, "failed 3 times.*the connection to the store failed"),
    ],
    ids=["denied", "objects denied", "expired", "out of order", "away"],
)
def test_a_store_that_gives_nothing_stops_the_run_which_can_be_continued(
    proxy: StoreProxy, tmp_path: Path, tiny_bundle: Path, change: dict[str, object], sentence: str
) -> None:
    output = tmp_path / "out"

    def begin() -> None:
        for name, value in change.items():
            setattr(proxy, name, value)

    with pytest.raises(RunError, match=f"(?s){sentence}.*continue with the same command"):
        classify_after(begin, output, tiny_bundle, patience=0)
    assert not list(output.glob("predictions/**/*.parquet"))
    proxy.denied = proxy.outage = None
    summary = classify(IMAGES, output, tiny_bundle)  # type: ignore[arg-type]
    assert summary is not None and (summary.rows, summary.error) == (NUMBER, 0)


def test_credentials_without_the_right_to_read_stop_the_run(
    s3: S3Server, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in WITHOUT_READING.items():
        monkeypatch.setenv(name, value)
    object_store.bucket.cache_clear()
    with pytest.raises(RunError, match="s3://failing cannot be read: the credentials lack the right"):
        classify(IMAGES, tmp_path / "out", tiny_bundle)  # type: ignore[arg-type]
    object_store.bucket.cache_clear()


def test_a_slow_store_is_what_the_account_blames(proxy: StoreProxy, tmp_path: Path, tiny_bundle: Path) -> None:
    def change() -> None:
        proxy.latency = 2.0

    account = classify_after(change, tmp_path / "out", tiny_bundle, patience=0).account
    assert account is not None and account.bottleneck == "source_wait"


def test_an_outage_in_the_middle_is_waited_for(proxy: StoreProxy, tmp_path: Path, tiny_bundle: Path) -> None:
    ending = threading.Thread(target=lambda: _end(proxy))

    def begin() -> None:
        proxy.forget()
        proxy.outage = "hanging"
        ending.start()

    classify_after(begin, tmp_path / "out", tiny_bundle, patience=200)
    ending.join()
    assert causes(tmp_path / "out") == {None: NUMBER}


def _end(proxy: StoreProxy) -> None:
    wait_until(lambda: len(proxy.gets()) > NUMBER // 2, 200, "requests to hang")
    proxy.outage = "refused"
    proxy.outage = None


def test_throttled_requests_and_cut_bodies_cost_no_row(proxy: StoreProxy, tmp_path: Path, tiny_bundle: Path) -> None:
    proxy.throttled, proxy.cut = 0.2, 0.2
    classify_after(lambda: None, tmp_path / "out", tiny_bundle, patience=200)
    assert causes(tmp_path / "out") == {None: NUMBER}
    assert proxy.faults["throttled"] > 5 and proxy.faults["cut"] > 5


def test_an_object_that_is_not_given_for_a_while_is_waited_for(
    proxy: StoreProxy, tmp_path: Path, tiny_bundle: Path
) -> None:
    """While all others are given: for longer than the client itself tries again."""
    refuse = gets_of("000007.jpg", 503, "SlowDown")
    proxy.denied = lambda request: refuse(request) if len(proxy.gets("000007.jpg")) < 10 else None
    classify_after(lambda: None, tmp_path / "out", tiny_bundle, patience=200)
    assert causes(tmp_path / "out") == {None: NUMBER} and proxy.faults["denied"] == 9


def test_each_object_is_asked_for_once(proxy: StoreProxy, tmp_path: Path, tiny_bundle: Path) -> None:
    classify_after(proxy.forget, tmp_path / "out", tiny_bundle, patience=0)
    assert proxy.kinds == {"GET": NUMBER}
    receipts = map(read_receipt, (tmp_path / "out").glob("predictions/*/*/*.parquet"))
    assert sum(receipt.decoded_again for receipt in receipts) > 0, "nothing was decoded again"
