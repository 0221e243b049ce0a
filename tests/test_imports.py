"""The layers: flows → workers → pipeline, and inside pipeline a file imports only what stands above it in the flow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FREE = [
    "arrow_alone",
    "schema",
    "storage",
    "job",
    "preprocessing",
    "timing",
    "children",
]  # may be imported by every file of pipeline
FLOW = [  # top to bottom: each may import those before it
    "network",
    "bundle",
    "decoding",
    "fast_decoding",
    "gpu_decoding",
    "staging",
    "engines",
    "precision",
    "runs",
    "published",
    "batching",
    "feeding",
    "isolating",
    "classifying",
    "looking",
    "listing",
    "selecting",
    "planning",
    "writing",
    "attempts",
    "publishing",
    "cleaning",
    "accounting",
    "reporting",
    "querying",
    "labelled",
    "recipe",
    "calibrating",
    "training",
    "evaluating",
    "plotting",
    "explaining",
    "drawing",
    "describing",
    "card",
    "bundling",
]


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).glob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("file", files("pipeline"), ids=lambda file: file.stem)
def test_pipeline_knows_neither_ray_nor_prefect(file: Path) -> None:
    assert not packages(file) & {"ray", "prefect", "workers", "flows"}


@pytest.mark.parametrize("file", files("pipeline"), ids=lambda file: file.stem)
def test_a_file_of_the_pipeline_imports_only_what_stands_above_it(file: Path) -> None:
    if file.stem == "__init__":
        return
    used = {name.split(".")[1] for name in imported(file) if name.startswith("pipeline.")} - {file.stem}
    used &= {each.stem for each in files("pipeline")}
    if file.stem in FREE:
        assert used <= set(FREE[: FREE.index(file.stem)]), "what all may import stands on its own ground"
    else:
        assert file.stem in FLOW, "say where in the flow this file stands"
        assert used <= {*FREE, *FLOW[: FLOW.index(file.stem)]}


@pytest.mark.parametrize("file", files("workers"), ids=lambda file: file.stem)
def test_workers_do_not_know_flows(file: Path) -> None:
    assert not packages(file) & {"prefect", "flows"}


@pytest.mark.parametrize("file", files("flows"), ids=lambda file: file.stem)
def test_flows_leave_ray_to_the_workers(file: Path) -> None:
    assert "ray" not in packages(file)
