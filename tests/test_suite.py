"""The suite's own rules: test modules do not import each other, and only one place waits by sleeping."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.processes import ROOT

# `wait_until`; the pauses that are scripted; the latency of a store.
SLEEPERS = {"tests/processes.py", "tests/faults/hook/sitecustomize.py", "tests/store_proxy.py"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    files = sorted(Path(ROOT, "tests").rglob("*.py"))
    assert len(files) > 40
    for file in files:
        yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def test_what_tests_share_is_in_no_test_module_and_in_no_conftest() -> None:
    wrong = [
        f"{name} imports from {node.module}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.")
        if node.module.rpartition(".")[2].startswith(("test_", "conftest"))
    ]
    assert wrong == []


def test_tests_wait_for_something_and_not_for_a_while() -> None:
    sleeping = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sleep")
    }
    assert sleeping == SLEEPERS
