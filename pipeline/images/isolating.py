"""Image by image in a child process: what kills, hangs or swells the decoder costs its own row only.

Only the shards that killed or stalled a worker come here; every other shard pays nothing for it.
"""

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.child_process import Child, ChildDiedError, ChildError, ChildSlowError, Report
from pipeline.errors import ErrorStage, ImageError, SourceUnavailableError
from pipeline.events import Events
from pipeline.images.batching import Row, filled_batches, image_row, listed_facts, with_integer_times
from pipeline.images.decoding import ExactDecoder
from pipeline.images.patient_reading import ReadPolicy, reader_of
from pipeline.images.pillow_settings import ignore_remarks
from pipeline.images.preprocessing import Pixels
from pipeline.images.reading_ahead import ENCODED, ReadAhead, known_content
from pipeline.images.tar_files import COMPRESSED
from pipeline.timing import Stopwatch


def decoding_memory(max_pixels: int) -> int:
    """Bytes that decoding one image may take: enough for the largest picture allowed, at most half of the machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((512 << 20) + 32 * max_pixels, machine // 2)


def readable_bytes(max_pixels: int) -> int:
    """Bytes that a file may have which is read into a worker: 8 for every pixel allowed (RGBA of 16 bits), and more.

    A quarter of what decoding it may take, since a store's client has them twice for a moment, and a parser again.
    """
    return decoding_memory(max_pixels) // 4


class IsolatedDecoding:
    """Decodes each image in a child process, under a deadline and a memory bound."""

    def __init__(self, events: Events, *, seconds: float, max_pixels: int) -> None:
        """`seconds` bound the reading and decoding of one image."""
        alone = {"CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"}
        self._child = Child(events, memory=decoding_memory(max_pixels), environment=alone)
        self._seconds = seconds

    def batches(
        self,
        references: pa.Table,
        decoder: ExactDecoder,
        batch_size: int,
        watch: Stopwatch,
        events: Events = Events(),
        policy: ReadPolicy = ReadPolicy(),
    ) -> Iterator[pa.Table]:
        """As `batching.image_batches`, nothing deferred; heartbeats go to the child's events.

        Local files and tables are read in the child, where a file system or a parser may hang. A store is asked here,
        ahead; and a compressed tar is opened here, once, which may take longer than an image may.
        """
        undeferred = decoder.undeferred()
        with ReadAhead(with_integer_times(references), reader_of(policy)) as ahead:

            def decode(pixels: Pixels, reference: Row, number: int) -> Row:
                if _is_read_here(reference):
                    try:
                        with watch("read"):
                            content = ahead.take(number, reference, watch, events)
                    except ImageError as error:
                        return listed_facts(reference) | {"error_stage": error.stage, "error": error.reason}
                    facts = {"size_bytes": content.size, "modified_at": content.modified_us}
                    reference = reference | facts | {ENCODED: content.data}
                with watch("decode"):
                    return self._decode(pixels, reference, undeferred, policy._replace(patience=0.0))

            yield from filled_batches(references, undeferred, batch_size, decode)

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _decode(self, pixels: Pixels, reference: Row, decoder: ExactDecoder, policy: ReadPolicy) -> Row:
        facts = [listed_facts(reference)]
        for last_try in (False, True):
            try:
                row: Row
                asked = (reference, decoder, policy)
                row, decoded = self._child.ask(self._seconds, decode_here, *asked, report=facts.append)
            except ChildSlowError as slow:
                return facts[-1] | {"error_stage": slow.stage, "error": f"timed out after {self._seconds:g} s"}
            except ChildDiedError as death:
                if death.may_be_chance and not last_try:
                    continue
                return facts[-1] | _death(death, was_read="content_hash" in facts[-1])
            except ChildError as error:
                if error.kind == SourceUnavailableError.__name__:
                    raise SourceUnavailableError(error.text) from error
                if not error.kind.endswith("MemoryError"):
                    raise  # not the image's fault: `image_row` makes a row of those
                return facts[-1] | {"error_stage": ErrorStage.DECODE, "error": str(error)}
            if decoded is not None:
                pixels[:] = decoded
            return row | ({ENCODED: reference[ENCODED]} if ENCODED in reference else {})
        raise AssertionError("the last try returns")


def _is_read_here(reference: Row) -> bool:
    is_compressed = (reference["container"] or "").lower().endswith(COMPRESSED)
    return reference["list_error"] is None and (is_compressed or storage.is_uri(reference["path"]))


def _death(death: ChildDiedError, *, was_read: bool) -> Row:
    stage = ErrorStage.DECODE if was_read else ErrorStage.READ
    return {
        "error_stage": ErrorStage.WORKER if death.may_be_chance else stage,
        "error": f"the {'decoder' if was_read else 'reader'} {death}",
    }


def decode_here(report: Report, reference: Row, decoder: ExactDecoder, policy: ReadPolicy) -> tuple[Row, Pixels | None]:
    """In the child: one image's facts and, where it has no error, its pixels."""
    ignore_remarks()
    pixels = np.zeros(decoder.preprocessing.shape, dtype=np.uint8)

    def read() -> storage.Content:
        return known_content(reference) or reader_of(policy).read(reference, lambda seconds: None)

    row = image_row(reference, decoder, pixels, Stopwatch(), read, report)
    return row, None if "error_stage" in row else pixels
