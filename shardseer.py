"""The command `shardseer`: makes sure that its own packages are the ones that Python finds, then runs `flows.cli`.

`pipeline`, `workers` and `flows` are names that other projects use, too. Where one of theirs comes first on Python's
path, imports would fail in the middle with a traceback that explains nothing, so this module imports nothing of them.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parent  # the packages lie beside this module, installed or not
PACKAGES = ("pipeline", "workers", "flows")


def main() -> None:
    """The console script. Exits with 2 and a sentence where a package is not Shardseer's own."""
    for name in PACKAGES:
        place = _place(find_spec(name))
        if place != HOME / name:
            raise SystemExit(_refuse(name, place))
    from flows.cli import main as run

    run()


def _place(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a module; None for what is not there."""
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or "").resolve()


def _refuse(name: str, place: Path | None) -> int:
    """Say which package stands in the way; return the exit code for a wrong request."""
    if place is None:
        text = f"the package `{name}` is missing from {HOME}. Install Shardseer again."
    else:
        text = (
            f"the package `{name}` in {place} shadows Shardseer's own in {HOME / name}. Take {place.parent} out of "
            "PYTHONPATH, start from another folder, or install Shardseer in a virtual environment of its own."
        )
    print(f"shardseer: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
