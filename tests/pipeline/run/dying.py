"""A process that dies at a chosen change to the disk, played inside this one."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock


class DeadError(BaseException):
    """The process has died."""


@contextmanager
def dying(step: int, after: bool) -> Iterator[None]:
    """Die before or after the nth change to the disk; whatever is called on the way out does nothing any more."""
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
        for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync"):
            patched.enter_context(mock.patch.object(os, name, mortal(getattr(os, name))))
        try:
            yield
        except DeadError:
            return
