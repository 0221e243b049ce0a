"""When it happens, set up: the deployments, and a Prefect server and worker for them on one machine."""
