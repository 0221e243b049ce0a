"""Whether a Prefect API is set up here, found out without importing Prefect where possible: that takes a second."""

import os
from pathlib import Path


def api_is_configured() -> bool:
    """Whether an API is set in the environment or in Prefect's active profile."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    profiles = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"
    if not profiles.is_file() or "PREFECT_API_URL" not in profiles.read_text(encoding="utf-8"):
        return False  # spares importing Prefect, a second
    from prefect.settings import get_current_settings

    return get_current_settings().api.url is not None


def no_telemetry() -> None:
    """Turn off what Prefect would send home, unless the user chose otherwise. Call it before Prefect is imported."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
