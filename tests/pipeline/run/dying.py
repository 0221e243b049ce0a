"""A process that dies at a chosen change to the disk or to a store, played inside this one."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import obstore

CHANGES = {os: ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync"), obstore: ("put", "delete")}


class DeadError(BaseException):
    """The process has died."""


@contextmanager
def dying(step: int, after: bool) -> Iterator[None]:
    """Die before or after the nth change to a disk or store; what is called on the way out does nothing any more."""
    calls = 0

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > step or (calls == step and not after):
                raise DeadError
            result = function(*arguments, **named)
            if calls == step:
                raise DeadError
            return result

        return call

    with ExitStack() as patched:
        for module, names in CHANGES.items():
            for name in names:
                patched.enter_context(mock.patch.object(module, name, mortal(getattr(module, name))))
        try:
            yield
        except DeadError:
            return
