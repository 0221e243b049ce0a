"""Image batches and references made for tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.images import listing


def image_batch(count: int, failed: tuple[int, ...] = ()) -> pa.Table:
    """So many rows of 4×4 pixels, some of them errors of decoding."""
    layout = schema.image_batch(4, 4, 3)
    rows = [
        {"path": f"/{i}.jpg", "error_stage": "decode" if i in failed else None, "error": "why" if i in failed else None}
        for i in range(count)
    ]
    facts = pa.Table.from_pylist(rows, schema=pa.schema(schema.FACTS))
    pixels = np.full((count, 4, 4, 3), 7, dtype=np.uint8)
    return facts.append_column(layout.field("image"), pa.FixedShapeTensorArray.from_numpy_ndarray(pixels))


def references(folder: Path) -> pa.Table:
    """The JPEGs below a folder as `schema.LISTING`."""
    return listing.references(storage.entry(str(path)) for path in sorted(folder.rglob("*.jpg")))
