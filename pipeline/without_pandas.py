"""Keep pyarrow from importing pandas, which it does with its first array wherever pandas is installed.

That takes each process a quarter of a second, and nothing here hands pandas anything. For processes of our own: in one
that is a user's, pandas must stay what it is to pyarrow. (A Ray worker that decoded for us may serve other jobs of its
cluster later; there `to_pandas` still finds pandas, but arrays are not made from pandas' own objects any more.)
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder

import pyarrow as pa


def leave_pandas_out() -> None:
    """Have pyarrow find no pandas; whoever imports pandas later gets it. Does nothing where it is there already."""
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, blocker := PandasBlocker())
    try:
        pa.array([])  # pyarrow looks for it once
    finally:
        sys.meta_path.remove(blocker)


class PandasBlocker(MetaPathFinder):
    """Says that pandas is not installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        """See `MetaPathFinder`."""
        if fullname == "pandas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
