"""References → looks: decode and classify, and decode again, the exact way, where the pixels might decide.

For that an image is read again. Its earlier answer stands where its bytes are no longer those that were looked
at first, so that a row's answer and hash always belong together.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.images.batching import Decoding, image_batches
from pipeline.job import Options
from pipeline.model.bundle import Bundle
from pipeline.model.classifying import ClassifiedBatch, Classifier
from pipeline.model.engine import Build, Engine
from pipeline.model.precision import EXACT, CascadeSettings
from pipeline.timing import Stopwatch

AGAIN = 32  # images that are decoded in one piece for the second look: their shard waits for each

WORLD = ("timeout", "worker")  # stages of errors that say nothing of the image
Decode = Callable[[pa.Table, Decoding, int, Stopwatch], Iterator[pa.Table]]  # as `image_batches`


class Cascade:
    """One network, held once for each look that is planned."""

    def __init__(
        self, bundle: Bundle, looks: CascadeSettings, built: Callable[[Build], Engine], *, options: Options, top_k: int
    ) -> None:
        """`built` makes an engine as it is told."""
        self._reading = Decoding(bundle.preprocessing, options.max_pixels, options.strict, looks.first.way)
        first, *others = [built(build) for build in looks.builds(features=options.embeddings)]
        exact = others[0] if others else None
        classifier = partial(Classifier, bundle, top_k=top_k, abstain_below=options.abstain_below)
        self._first = classifier(first, exact=exact, looks=looks)
        self._again = classifier(exact or first) if looks.reduced.decoding else None

    def over(
        self, references: pa.Table, batch_size: int, watch: Stopwatch, decode: Decode = image_batches
    ) -> Iterator[ClassifiedBatch]:
        """Look at every reference (`schema.LISTING`); rows decoded again come after those around them."""
        looked = self._first.classify(decode(references, self._reading, batch_size, watch), watch)
        classifier = self._again
        if classifier is None:
            return looked
        exact = self._reading._replace(way=EXACT.way)

        def again(first: ClassifiedBatch) -> Iterator[ClassifiedBatch]:
            batches = decode(_listed(first.predictions), exact, min(AGAIN, batch_size), Stopwatch())
            looks, done = classifier.classify(batches, Stopwatch()), 0
            while done < len(first.close):  # piece by piece, each a sign of life
                with watch("second look"):
                    second = next(looks)
                    settled = list(_settled(first.slice(done, len(second.close)), second))
                yield from settled
                done += len(second.close)

        return _decoded_again(looked, batch_size, again)


def _decoded_again(
    looked: Iterable[ClassifiedBatch], batch_size: int, again: Callable[[ClassifiedBatch], Iterable[ClassifiedBatch]]
) -> Iterator[ClassifiedBatch]:
    """Pass on what is sure; the rest is looked at again when there is a batch of it, or at the end."""
    waiting: list[ClassifiedBatch] = []
    for each in looked:
        yield each.only(~each.close)
        waiting.append(each.only(each.close))
        if sum(len(some.close) for some in waiting) >= batch_size:
            yield from again(joined(waiting))
            waiting = []
    if any(len(some.close) for some in waiting):
        yield from again(joined(waiting))


def _listed(predictions: pa.Table) -> pa.Table:
    """Predictions as references (`schema.LISTING`)."""
    known = predictions.select(["path", "size_bytes", "modified_at"])
    return known.append_column("list_error", pa.nulls(known.num_rows, pa.string())).cast(schema.LISTING)


def _settled(first: ClassifiedBatch, second: ClassifiedBatch) -> Iterator[ClassifiedBatch]:
    """The second look's rows, but the first's where the bytes changed in between, or the world failed the second."""
    hashes = (each.predictions["content_hash"].combine_chunks() for each in (first, second))
    same = pc.equal(*hashes).fill_null(False).to_numpy(zero_copy_only=False)
    same &= ~np.isin(second.predictions["error_stage"].to_pylist(), WORLD)
    yield second._replace(looks=np.full(len(same), 3, dtype=np.int8)).only(same)
    yield first.only(~same)


def joined(looked: list[ClassifiedBatch]) -> ClassifiedBatch:
    """Several batches as one. Not for none."""
    return ClassifiedBatch(
        pa.concat_tables([each.predictions for each in looked]),
        np.concatenate([each.logits for each in looked]),
        np.concatenate([each.close for each in looked]),
        np.concatenate([each.looks for each in looked]),
    )
