"""URIs of images: their schemes, one spelling for each store, and no user name or password in them.

Whoever runs Shardseer gives credentials through the environment or `~/.netrc`; what is in a URI would be in every row.
"""

import posixpath
import re

STORES = ("s3", "gs", "az", "abfs", "abfss")
WEB = ("http", "https")
SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}  # as Hadoop and Google's tools spell them
BLOBS = re.compile(r"wasbs?://([^@/]+)@([^./]+)\.blob\.")  # Azure's blobs, as Hadoop spells them: container@account

HIDDEN = "***"  # in the place of a host that could not be told from a password

_HOST = re.compile(r"(\[[^@\]]*\]|[^:@]*)(:[0-9]+)?")
_ONE_SLASH = re.compile(rf"({'|'.join((*STORES, *WEB, *SAME, 'wasbs?', 'file'))}):/(?!/)", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def scheme_of(path: str) -> str | None:
    """The scheme of a URI in lower case; None for a local path, also for `file://`."""
    if path.startswith(("/", "file://")):
        return None
    found = _SCHEME.match(path)
    return found and found[1].lower()


def canonical(uri: str) -> str:
    """A URI as it is stored: in one spelling for one place, without user name and password.

    A password with a slash in it ends at the last `@`. Where none is left, all is `HIDDEN`, which `why_refused`.
    """
    uri = BLOBS.sub(r"abfs://\1@\2.dfs.", uri)
    scheme, _, rest = uri.partition("://")
    scheme = SAME.get(scheme.lower(), scheme.lower())
    authority, slash, key = rest.partition("/")  # no URL parser: # and ? are letters of a key
    host = _without_user(scheme, authority)
    if _is_host(scheme, host):
        return f"{scheme}://{host}{slash}{key}"
    _, at, after = rest.rpartition("@")
    return canonical(f"{scheme}://{after}") if at else f"{scheme}://{HIDDEN}"


def _is_host(scheme: str, authority: str) -> bool:
    container, _, host = authority.rpartition("@")
    found = _HOST.fullmatch(host)
    return found is not None and not (found[2] and scheme in STORES and not container)  # buckets have no port


def _without_user(scheme: str, authority: str) -> str:
    user, _, host = authority.rpartition("@")
    is_container = scheme in ("abfs", "abfss") and ":" not in user  # of Azure: container@account.dfs.core.windows.net
    return authority if is_container else host


def joined(base: str, path: str) -> str:
    """A path relative to a URI, of a folder; `.` and `..` in it lead where they do on a disk."""
    if not any(part in (".", "..") for part in path.split("/")):
        return f"{base}/{path}"
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{posixpath.normpath(f'/{rest}/{path}').lstrip('/')}"


def without_secrets(text: str) -> str:
    """What a user typed as a path, as it may be shown: a URI without user name and password."""
    return canonical(text) if scheme_of(text) else text


def why_no_uri(text: str) -> str | None:
    """Why what a user typed must be meant as a URI and is none, without what may be secret; None for anything else."""
    if (found := _ONE_SLASH.match(text)) is None:
        return None
    meant = "file:///" if found[1].lower() == "file" else f"{found[1]}://"
    return f"begins with {found[0]}, which is no URI: write {meant}…, or ./{found[0]}… for a folder of that name"


def is_web(uri: str) -> bool:
    """Whether a URI is of the web, where nothing is listed."""
    return scheme_of(uri) in WEB


def why_refused(uri: str) -> str | None:
    """Why what a stored path leads to cannot be read, by its scheme; None where it can."""
    scheme = scheme_of(uri)
    if scheme and uri == f"{scheme}://{HIDDEN}":
        return "it seems to have a user name and password in it: leave them out"
    if scheme is None or scheme in (*STORES, *WEB):
        return None
    read = ", ".join(f"{each}://" for each in (*STORES, *WEB))
    return f"{scheme}:// is not read; what is: {read}, and folders"
