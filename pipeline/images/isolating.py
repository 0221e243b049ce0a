"""Image by image and batch by batch in child processes: what kills, hangs or swells is told apart from its neighbours.

Only the shards that killed or stalled a worker come here; every other shard pays nothing for it.
"""

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.child_process import Beat, Child, ChildDiedError, ChildError, ChildSlowError, Tell
from pipeline.images.batching import Decoding, Row, filled_batches, image_row, known_facts
from pipeline.images.preprocessing import Pixels
from pipeline.timing import Stopwatch


def decoding_memory(max_pixels: int) -> int:
    """Bytes that decoding one image may take: enough for the largest picture allowed, at most half of the machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((512 << 20) + 32 * max_pixels, machine // 2)


class IsolatedDecoder:
    """Decodes each image in a child: one that kills, hangs or swells costs its own row only."""

    def __init__(self, beat: Beat, *, seconds: float, max_pixels: int) -> None:
        """`seconds` bound the reading and decoding of one image."""
        alone = {"CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"}
        self._child = Child(beat, memory=decoding_memory(max_pixels), environment=alone)
        self._seconds = seconds

    def batches(
        self, references: pa.Table, decoding: Decoding, batch_size: int, watch: Stopwatch
    ) -> Iterator[pa.Table]:
        """As `batching.image_batches`, nothing left to a GPU."""
        decoding = decoding._replace(way="fast" if decoding.way == "gpu" else decoding.way)

        def into(slot: Pixels, reference: Row) -> Row:
            with watch("decode"):
                return self._into(slot, reference, decoding)

        return filled_batches(references, decoding, batch_size, into)

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _into(self, slot: Pixels, reference: Row, decoding: Decoding) -> Row:
        facts = [known_facts(reference)]
        for last_try in (False, True):
            try:
                row: Row
                row, pixels = self._child.ask(self._seconds, decode_here, reference, decoding, heard=facts.append)
            except ChildSlowError:
                return facts[-1] | {"error_stage": "timeout", "error": f"no pixel after {self._seconds:g} s"}
            except ChildDiedError as death:
                if death.may_be_chance and not last_try:
                    continue
                was_read = "content_hash" in facts[-1]
                stage = "decode" if was_read else "read"
                return facts[-1] | {
                    "error_stage": "worker" if death.may_be_chance else stage,
                    "error": f"the {'decoder' if was_read else 'reader'} {death}",
                }
            except ChildError as error:
                if not error.kind.endswith("MemoryError"):
                    raise  # not the image's fault: `image_row` tells those as a row
                return facts[-1] | {"error_stage": "decode", "error": str(error)}
            if pixels is not None:
                slot[:] = pixels
            return row
        raise AssertionError("the last try returns")


def decode_here(tell: Tell, reference: Row, decoding: Decoding) -> tuple[Row, Pixels | None]:
    """In the child: one image's facts and, where it has no error, its pixels."""
    slot = np.zeros(decoding.preprocessing.shape, dtype=np.uint8)
    row = image_row(reference, decoding, slot, Stopwatch(), tell)
    return row, None if "error_stage" in row else slot
