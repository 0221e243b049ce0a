"""What a server needs before it can run Shardseer: a work pool, an automation against lost runs, the deployments.

Call `prepare_server` and `deploy` with Prefect's settings in the environment: Prefect reads them when it is imported.
"""

import hashlib
import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from deploy import processes, settings
from deploy.settings import ASKED_AS, Nightly

if TYPE_CHECKING:
    from prefect.automations import AutomationCore

FILE = Path(__file__).resolve().parent / "prefect.yaml"
POOL, NIGHTLY = "shardseer", "classify-images/nightly"
FORMS = ("flows/classify.py", "flows/train.py", "pipeline/job.py", "pipeline/training/recipe.py")
NO_HEARTBEAT = "crash zombies"  # the name that Prefect's documentation gives this automation
NO_HEARTBEAT_AFTER = timedelta(minutes=3)  # without a heartbeat, a run is taken for crashed


def made_of() -> str:
    """A digest of what the deployments are made of: the file, and the code that their forms come from."""
    digest = hashlib.sha256()
    for file in (FILE, *(settings.HOME / name for name in FORMS)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def current() -> Nightly | None:
    """What the server knows of the nightly deployment, if anything."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            parameters = client.read_deployment_by_name(NIGHTLY).parameters
    except ObjectNotFound:
        return None
    return Nightly(*(str(parameters.get(name) or "") for name in Nightly._fields))


def deploy(environment: dict[str, str], wanted: Nightly) -> None:
    """Make or update the deployments in `prefect.yaml`."""
    command = processes.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(FILE))
    asked = dict(zip(ASKED_AS, wanted, strict=True))
    done = subprocess.run(
        command, cwd=settings.state_folder(), env={**environment, **asked}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{FILE} could not be deployed:\n{processes.end_of(done.stdout + done.stderr)}")


def prepare_server() -> None:
    """Make the work pool and the automation that a self-hosted server lacks; those that are there stay as they are."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        if not client.read_automations_by_name(NO_HEARTBEAT):
            client.create_automation(_crash_without_heartbeat())


def _crash_without_heartbeat() -> "AutomationCore":
    from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=NO_HEARTBEAT,
        description="A flow run whose machine or process has died sends no heartbeat: it becomes Crashed.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | ends,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=NO_HEARTBEAT_AFTER,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                force=False,  # a run that ended meanwhile keeps its state
                message=f"No heartbeat for {NO_HEARTBEAT_AFTER.seconds // 60} minutes. The next run continues.",
            )
        ],
    )
