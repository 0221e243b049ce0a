"""deploy/: what `make up` starts, what prefect.yaml deploys, and what is left when something of it is killed."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.faults.boundaries import BOUNDARIES
from tests.faults.scripting import ScriptedFault
from tests.flows.server import DEPLOYMENT, Up, processes_of, published, staged
from tests.processes import ROOT, alive, cmdline, shardseer, wait_until

Crops = Callable[..., Path]
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's own; a minute after a raylet that was killed


def paths(output: Path) -> list[str]:
    """The path of every published row."""
    rows = duckdb.sql(f"SELECT path FROM '{output}/predictions/*/*/*.parquet' ORDER BY path").fetchall()
    return [path for (path,) in rows]


def files(images: Path) -> list[str]:
    return sorted(str(path) for path in images.iterdir())


def run_id(output: Path) -> str:
    (folder,) = [path for path in (output / "runs").iterdir() if path.is_dir()]
    return folder.name


def paused_run(up: Up, images: Path, output: Path) -> tuple[str, ScriptedFault]:
    """A flow run that waits after it has staged two of its parts, until it is released."""
    pause = ScriptedFault(output.parent, **BOUNDARIES["after staging"], action="PAUSE", times=1)
    up.suffer(pause)
    flow_run = up.start(images, output)
    assert wait_until(pause.reached, 120, "the driver to stage two parts", up.log) == [up.driver(flow_run)]
    up.suffer(None)
    assert len(staged(output)) == 2
    return flow_run, pause


def assert_resumes(up: Up, images: Path, output: Path, run: str) -> None:
    """The same parameters continue the same run: every image once, what was staged not made again."""
    before = {part.name: part.stat().st_mtime_ns for part in staged(output)}
    assert before
    assert not published(output)
    assert up.end_of(up.start(images, output)) == "COMPLETED", up.log()
    assert run_id(output) == run
    assert paths(output) == files(images)
    after = {part.name: part.stat().st_mtime_ns for part in published(output)}
    assert before.items() <= after.items()


def test_a_deployed_run_publishes_parts_that_name_their_actor_and_flow_run(
    up: Up, crops: Crops, tmp_path: Path
) -> None:
    images, output = crops(70), tmp_path / "out"
    parameters = ["--param", f"images={images}", "--param", f"output={output}"]
    ray = json.dumps({"workers": "ray"})
    done = up.prefect("deployment", "run", DEPLOYMENT, *parameters, "--param", f"options={ray}", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr + up.log()
    assert paths(output) == files(images)

    (run,) = [run for run in up.api("flow_runs/filter", limit=200) if run["parameters"]["output"] == str(output)]
    assert (run["state"]["type"], run["name"]) == ("COMPLETED", str(images))
    for part in published(output):
        metadata = pq.read_metadata(part).metadata
        assert metadata[b"shardseer.flow_run"].decode() == run["id"]
        receipt = json.loads(metadata[b"shardseer.receipt"])
        assert receipt["worker"]["kind"] == "ray"
        assert receipt["worker"]["actor"] == metadata[b"shardseer.actor"].decode() != ""

    shown = up.api("artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    assert {artifact["key"]: artifact["type"] for artifact in shown} == {
        "classifying": "progress",
        "classification": "markdown",
    }
    assert {artifact["type"]: artifact["data"] for artifact in shown}["progress"] == 100
    beats = up.api("events/filter", filter={"event": {"name": ["prefect.flow-run.heartbeat"]}})["events"]
    assert f"prefect.flow-run.{run['id']}" in {beat["resource"]["prefect.resource.id"] for beat in beats}


def test_a_run_that_cannot_be_fails_with_the_sentence(up: Up, tmp_path: Path) -> None:
    flow_run = up.start(tmp_path / "nothing here", tmp_path / "out")
    assert up.end_of(flow_run) == "FAILED"
    assert "nothing here" in up.api(f"flow_runs/{flow_run}")["state"]["message"]
    shown = up.api("artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run]}})
    assert ["nothing here" in artifact["data"] for artifact in shown if artifact["type"] == "markdown"] == [True]
    assert not (tmp_path / "out").exists()


def test_the_form_in_the_browser_offers_every_parameter(up: Up) -> None:
    schema = up.api(f"deployments/name/{DEPLOYMENT}")["parameter_openapi_schema"]
    assert list(schema["properties"]) == ["images", "output", "model", "options"]
    assert all(field["description"] for field in schema["properties"].values())
    assert schema["required"] == ["images", "output"]
    options = schema["definitions"]["Options"]["properties"]
    assert all(field["description"] for field in options.values())
    assert options["workers"]["enum"] == ["auto", "ray", "inline"]
    assert options["device"]["enum"] == ["auto", "cpu", "cuda"]


def test_the_deployment_is_nightly_one_at_a_time_and_knows_no_folder_of_this_machine(up: Up) -> None:
    deployment = up.api(f"deployments/name/{DEPLOYMENT}")
    (schedule,) = deployment["schedules"]
    assert schedule["active"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * *", "Etc/UTC")
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert (deployment["pull_steps"], deployment["path"]) == ([], None)
    assert deployment["parameters"]["images"] == up.environment["IMAGES"]
    assert deployment["parameters"]["output"] == up.environment["OUT"]
    assert up.api("work_pools/shardseer")["type"] == "process"


def test_every_deployment_in_the_file_has_a_name_and_says_what_to_pull() -> None:
    deployments = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]
    assert deployments
    assert all(each["name"] and "pull" in each for each in deployments)


def test_up_again_says_so_and_changes_nothing(up: Up) -> None:
    before = {pid for pid in up.processes() if " start " in cmdline(pid)}
    again = up.command("up")
    assert "It is up already." in again.stderr
    export, run = again.stdout.splitlines()
    assert export == f"export PREFECT_API_URL=http://127.0.0.1:{up.port}/api"
    assert f"deployment run {DEPLOYMENT} --param 'images=" in run
    assert {pid for pid in up.processes() if " start " in cmdline(pid)} == before
    automations = up.api("automations/filter", limit=200)
    (zombies,) = [automation for automation in automations if automation["name"] == "crash zombies"]
    assert zombies["enabled"]
    assert zombies["trigger"]["posture"] == "Proactive"
    assert zombies["trigger"]["after"] == ["prefect.flow-run.heartbeat"]
    assert [(action["type"], action["state"]) for action in zombies["actions"]] == [
        ("change-flow-run-state", "CRASHED")
    ]


def test_every_port_is_open_to_this_machine_only(up: Up) -> None:
    inodes = {str(link.readlink()) for pid in up.processes() for link in Path(f"/proc/{pid}/fd").iterdir()}
    tables = [Path("/proc/net") / table for table in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}
    assert listening == {"0100007F"}  # 127.0.0.1


def test_a_schedule_of_every_minute_runs_with_nobody_asking(up: Up, crops: Crops, tmp_path: Path) -> None:
    images, output = crops(70), tmp_path / "out"
    wanted = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())
    (deployment,) = wanted["deployments"] = [each for each in wanted["deployments"] if each["name"] == "nightly"]
    deployment["name"] = "every-minute"
    deployment["schedules"] = [{"slug": "every-minute", "cron": "* * * * *", "timezone": "Etc/UTC", "active": True}]
    deployment["parameters"]["options"] = {"workers": "ray"}
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(wanted))
    done = up.prefect("deploy", "--all", "--prefect-file", str(file), IMAGES=str(images), OUT=str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    deployed = up.api("deployments/name/classify-images/every-minute")["id"]
    try:
        only = {"deployments": {"id": {"any_": [deployed]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        wait_until(lambda: up.api("flow_runs/filter", **only), 200, "a scheduled run to complete", up.log)
        (first, *_) = up.api("flow_runs/filter", sort="START_TIME_ASC", **only)
    finally:
        up.prefect("deployment", "delete", "classify-images/every-minute")
    assert first["auto_scheduled"]
    assert paths(output) == files(images)


def test_a_deployed_training_makes_a_bundle_that_classifies(up: Up, crops: Crops, tmp_path: Path) -> None:
    labelled, bundle = tmp_path / "labelled", tmp_path / "bundle"
    for number, name in enumerate(("dark", "light")):
        pictures = crops(30, f"labelled/{name}", size=(24, 24), seed=number)
        for path in pictures.iterdir():
            Image.open(path).point(lambda value, add=number: value // 3 + 160 * add).save(path)
    recipe = json.dumps({"epochs": 1, "size": 24})
    parameters = [f"labelled={labelled}", f"output={bundle}", f"recipe={recipe}"]
    named = [word for parameter in parameters for word in ("--param", parameter)]
    done = up.prefect("deployment", "run", "train-classifier/train", *named, "--watch")
    assert done.returncode == 0, done.stdout + done.stderr + up.log()
    assert {"config.json", "model.safetensors"} <= {path.name for path in bundle.iterdir()}
    assert shardseer("classify", labelled, "-o", tmp_path / "out", "-m", bundle).returncode == 0


def test_a_cancelled_run_is_cancelled_leaves_no_process_and_resumes(up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, _ = paused_run(up, many, output)
    ours, run = processes_of(flow_run), run_id(output)
    assert any("raylet" in line for line in alive(ours).values())
    assert up.prefect("flow-run", "cancel", flow_run).returncode == 0
    assert up.end_of(flow_run) == "CANCELLED", up.log()
    wait_until(lambda: not alive(ours), 60, "its processes to end", lambda: str(alive(ours)))
    assert_resumes(up, many, output, run)


def test_down_ends_everything_a_run_and_its_ray_included(many: Path, tmp_path: Path) -> None:
    own, output = Up(tmp_path / "up"), tmp_path / "out"
    assert "export PREFECT_API_URL=" in own.command("up").stdout
    paused_run(own, many, output)
    ours, run = own.processes(), run_id(output)
    assert any("raylet" in line for line in alive(ours).values())
    assert "Down:" in own.command("down").stderr
    assert not alive(ours)
    assert "Nothing is up." in own.command("down").stderr
    assert run_id(output) == run
    assert len(staged(output)) == 2
    assert not published(output)


@pytest.mark.faults
def test_a_killed_driver_costs_no_rows(up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, _ = paused_run(up, many, output)
    ours, run = processes_of(flow_run), run_id(output)
    os.kill(up.driver(flow_run), signal.SIGKILL)
    assert up.end_of(flow_run) == "CRASHED", up.log()
    held = {pid for pid, line in alive(ours).items() if not line.startswith(RAY_AGENTS)}
    wait_until(lambda: not alive(held), 60, "the actors and the raylet to end", lambda: str(alive(held)))
    wait_until(lambda: not alive(ours), 120, "Ray's agents to end", lambda: str(alive(ours)))
    assert_resumes(up, many, output, run)


@pytest.mark.faults
def test_a_killed_worker_costs_no_rows(own_up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, pause = paused_run(own_up, many, output)
    (worker,) = [pid for pid in own_up.processes() if " worker start " in cmdline(pid)]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not cmdline(worker), 60, "the worker to die")
    pause.release()
    assert own_up.end_of(flow_run) == "COMPLETED"  # the run is a process of its own
    assert paths(output) == files(many)
    assert "Starting a worker" in own_up.command("up").stderr
    assert own_up.end_of(own_up.start(many, output)) == "COMPLETED"
    assert paths(output) == files(many)


@pytest.mark.faults
def test_a_killed_server_costs_no_rows(own_up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, pause = paused_run(own_up, many, output)
    (server,) = [pid for pid in own_up.processes() if " server start " in cmdline(pid)]
    ours = processes_of(flow_run)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not cmdline(server), 60, "the server to die")
    pause.release()
    wait_until(lambda: published(output), 120, "the run to be published without a server", own_up.log)
    assert paths(output) == files(many)
    wait_until(lambda: not alive(ours), 120, "its processes to end", lambda: str(alive(ours)))
    assert "Starting a Prefect server" in own_up.command("up").stderr
    assert own_up.end_of(own_up.start(many, output)) == "COMPLETED", own_up.log()
    assert paths(output) == files(many)
