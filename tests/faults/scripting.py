"""Scripts a fault, or a pause, at a boundary in the processes of a run; `hook/sitecustomize.py` makes it happen there.

A test that has to do something to a run at a certain moment has the run wait there, so that no machine is too fast or
too slow for it.
"""

import json
from pathlib import Path
from typing import Any

from tests.processes import ROOT

HOOK = ROOT / "tests" / "faults" / "hook"


class ScriptedFault:
    """A script in a folder, the environment of processes that suffer from it, and who has come to its boundary."""

    def __init__(self, folder: Path, name: str = "fault", **script: Any) -> None:
        """`script` is as in the hook. The name tells several scripts in one folder apart."""
        self.file = folder / f"{name}.json"
        self._reached = folder / f"{name}.reached"
        self.file.write_text(json.dumps({"reached": str(self._reached), **script}))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to suffer the fault."""
        return {"SHARDSEER_FAULT": str(self.file), "PYTHONPATH": f"{HOOK}:{ROOT}"}

    def reached(self) -> list[int]:
        """The processes that have come to the boundary, in that order."""
        found = sorted(self._reached.parent.glob(f"{self._reached.name}.[0-9]*"), key=lambda file: int(file.suffix[1:]))
        return [int(text) for file in found if (text := file.read_text())]

    def past(self) -> set[int]:
        """The processes that paused and have gone on."""
        return {int(file.suffix[1:]) for file in self._reached.parent.glob(f"{self._reached.name}.past.*")}

    def release(self) -> None:
        """Let the paused processes go on."""
        self._reached.with_name(f"{self._reached.name}.go").touch()
