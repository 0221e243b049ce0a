"""The JSON object of a command, and its published schema."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from pipeline.run.result import Result
from tests.faults.scripting import ScriptedFault
from tests.images import make_old
from tests.processes import ROOT, shardseer
from tests.running import started

SCHEMA = ROOT / "docs/classify.schema.json"
Crops = Callable[..., Path]


def test_the_published_schema_is_the_model_s() -> None:
    made = json.dumps(Result.model_json_schema(mode="serialization"), indent=2) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == made, f"write this to {SCHEMA.name}:\n{made}"


def break_all(images: Path) -> None:
    for path in images.glob("*.jpg"):
        path.write_bytes(b"no image")
    make_old(images)


@pytest.mark.parametrize(
    ("case", "code", "runs"),
    [
        ("new", 0, 1),
        ("nothing new", 0, 0),
        ("dry run", 0, 0),
        ("resumed", 0, 2),
        ("refused", 1, 0),
        ("no input", 2, 0),
        ("a name that is not UTF-8", 2, 0),
        ("no space", 1, 0),
    ],
)
def test_every_command_prints_one_object(
    case: str, code: int, runs: int, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(70), tmp_path / "out"
    command = ["classify", images, "-o", output, "-m", tiny_bundle, "--workers", "inline", "--json"]
    environment: dict[str, str] = {}
    if case == "nothing new":
        shardseer(*command)
    elif case == "dry run":
        command.append("--dry-run")
    elif case == "resumed":
        started(images, output, tiny_bundle, shards=1)
        (images / "new.jpg").write_bytes(next(images.glob("*.jpg")).read_bytes())
        make_old(images)
    elif case == "refused":
        break_all(images)
        command += ["--max-error-rate", "0"]
    elif case == "no space":
        full = ScriptedFault(tmp_path, call="os.replace", when="before", match="manifest.json", action="ENOSPC")
        environment = full.environment
    elif case == "no input":
        command[1] = tmp_path / "nowhere"
    elif case == "a name that is not UTF-8":
        command[3] = "out\udce9"
    done = shardseer(*command, **environment)
    found = json.loads(done.stdout)
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert done.returncode == code, done.stderr
    assert len(found["runs"]) == runs
    assert (found["error"] is None) == (code == 0)
    assert " ".join((found["error"] or "").split()) in " ".join(done.stderr.split())
    assert (found["estimate"] is not None) == (case == "dry run")
    assert found["images"] == str(command[1])
