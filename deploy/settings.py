"""What `up` and `down` take from the environment, and what they remember in the state folder."""

import fcntl
import importlib.util
import json
import os
import re
import shlex
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deploy import processes
from pipeline.errors import RequestError
from pipeline.output_names import output_named

HOME = Path(__file__).resolve().parent.parent  # holds the packages: a checkout, or where a wheel was installed
IS_CHECKOUT = (HOME / "pyproject.toml").is_file()
HEARTBEAT_SECONDS = 30  # between a flow run's signs of life; Prefect takes no less
DEFAULT_PORT = 4200
LAST_PORT = 65_535
STARTED_WITH = ("PREFECT_", "SHARDSEER_", "RAY_", "PYTHON", "HTTP", "SSL_")  # how names begin that matter to what is up

PREFECT_SETTINGS = {  # a setting of the user's own environment wins
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # how soon a run that was asked for starts
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Up(NamedTuple):
    """What is up: the server's port, the token in the environment of all that was started, what was deployed there.

    The latter as a digest of the files that deployments are made of.
    """

    port: int
    token: str
    deployed: str = ""


class Nightly(NamedTuple):
    """What the nightly deployment classifies, into what, by which model (empty: the default network)."""

    images: str
    output: str
    model: str = ""


ASKED_AS = Nightly("IMAGES", "OUT", "MODEL")  # the environment variables that say so


def state_folder() -> Path:
    """Where the database, the logs and what is up are kept: $SHARDSEER_STATE, else a folder that `down` finds again.

    That is `.shardseer` in the checkout; for an installed package, `shardseer` in the user's folder for state.
    """
    if asked := os.environ.get("SHARDSEER_STATE"):
        return Path(asked).absolute()
    if IS_CHECKOUT:
        return HOME / ".shardseer"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "shardseer"


def state_file() -> Path:
    """Exists while something is up, and says what."""
    return state_folder() / "up.json"


def read_state() -> Up | None:
    """What is up, if anything."""
    try:
        stored = json.loads(state_file().read_text())
        return Up(**{name: stored[name] for name in Up._fields if name in stored})
    except (OSError, ValueError, TypeError):
        return None


def write_state(up: Up) -> None:
    """Remember what is up; whoever is killed meanwhile leaves what was there before."""
    written = state_file().with_suffix(".new")
    written.write_text(json.dumps(up._asdict()))
    written.replace(state_file())


@contextmanager
def locked(waiting: Callable[[], None]) -> Iterator[None]:
    """One `up` or `down` at a time; calls `waiting` where it has to wait for another."""
    state_folder().mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(state_folder() / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def typed(verb: str) -> str:
    """The command for `up` or `down` as a person types it here."""
    return f"make {verb}" if IS_CHECKOUT else f"{shlex.quote(sys.executable)} -m deploy.local {verb}"


def with_settings(verb: str, **settings: str) -> str:
    """The same with settings: make takes them as arguments, a shell in front of the command."""
    words = " ".join(f"{name}={value}" for name, value in settings.items())
    return f"{typed(verb)} {words}" if IS_CHECKOUT else f"{words} {typed(verb)}"


def wanted(deployed: Nightly | None) -> Nightly:
    """What IMAGES, OUT and MODEL ask for. What they leave out stays as it is deployed, or is the default.

    That is: the photographs that scikit-image ships, the folder `out`, the default network.
    """
    before = deployed or Nightly("", _absolute("out"))
    images = os.environ.get(ASKED_AS.images) or before.images or _photographs()
    return Nightly(
        images=_absolute(images),
        output=_absolute(os.environ.get(ASKED_AS.output) or before.output),
        model=_model(os.environ.get(ASKED_AS.model, before.model)),
    )


def check_asked() -> None:
    """Whether what is asked for can be, as far as that is known before anything runs. Raises `SystemExit`."""
    asked_port()
    for name in (ASKED_AS.images, ASKED_AS.output):
        if os.environ.get(name, "-").strip() == "":
            raise SystemExit(f"{name} is empty. Give it a folder, or leave it out.")
    try:
        output_named(os.environ.get(ASKED_AS.output, "-"))
    except RequestError as error:
        raise SystemExit(f"{ASKED_AS.output}: {error}") from None


def _photographs() -> str:
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        example = with_settings("up", IMAGES="/folder/with/images", OUT="/folder/for/results")
        raise SystemExit(f"Say what to classify: {example}")
    return str(Path(found.origin).parent / "data")


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _model(named: str) -> str:
    """A bundle by its absolute path, since runs have a working directory of their own; another model by its name."""
    return _absolute(named) if named.startswith((".", "/", "~")) or (Path(named).is_dir() and named) else named


def environment(up: Up) -> dict[str, str]:
    """The environment of the server, the worker and the runs."""
    # The flow that runs is the one beside this module, whatever the folder that it runs in.
    own = [] if str(HOME) == str(Path(sysconfig.get_path("purelib")).resolve()) else [str(HOME)]
    paths = [*own, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **PREFECT_SETTINGS,
        **{name: value for name, value in os.environ.items() if name not in ("PORT", *ASKED_AS)},
        "PREFECT_HOME": str(state_folder() / "prefect"),
        "PREFECT_API_URL": api_url(up.port),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(paths),
        processes.TOKEN: up.token,
    }


def without_effect(up: Up) -> list[str]:
    """The names of settings that differ from those which the running server and worker were started with."""
    now = environment(up)
    found = {"PORT"} if asked_port() not in (None, up.port) else set()
    for started in (*processes.running(up.token, "server"), *processes.running(up.token, "worker")):
        then = processes.environment(started)
        names = {name for name in (*now, *then) if name.startswith(STARTED_WITH)}
        found |= {name for name in names if then and now.get(name) != then.get(name)}
    return sorted(found)


def api_url(port: int) -> str:
    """The address of the server's API."""
    return f"http://127.0.0.1:{port}/api"


def asked_port() -> int | None:
    """PORT, where it is given. Raises `SystemExit` where it is none."""
    asked = os.environ.get("PORT")
    if not asked:
        return None
    if not (re.fullmatch("[0-9]{1,5}", asked) and 1 <= int(asked) <= LAST_PORT):
        example = with_settings("up", PORT=str(DEFAULT_PORT))
        raise SystemExit(f"PORT is {asked!r}; it must be a number from 1 to {LAST_PORT}: {example}")
    return int(asked)


def choose_port(last: int | None) -> int:
    """PORT, else the port of last time, else 4200; where that is taken, PORT fails and the others give way."""
    asked = asked_port()
    if asked is not None:
        if not is_free(asked):
            raise SystemExit(f"Port {asked} is taken. Choose another: {with_settings('up', PORT='…')}")
        return asked
    for port in (last or DEFAULT_PORT, DEFAULT_PORT):
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
