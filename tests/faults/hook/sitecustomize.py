"""Faults scripted through a file, in any process of a run: Python imports this module at its start.

$SHARDSEER_FAULT names a JSON file:

    {"call": "os.rename", "when": "before", "match": "/staged", "nth": 2, "action": "SIGKILL",
     "reached": "/tmp/…/fault.reached", "times": 1}

From the nth call on in a process, one whose arguments contain `match` first leaves its process id in a file
`<reached>.<n>`, then dies by a signal, is stopped, fails with an errno, or (PAUSE) waits for a file `<reached>.go`, so
that a test can do something to others exactly then, and leaves a file `<reached>.past.<pid>` when it goes on. `times`
bounds how often that happens over all processes; without it, it happens every time. Or, with DELAY, the call only takes
`seconds` longer, every time and without a file. `call` is a function of an importable module, or
`module:Class.method`; it is replaced as soon as the module has been imported. Descriptors are matched by the path they
lead to. `null` in the place of a script asks for no fault.
"""

import errno
import functools
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time

PAUSE_SECONDS = 240  # a test that failed meanwhile lets nobody go


class Fault:
    """One scripted fault and how often its call was seen in this process."""

    def __init__(self, script):
        self.script = script
        self.seen = 0

    def matches(self, arguments, named):
        texts = [*map(str, arguments), *map(str, named.values())]
        descriptors = [named.get("dir_fd"), arguments[0] if self.script["call"] == "os.fsync" else None]
        texts += [_path_of(each) for each in descriptors if isinstance(each, int)]
        if self.script.get("match", "") not in " ".join(texts):
            return False
        self.seen += 1
        return self.seen >= self.script.get("nth", 1)

    def note_reached(self):
        """Leave the process id; False where the fault happened often enough."""
        if self.script["action"] == "DELAY":
            return True
        for number in range(self.script.get("times", 1_000_000)):
            try:
                descriptor = _open(f"{self.script['reached']}.{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            os.write(descriptor, str(os.getpid()).encode())
            os.close(descriptor)
            return True
        return False

    def act(self):
        action = self.script["action"]
        if action == "PAUSE":
            deadline = time.monotonic() + PAUSE_SECONDS
            while not os.path.exists(self.script["reached"] + ".go") and time.monotonic() < deadline:
                time.sleep(0.01)
            os.close(_open(f"{self.script['reached']}.past.{os.getpid()}", os.O_CREAT | os.O_WRONLY))
        elif action == "DELAY":
            time.sleep(self.script["seconds"])
        elif action.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, action))
        else:
            code = getattr(errno, action)
            raise OSError(code, os.strerror(code))

    def wrap(self, function):
        @functools.wraps(function)
        def faulty(*arguments, **named):
            strikes = self.matches(arguments, named)
            if strikes and self.script["when"] == "before" and self.note_reached():
                self.act()
            result = function(*arguments, **named)
            if strikes and self.script["when"] == "after" and self.note_reached():
                self.act()
            return result

        return faulty


def _path_of(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


class PatchingFinder(importlib.abc.MetaPathFinder):
    """Replaces the function right after its module has been imported, before anyone can take hold of it."""

    def __init__(self, module, patch):
        self.module = module
        self.patch = patch

    def find_spec(self, name, path, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            self.patch(module)

        spec.loader.exec_module = exec_module
        return spec


def install(fault):
    call = fault.script["call"]
    module, _, owner_and_name = call.partition(":") if ":" in call else call.rpartition(".")
    *owners, name = owner_and_name.split(".")

    def patch(loaded):
        owner = functools.reduce(getattr, owners, loaded)
        setattr(owner, name, fault.wrap(getattr(owner, name)))

    if module in sys.modules:
        patch(sys.modules[module])
    else:
        sys.meta_path.insert(0, PatchingFinder(module, patch))


_open = os.open
if os.environ.get("SHARDSEER_FAULT"):
    with open(os.environ["SHARDSEER_FAULT"]) as file:
        script = json.load(file)
    if script is not None:
        install(Fault(script))
