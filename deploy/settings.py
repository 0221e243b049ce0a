"""What `up` and `down` take from the environment, and what they remember in the state folder."""

import importlib.util
import json
import os
import re
import shlex
import socket
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from deploy import processes

HOME = Path(__file__).resolve().parent.parent  # holds the packages: a checkout, or where a wheel was installed
IS_CHECKOUT = (HOME / "pyproject.toml").is_file()
HEARTBEAT_SECONDS = 30  # between a flow run's signs of life; Prefect takes no less
DEFAULT_PORT = 4200
LAST_PORT = 65_535

PREFECT_SETTINGS = {  # a setting of the user's own environment wins
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # how soon a run that was asked for starts
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Up(NamedTuple):
    """What is up: the server's port, and the token in the environment of all that was started."""

    port: int
    token: str


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
        return Up(**json.loads(state_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_state(up: Up) -> None:
    """Remember what is up."""
    state_folder().mkdir(parents=True, exist_ok=True)
    state_file().write_text(json.dumps(up._asdict()))


def typed(verb: str) -> str:
    """The command for `up` or `down` as a person types it here."""
    return f"make {verb}" if IS_CHECKOUT else f"{shlex.quote(sys.executable)} -m deploy.local {verb}"


def with_settings(verb: str, **settings: str) -> str:
    """The same with settings: make takes them as arguments, a shell in front of the command."""
    words = " ".join(f"{name}={value}" for name, value in settings.items())
    return f"{typed(verb)} {words}" if IS_CHECKOUT else f"{words} {typed(verb)}"


def images_and_output() -> tuple[str, str]:
    """What the nightly deployment classifies: IMAGES and OUT, else the photographs that scikit-image ships."""
    images, output = os.environ.get("IMAGES"), os.environ.get("OUT") or "out"
    if not images:
        found = importlib.util.find_spec("skimage")
        if found is None or found.origin is None:
            example = with_settings("up", IMAGES="/folder/with/images", OUT="/folder/for/results")
            raise SystemExit(f"Say what to classify: {example}")
        images = str(Path(found.origin).parent / "data")
    return _absolute(images), _absolute(output)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def environment(up: Up) -> dict[str, str]:
    """The environment of the server, the worker and the runs."""
    images, output = images_and_output()
    # The flow that runs is the one beside this module, whatever the folder that it runs in.
    own = [] if str(HOME) == str(Path(sysconfig.get_path("purelib")).resolve()) else [str(HOME)]
    paths = [*own, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **PREFECT_SETTINGS,
        **os.environ,
        "PREFECT_HOME": str(state_folder() / "prefect"),
        "PREFECT_API_URL": api_url(up.port),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(paths),
        "IMAGES": images,
        "OUT": output,
        processes.TOKEN: up.token,
    }


def api_url(port: int) -> str:
    """The address of the server's API."""
    return f"http://127.0.0.1:{port}/api"


def choose_port(last: int | None) -> int:
    """PORT, else the port of last time, else 4200; where that is taken, PORT fails and the others give way."""
    asked = os.environ.get("PORT")
    if asked and not (re.fullmatch("[0-9]{1,5}", asked) and 1 <= int(asked) <= LAST_PORT):
        example = with_settings("up", PORT=str(DEFAULT_PORT))
        raise SystemExit(f"PORT is {asked!r}; it must be a number from 1 to {LAST_PORT}: {example}")
    for port in (int(asked or 0) or last or DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if asked:
                    example = with_settings("up", PORT="…")
                    raise SystemExit(f"Port {asked} is taken. Choose another: {example}") from None
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("No port is free on 127.0.0.1.")
