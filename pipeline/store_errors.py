"""What the errors of object stores mean: each as an `OSError` of its kind, in words that are the same each time.

The library's own texts hold addresses, timings, request ids and a debug dump: equal causes would never look equal.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

CODE = re.compile(r"<Code>(\w+)</Code>")
STATUS = re.compile(r"status code: (\d{3})")
REFUSED = {  # what stores answer to whoever asks, whatever is asked for
    "ExpiredToken": "the credentials have expired",
    "TokenRefreshRequired": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
    "InvalidAccessKeyId": "the store does not know the access key",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "RequestTimeTooSkewed": "this machine's clock is too far from the store's",
    "AuthorizationHeaderMalformed": "the request is signed for another region",
    "AuthenticationFailed": "the credentials are not valid",
    "InvalidAuthenticationInfo": "the credentials are not valid, or have expired",
}
DUMP = "\n\nDebug source:"


class StoreFailureError(OSError):
    """The store, or the way to it, fails for now: it is overloaded, out of order, unreachable, or too slow."""


class StoreAccessError(OSError):
    """The store refuses whoever asks, whatever is asked for: the credentials are wrong or have expired."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise the library's errors as `failure` has them."""
    try:
        yield
    except Exception as error:  # obstore's have no common base
        found = failure(error)
        if found is error:
            raise
        raise found from error


def failure(error: Exception) -> Exception:
    """An error of the library obstore as an `OSError`; any other as it is."""
    text = str(error)
    if not (DUMP in text or type(error).__module__.startswith("obstore")):
        return error
    said = text.partition(DUMP)[0]
    code = found[1] if (found := CODE.search(said)) else ""
    if code in REFUSED:
        return StoreAccessError(errno.EACCES, f"{REFUSED[code]} ({code})")
    status = int(found[1]) if (found := STATUS.search(said)) else 0
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(errno.ENOENT, "no such bucket" if code == "NoSuchBucket" else "no such object")
    return _refusal(type(error).__name__, status) or _outage(text, status)


def _refusal(kind: str, status: int) -> OSError | None:
    """What another time would end as well; None for what it might not."""
    if kind == "UnauthenticatedError" or status == 401:
        return StoreAccessError(errno.EACCES, "the store asks for other credentials")
    if kind == "PermissionDeniedError" or status == 403:
        return PermissionError(errno.EACCES, "the store denies access")
    if kind == "InvalidPathError":
        return OSError(errno.EINVAL, "a name that the store's client does not take")
    if 400 <= status < 500 and status not in (408, 425, 429):
        return OSError(errno.EINVAL, f"the store refuses the request (HTTP {status})")
    return None


def _outage(text: str, status: int) -> OSError:
    if "without LOCATION" in text:
        return StoreAccessError(errno.EACCES, "the bucket lies in another region")
    if status in (429, 503):
        return StoreFailureError(errno.EAGAIN, f"the store is overloaded (HTTP {status})")
    if status:
        return StoreFailureError(errno.EAGAIN, f"the store is out of order (HTTP {status})")
    if "timed out" in text or "Timeout" in text:
        return StoreFailureError(errno.EAGAIN, "the store did not answer in time")
    return StoreFailureError(errno.EAGAIN, "the connection to the store failed")
