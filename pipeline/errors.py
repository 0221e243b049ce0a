"""The kinds of errors: of the request, of the run, of the network."""


class EngineError(RuntimeError):
    """The network fails whatever it is given: no image is to blame."""


class RequestError(ValueError):
    """The request was wrong; the message says what to change. The command line exits with 2."""


class RunError(RuntimeError):
    """The run failed; the message says what happened and what to do. The command line exits with 1."""
