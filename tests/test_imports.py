"""Who may know whom: one rule a room. Imports run flows → workers → pipeline, and between its rooms as `ROOMS` says."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = "pipeline"  # the files that lie in pipeline/ itself
ROOMS = {  # which of the project's rooms the files of a room may import from, beside their own
    GROUND: (),
    "pipeline.images": (GROUND,),
    "pipeline.model": (GROUND, "pipeline.images"),
    "pipeline.run": (GROUND, "pipeline.images", "pipeline.model"),
    "pipeline.training": (GROUND, "pipeline.images", "pipeline.model"),
    "pipeline.explain": (GROUND, "pipeline.images", "pipeline.model", "pipeline.training"),
    "workers": (GROUND, "pipeline.images", "pipeline.model", "pipeline.run"),
    "flows": (GROUND, *(f"pipeline.{room}" for room in ("images", "model", "run", "training", "explain")), "workers"),
}
LIBRARIES = {"ray": ("workers",), "prefect": ("flows",)}  # and the only rooms that import them
FILES = sorted(file for top in ("pipeline", "workers", "flows") for file in (ROOT / top).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """The dotted names that a file imports anywhere in it; `from a import b` may mean the module a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str | None:
    """The room of a module or of something in it; None for what is not the project's."""
    rooms = [room for room in ROOMS if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def test_every_room_has_files_and_every_file_has_a_room() -> None:
    assert {room_of(module_of(file)) for file in FILES} == set(ROOMS)
    folders = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in FILES}
    assert folders == set(ROOMS), "a new folder is a new room: say whom it may know"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_knows_only_the_rooms_that_its_room_may_know(file: Path) -> None:
    room = room_of(module_of(file))
    assert room is not None
    known = {each: other for each in imported(file) if (other := room_of(each)) is not None}
    forbidden = {each for each, other in known.items() if other != room and other not in ROOMS[room]}
    assert not forbidden, f"{room} may not know {sorted(forbidden)}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_ray_and_prefect_stay_in_their_rooms(file: Path) -> None:
    packages = {name.split(".")[0] for name in imported(file)}
    misplaced = {each for each in packages & set(LIBRARIES) if room_of(module_of(file)) not in LIBRARIES[each]}
    assert not misplaced


def test_files_do_not_import_each_other_in_a_circle() -> None:
    modules = {module_of(file).removesuffix(".__init__"): file for file in FILES}
    graph = {
        module: {other for name in imported(file) if (other := _longest(name, modules)) not in (None, module)}
        for module, file in modules.items()
    }
    assert list(TopologicalSorter(graph).static_order()), "raises where there is a circle, and names it"


def _longest(name: str, modules: dict[str, Path]) -> str | None:
    """The module that a dotted name leads to: `a.b.c` may be the module a.b with something named c."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None
