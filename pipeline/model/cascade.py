"""References → classified batches: decode and classify, and decode again, exactly, where the pixels might decide.

For that a local file is read again; the bytes of an object come along from the first pass. The earlier answer stands
where its bytes are no longer those of the first pass, so that a row's answer and hash always belong together.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TRANSIENT
from pipeline.events import Events
from pipeline.images.batching import BATCH_BYTES, BatchSource, finishing, image_batches
from pipeline.images.decoders import make_decoder
from pipeline.images.reading_ahead import ENCODED
from pipeline.job import Options
from pipeline.model import engines
from pipeline.model.bundle import Bundle
from pipeline.model.classifying import ClassifiedBatch, Classifier
from pipeline.model.engine import Engine, EngineSpec
from pipeline.model.inference import Inference
from pipeline.timing import Stopwatch

AGAIN = 32  # images that are decoded in one piece for the second pass: their shard waits for each


class Cascade:
    """One network, held once for each pass that is planned, and the decoder of the first pass."""

    def __init__(
        self,
        bundle: Bundle,
        inference: Inference,
        options: Options,
        *,
        device: str,
        threads: int,
        build: Callable[[EngineSpec], Engine] | None = None,
    ) -> None:
        """Ready to classify on `device` (`cpu` or `cuda`) with so many CPU threads.

        `build` makes an engine as its spec says, where that is not to be done by `engines.build` in this process.
        """
        build = build or partial(_build_here, bundle, device=device, threads=threads)
        settings = inference.cascade
        self._device = device
        self.decoder = make_decoder(settings.first.decoder, bundle.preprocessing, options)
        first, *others = [build(spec) for spec in inference.engine_specs]
        exact = others[0] if others else None
        classifier = partial(Classifier, bundle, top_k=inference.top_k, abstain_below=options.abstain_below)
        margins = partial(settings.margins, decoder=self.decoder)
        self._first = classifier(first, exact=exact, margins=margins)
        self._again = classifier(exact or first) if settings.reduced_size.decoding else None

    def classify(
        self,
        references: pa.Table,
        batch_size: int,
        watch: Stopwatch,
        batches: BatchSource = image_batches,
        events: Events = Events(),
    ) -> Iterator[ClassifiedBatch]:
        """Classify every reference (`schema.LISTING`); rows decoded again come after those around them.

        `batches` yields the image batches of references: made in this process, or wherever they are decoded. What their
        decoder deferred is decoded here, on the device. `events` hear heartbeats of the network's progress.
        """
        batches = finishing(batches, self._device)
        classified = self._first.classify(batches(references, self.decoder, batch_size, watch), watch, events)
        classifier = self._again
        if classifier is None:
            return classified
        exact = self.decoder.exact()

        def again(first: ClassifiedBatch) -> Iterator[ClassifiedBatch]:
            decoded = batches(_of(first, references), exact, min(AGAIN, batch_size), Stopwatch())
            passes, done = classifier.classify(decoded, Stopwatch(), events), 0
            while done < len(first.close):  # piece by piece, each a sign of life
                with watch("second_pass"):
                    second = next(passes)
                    chosen = list(_chosen(first.slice(done, len(second.close)), second))
                yield from chosen
                done += len(second.close)

        return _decoded_again(classified, batch_size, again)


def _build_here(bundle: Bundle, spec: EngineSpec, *, device: str, threads: int) -> Engine:
    return engines.build(bundle, spec, device, threads)


def _decoded_again(
    classified: Iterable[ClassifiedBatch],
    batch_size: int,
    again: Callable[[ClassifiedBatch], Iterable[ClassifiedBatch]],
) -> Iterator[ClassifiedBatch]:
    """Pass on what is clear; close calls are decoded again when there is a batch of them, or at the end."""
    waiting: list[ClassifiedBatch] = []
    for each in classified:
        yield each._replace(encoded=None).only(~each.close)
        waiting.append(each.only(each.close))
        kept = sum(some.encoded.nbytes for some in waiting if some.encoded is not None)
        if sum(len(some.close) for some in waiting) >= batch_size or kept >= BATCH_BYTES:
            yield from again(joined(waiting))
            waiting = []
    if any(len(some.close) for some in waiting):
        yield from again(joined(waiting))


def _of(first: ClassifiedBatch, references: pa.Table) -> pa.Table:
    """The references of what was classified, with the bytes that came along."""
    chosen = references.take(pc.index_in(first.predictions["path"], references["path"]))
    return chosen if first.encoded is None else chosen.append_column(ENCODED, first.encoded)


def _chosen(first: ClassifiedBatch, second: ClassifiedBatch) -> Iterator[ClassifiedBatch]:
    """The second pass's rows, but the first's where the bytes changed in between, or a transient error failed it."""
    hashes = (each.predictions["content_hash"].combine_chunks() for each in (first, second))
    same = pc.equal(*hashes).fill_null(False).to_numpy(zero_copy_only=False)
    same &= ~np.isin(second.predictions["error_stage"].to_pylist(), TRANSIENT)
    yield second._replace(passes=np.full(len(same), 3, dtype=np.int8)).only(same)
    yield first.only(~same)


def joined(classified: list[ClassifiedBatch]) -> ClassifiedBatch:
    """Several batches as one. Not for none."""
    return ClassifiedBatch(
        pa.concat_tables([each.predictions for each in classified]),
        np.concatenate([each.logits for each in classified]),
        np.concatenate([each.close for each in classified]),
        np.concatenate([each.passes for each in classified]),
        _joined_bytes(classified),
    )


def _joined_bytes(classified: list[ClassifiedBatch]) -> pa.ChunkedArray | None:
    """What came along with several batches; null for those of which nothing did."""
    if all(each.encoded is None for each in classified):
        return None
    known = [pa.nulls(len(each.close), pa.binary()) if each.encoded is None else each.encoded for each in classified]
    return pa.chunked_array([chunk for each in known for chunk in getattr(each, "chunks", [each])], pa.binary())
