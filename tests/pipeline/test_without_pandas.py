"""pyarrow without pandas, in a process of its own."""

import subprocess
import sys

from tests.processes import ROOT

SCRIPT = """
import sys
import pyarrow as pa
from pipeline.without_pandas import leave_pandas_out
leave_pandas_out()
leave_pandas_out()
assert pa.array(["a", None]).to_pylist() == ["a", None]
pa.Table.from_pylist([{"x": 1.5}]).to_pylist()
assert "pandas" not in sys.modules
import pandas
assert pandas.DataFrame({"x": [1]}).x.sum() == 1
leave_pandas_out()
"""


def test_arrays_do_not_import_pandas_and_others_still_can() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, check=True, timeout=200)
