"""The Prefect API that a command talks to: whether one is set up, and whether it answers.

Importing Prefect takes a second: nothing here does so before it is needed.
"""

import io
import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RequestError, RunError

if TYPE_CHECKING:
    from prefect.settings import Settings

ANSWER_SECONDS = 10.0  # for an API to answer the first request
OTHER = (
    "Another one is chosen by PREFECT_API_URL, as in http://127.0.0.1:4200/api; without it, and where Prefect's "
    "profile names none, the command needs no server."
)
TEMPORARY_SECONDS = 180  # for a temporary server to start; the first start makes its database


def api_is_configured() -> bool:
    """Whether an API is set in the environment or in Prefect's active profile."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    profiles = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"
    if not profiles.is_file() or "PREFECT_API_URL" not in profiles.read_text(encoding="utf-8"):
        return False  # spares importing Prefect, a second
    return _settings().api.url is not None


def prepare() -> None:
    """Set what Prefect reads when it is imported, unless the user chose otherwise: it sends nothing home, and waits."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", str(TEMPORARY_SECONDS))


@contextmanager
def answering() -> Iterator[None]:
    """While a flow is run: the API answers, or a temporary server does where none is set; what fails is a sentence.

    Raises `RequestError` where the address or the server is a wrong one, `RunError` where there is no answer.
    """
    import httpx

    try:
        _check()
        yield
    except httpx.HTTPStatusError as error:
        raise _refused(error.response.status_code) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise RequestError(f"{_api()}: that is no address ({error}). {OTHER}") from error
    except httpx.TransportError as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"{_api()} does not answer ({what}). When that server runs, give the same command again. {OTHER}"
        ) from error


def _settings() -> "Settings":
    """Prefect's settings. Raises `RequestError` where they are wrong."""
    import pydantic

    with redirect_stderr(io.StringIO()):  # Prefect prints some of what is raised below
        from prefect.settings import get_current_settings
    try:
        return get_current_settings()
    except pydantic.ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise RequestError(
            f"Prefect's settings are wrong: {found}. They come from PREFECT_… in the environment and Prefect's profile."
        ) from None


def _check() -> None:
    """Ask the API, by Prefect's own client and settings, for its version and for what only its users may read."""
    _settings()
    import prefect
    import pydantic
    from prefect.client.base import ServerType
    from prefect.client.orchestration import SyncPrefectClient, get_client
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1, PREFECT_API_REQUEST_TIMEOUT: ANSWER_SECONDS}):
        try:
            client: SyncPrefectClient = get_client(sync_client=True)
        except (RuntimeError, ValueError) as error:  # a temporary server that does not start, or may not
            raise RunError(
                f"No Prefect server could be started here: {' '.join(str(error).split())} {OTHER}"
            ) from error
        with client:
            try:
                if client.server_type != ServerType.CLOUD:  # which every version may use
                    _check_version(str(client.api_version()), prefect.__version__)
                client.read_flows(limit=1)
            except (json.JSONDecodeError, pydantic.ValidationError) as error:  # no JSON, or another one than Prefect's
                raise _no_api() from error


def _check_version(theirs: str, ours: str) -> None:
    if not re.match(r"\d+\.", theirs):
        raise _no_api()
    needed = ours.partition(".")[0]
    if theirs.partition(".")[0] != needed:
        raise RequestError(f"{_api()} is a Prefect server of version {theirs}; version {needed} is needed. {OTHER}")


def _no_api(status: str = "") -> RequestError:
    return RequestError(f"{_api()} answers, but not as a Prefect API does{status}. {OTHER}")


def _refused(status: int) -> RequestError | RunError:
    """What an API that answers with an HTTP error means."""
    if status in (401, 403):
        return RequestError(
            f"{_api()} refuses access (HTTP {status}). Set PREFECT_API_AUTH_STRING to the server's name:password, or "
            "PREFECT_API_KEY for Prefect Cloud."
        )
    if status < 500 and status != 429:
        return _no_api(f" (HTTP {status})")
    return RunError(f"{_api()} cannot serve now (HTTP {status}). Give the same command again later.")


def _api() -> str:
    """The API as a sentence names it, without a password."""
    url = urllib.parse.urlsplit(str(_settings().api.url or ""))
    shown = url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return f"The Prefect API at {shown}" if shown else "The temporary Prefect server"
