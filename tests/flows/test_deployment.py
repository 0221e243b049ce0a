"""deploy/: what `make up` starts, and what prefect.yaml deploys."""

import json
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.flows.server import DEPLOYMENT, Up, files, paths, processes_of, published
from tests.processes import ROOT, alive, cmdline, shardseer, wait_until

Crops = Callable[..., Path]


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
    assert run["state"]["type"] == "COMPLETED"
    assert "70 images, 0 errors" in run["state"]["message"]
    assert run["name"].startswith(f"{images.name} 20")
    assert {"shardseer", "device: cpu"} <= set(run["tags"])
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
    message = up.api(f"flow_runs/{flow_run}")["state"]["message"]
    assert "nothing here" in message and "\n" not in message
    wait_until(lambda: not alive(processes_of(flow_run)), 200, "its process to end, which logs until then")
    logged = [line["message"] for line in up.api("logs/filter", logs={"flow_run_id": {"any_": [flow_run]}})]
    assert message in logged
    assert not [line for line in logged if "Traceback" in line]
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
    assert deployment["parameters"]["options"] == {"max_error_rate": 0.2}
    assert up.api("work_pools/shardseer")["type"] == "process"


def test_every_deployment_in_the_file_has_a_name_and_says_what_to_pull() -> None:
    deployments = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]
    assert deployments
    assert all(each["name"] and "pull" in each for each in deployments)


def test_no_deployment_has_a_path_of_its_own_and_names_are_utf8_in_all() -> None:
    """An empty text would be the current folder; the service that starts a worker may have any locale."""
    for each in yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]:
        named = {key: value for key, value in each["parameters"].items() if key in ("images", "labelled", "output")}
        assert set(named.values()) <= {"{{ $IMAGES }}", "{{ $OUT }}"}
        assert each["work_pool"]["job_variables"]["env"]["PYTHONUTF8"] == "1"


def test_up_again_says_so_and_changes_nothing(up: Up) -> None:
    before = {pid for pid in up.processes() if " start " in cmdline(pid)}
    again = up.command("up")
    assert "It is up already." in again.stderr
    export, run = again.stdout.splitlines()
    assert export == f"export PREFECT_API_URL=http://127.0.0.1:{up.port}/api"
    assert f"deployment run {DEPLOYMENT} --param 'images=" in run
    assert {pid for pid in up.processes() if " start " in cmdline(pid)} == before


def test_up_with_other_settings_deploys_them_and_keeps_what_is_not_given(
    up: Up, tiny_bundle: Path, tmp_path: Path
) -> None:
    def deployed() -> dict[str, str]:
        parameters = up.api(f"deployments/name/{DEPLOYMENT}")["parameters"]
        return {name: parameters[name] for name in ("images", "output", "model")}

    before, ours = deployed(), {pid for pid in up.processes() if " start " in cmdline(pid)}
    images, output, model = str(tmp_path / "other images"), str(tmp_path / "other out"), str(tiny_bundle)
    again = up.command("up", IMAGES=images, OUT=output, MODEL=model)
    assert deployed() == {"images": images, "output": output, "model": model}
    assert f"IMAGES: {before['images']} → {images}" in again.stderr
    assert f"--param 'images={images}' --param 'output={output}'" in again.stdout

    kept = up.command("up", IMAGES=None, OUT=None)
    assert "It is up already." in kept.stderr
    assert kept.stdout == again.stdout
    assert deployed() == {"images": images, "output": output, "model": model}

    up.command("up", MODEL="")
    assert deployed() == before
    assert {pid for pid in up.processes() if " start " in cmdline(pid)} == ours


def test_up_names_the_settings_that_cannot_take_effect_now(up: Up) -> None:
    again = up.command(
        "up", PORT=str(up.port + 1), PREFECT_WORKER_QUERY_SECONDS="7", PREFECT_API_AUTH_STRING="a:secret"
    )
    assert "PORT, PREFECT_API_AUTH_STRING, PREFECT_WORKER_QUERY_SECONDS" in again.stderr
    assert "secret" not in again.stderr
    assert f"127.0.0.1:{up.port}" in again.stdout
    assert "takes effect" not in up.command("up").stderr


@pytest.mark.faults
def test_two_ups_at_the_same_time_are_one(tmp_path: Path) -> None:
    own = Up(tmp_path / "up")
    with ThreadPoolExecutor() as threads:
        said = [done.stderr for done in threads.map(own.command, ("up", "up"))]
    commands = [cmdline(pid) for pid in own.processes()]
    own.command("down")
    assert sum(" server start " in command for command in commands) == 1
    assert sum(" worker start " in command for command in commands) == 1
    assert sum("Another up or down is at work" in each for each in said) == 1
    assert sum("It is up already." in each for each in said) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"PORT": "many"},
        {"PORT": "0"},
        {"PORT": "65536"},
        {"PORT": "-1"},
        {"IMAGES": ""},
        {"OUT": " "},
        {"OUT": "s3://bucket/out"},
    ],
)
def test_wrong_settings_of_up_are_a_sentence_and_start_nothing(given: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "state"
    with pytest.raises(subprocess.CalledProcessError) as raised:
        Up(state).command("up", **given)
    (line,) = raised.value.stderr.splitlines()
    assert next(iter(given)) in line
    assert not state.exists()


def test_a_port_that_is_taken_is_refused_where_it_was_asked_for(tmp_path: Path) -> None:
    other = Up(tmp_path / "state")
    with socket.create_server(("127.0.0.1", other.port)), pytest.raises(subprocess.CalledProcessError) as raised:
        other.command("up")
    assert f"Port {other.port} is taken." in raised.value.stderr
    assert "Traceback" not in raised.value.stderr
    assert not (other.state / "up.json").exists()


def test_a_run_that_completed_stays_so_when_its_heartbeats_end(up: Up) -> None:
    """What the automation against lost runs proposes where a last heartbeat comes after the end."""
    (flow,) = up.api("flows/filter", flows={"name": {"any_": ["classify-images"]}})
    run = up.api("flow_runs/", flow_id=flow["id"], state={"type": "RUNNING"})["id"]
    up.api(f"flow_runs/{run}/set_state", state={"type": "COMPLETED"})
    (zombies,) = [each for each in up.api("automations/filter", limit=200) if each["name"] == "crash zombies"]
    (action,) = zombies["actions"]
    proposed = {"type": action["state"], "name": action["name"], "message": action["message"]}
    answer = up.api(f"flow_runs/{run}/set_state", state=proposed, force=action["force"])
    assert answer["status"] == "ABORT"
    assert up.state_of(run) == "COMPLETED"


def test_the_automation_is_there_once(up: Up) -> None:
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


@pytest.mark.faults
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
