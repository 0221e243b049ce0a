"""Kill the process, or let the call fail, at every boundary of the commit path; the same command then ends well.

Inline, the process that classifies is the driver; with Ray, a fault in an attempt hits an actor, and the run itself
goes on.
"""

from typing import Any

import pytest

from tests.faults.boundaries import BOUNDARIES
from tests.faults.faulty_run import WENT_ON, FaultyRun

IN_ATTEMPT = ("after decode", "before the part's rename", "after the part's rename")


@pytest.mark.parametrize("moment", BOUNDARIES)
def test_kill_inline(moment: str, faulty: FaultyRun) -> None:
    faulty.script(**BOUNDARIES[moment], action="SIGKILL", times=1)
    code, _ = faulty.run("--workers", "inline")
    assert code == -9
    assert faulty.reached()
    faulty.recover("SIGKILL of the process, inline", moment, "--workers", "inline")


@pytest.mark.faults
@pytest.mark.parametrize("moment", [moment for moment in BOUNDARIES if moment not in IN_ATTEMPT])
def test_kill_the_driver_of_ray(moment: str, faulty: FaultyRun) -> None:
    faulty.script(**BOUNDARIES[moment], action="SIGKILL", times=1)
    code, _ = faulty.run("--workers", "ray")
    assert code == -9
    assert faulty.reached()
    faulty.recover("SIGKILL of the driver", moment, "--workers", "ray")


@pytest.mark.faults
@pytest.mark.parametrize("moment", IN_ATTEMPT)
@pytest.mark.parametrize("times", [1, 2])
def test_kill_actors(moment: str, times: int, faulty: FaultyRun) -> None:
    faulty.script(**BOUNDARIES[moment], action="SIGKILL", times=times)
    code, said = faulty.run("--workers", "ray")
    assert code == 0, said
    assert faulty.reached()
    faulty.compare(f"SIGKILL of an actor, {times}×", moment, WENT_ON)


PART_CALLS: dict[str, dict[str, Any]] = {
    "writing a part": {"call": "pyarrow.parquet.write_table", "match": "attempts", "nth": 3},
    "renaming a part": {"call": "os.replace", "match": "/attempts/", "nth": 3},
}


@pytest.mark.faults
@pytest.mark.parametrize("errno", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("moment", PART_CALLS)
def test_a_disk_fault_that_passes_costs_an_attempt_only(moment: str, errno: str, faulty: FaultyRun) -> None:
    faulty.script(**PART_CALLS[moment], when="before", action=errno, times=1)
    code, said = faulty.run("--workers", "ray")
    assert code == 0, said
    assert faulty.reached()
    faulty.compare(f"{errno} once, in an actor", moment, WENT_ON)
