"""Showing something in Prefect beside a flow run, without which the run is as good as with it."""

from collections.abc import Callable
from typing import Any

from prefect import get_run_logger


def if_possible(show: Callable[..., Any], *what: Any, **named: Any) -> Any:
    """Show something in Prefect; where that fails, the log says so and the run goes on."""
    try:
        return show(*what, **named)
    except Exception as error:  # noqa: BLE001 – nothing but Prefect is called here, and no result depends on it
        get_run_logger().warning("Prefect could not be reached (%s: %s); the run goes on.", type(error).__name__, error)
        return None
