"""A real S3 server (SeaweedFS) on this machine: started, asked for buckets, killed, started again on its data."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.processes import free_port, wait_until

ACCESS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
READER = "reader"  # another access key, with the same secret one, that may only list and read
WITHOUT_READING = {**ACCESS, "AWS_ACCESS_KEY_ID": "lister"}  # who may list, but read nothing
START_SECONDS = 200  # bounds a test that fails


class S3Server:
    """The server while it is held, with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = {f"-{part}.port": free_port() for part in ("master", "volume", "filer")}
        self._ports |= {f"-{part}.port.grpc": free_port() for part in ("master", "volume", "filer", "s3")}
        self._ports |= {f"-s3.port.{part}": free_port() for part in ("iceberg", "lance")}
        self._keys = folder / "keys.json"
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        reader = {**ACCESS, "AWS_ACCESS_KEY_ID": READER}
        identities = [
            _identity(ACCESS, everything),
            _identity(reader, ["Read", "List"]),
            _identity(WITHOUT_READING, ["List"]),
        ]
        self._keys.write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def filer(self) -> str:
        """Where its own file system is seen, with what S3 hides."""
        return f"http://127.0.0.1:{self._ports['-filer.port']}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment to find the server and to be let in."""
        return {**ACCESS, "AWS_ENDPOINT_URL": self.address}

    def cpu_seconds(self) -> float:
        """Seconds of the processors that it took since it was started."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        return sum(sum(each.cpu_times()[:2]) for each in (server, *server.children(recursive=True)))

    def __enter__(self) -> "S3Server":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it takes and gives objects."""
        command = [Path(sys.executable).parent / "weed", "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1"]
        # Every bucket takes seven volumes.
        command += [
            "-ip.bind=127.0.0.1",
            "-volume.max=1000",
            "-master.volumeSizeLimitMB=100",
            "-master.telemetry=false",
        ]
        command += ["-s3", f"-s3.port={self._port}", f"-s3.config={self._keys}"]
        command += [f"{option}={value}" for option, value in self._ports.items()]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        wait_until(self._is_ready, START_SECONDS, "the S3 server")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=120)
            self._process = None

    def bucket(self, name: str) -> Any:
        """A bucket, made where it is not there, as a store of obstore's."""
        import obstore.store
        from pyarrow import fs

        server = fs.S3FileSystem(
            access_key=ACCESS["AWS_ACCESS_KEY_ID"],
            secret_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=self.address,
            allow_bucket_creation=True,
        )
        server.create_dir(name)
        return obstore.store.S3Store(
            name,
            config={
                "access_key_id": ACCESS["AWS_ACCESS_KEY_ID"],
                "secret_access_key": ACCESS["AWS_SECRET_ACCESS_KEY"],
                "region": ACCESS["AWS_REGION"],
                "endpoint": self.address,
            },
            client_options={"allow_http": True},
        )

    def _is_ready(self) -> bool:
        import obstore

        try:
            urllib.request.urlopen(f"{self.address}/status", timeout=20).close()
            obstore.put(self.bucket("probe"), "there", b"")
        except (OSError, obstore.exceptions.BaseError):  # it starts
            return False
        return True


def _identity(access: Mapping[str, str], actions: list[str]) -> dict[str, Any]:
    keys = {"accessKey": access["AWS_ACCESS_KEY_ID"], "secretKey": access["AWS_SECRET_ACCESS_KEY"]}
    return {"name": access["AWS_ACCESS_KEY_ID"], "credentials": [keys], "actions": actions}
