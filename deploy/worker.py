"""The process worker on this machine, which starts a process for every flow run."""

from deploy import processes, settings
from deploy.deployments import POOL

START_SECONDS = 120.0  # for the worker to ask for runs


def start(environment: dict[str, str]) -> None:
    """Start a worker, and wait until it asks for runs."""
    log = settings.state_folder() / "worker.log"
    command = processes.prefect("worker", "start", "--pool", POOL, "--type", "process", "--name", "local")
    started = processes.launch(command, environment, log)
    processes.wait_until(lambda: _is_online() or started.poll() is not None, START_SECONDS)
    if started.poll() is not None:
        raise SystemExit(f"The worker did not start; the end of its log:\n{processes.tail(log)}")


def _is_online() -> bool:
    """Whether a worker polls the pool."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        workers = client.read_workers_for_work_pool(POOL)
    return any(worker.status == "ONLINE" for worker in workers)
