"""One attempt at one shard: image batches → predictions → a part under `attempts/`, with its receipt.

The same code runs inline and in a Ray actor; where the batches come from (decoded here, or by decode tasks elsewhere)
is the caller's. An attempt only ever writes its own part: that it counts is for the driver to decide.

While it runs, a mark lies beside the parts. The driver sees by it that the worker gets on; and where an attempt finds
the mark of one before it, a worker died or stalled on this shard: then its images are decoded and classified in
isolation, so that the guilty one becomes an error row and the others get their answers.
"""

import itertools
import json
import logging
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.images.batching import DECODING, Decoding, image_batches
from pipeline.images.gpu_decoding import on_device
from pipeline.images.isolating import IsolatedDecoder
from pipeline.model import engines
from pipeline.model.cascade import Cascade, Decode
from pipeline.model.engine import Build, Engine
from pipeline.model.isolating import IsolatedEngine
from pipeline.run.folder import RunFolder
from pipeline.run.parts import Receipt, Worker, count_statuses, peak_memory, write_part, write_stage_times
from pipeline.run.plan import Plan
from pipeline.run.progress_marker import ProgressMarker
from pipeline.run.sharding import Shard
from pipeline.timing import CpuMeter, StageTimer, Stopwatch

Parts = Generator[tuple[Shard, Path], None, None]  # shards with the parts written for them, as they finish
log = logging.getLogger("shardseer")

DECODER = b"shardseer.decoder"  # in an image batch's metadata: who decoded it, where that is not the classifier


class ShardClassifier:
    """What one worker holds for a run: the planned network and how to turn a shard into a part with it."""

    def __init__(
        self,
        plan: Plan,
        *,
        device: str,
        threads: int,
        worker: Worker,
        flow_run: str | None,
        alarm: Callable[[], None] | None = None,
        cores: int | None = None,
    ) -> None:
        """Build the network on `device` (`cpu` or `cuda`) with `threads` CPU threads; for `alarm` see `ProgressMarker`.

        `cores` work for it, where those are not just its threads.
        """
        self._cores = cores or threads
        self._meter = CpuMeter()
        self._timers = [StageTimer(self._cores, self._meter)]  # of the lanes that have no shard now
        self._lanes = itertools.count(1)
        self._plan = plan
        self._worker = worker
        self._flow_run = flow_run
        self._alarm = alarm
        self._where = (device, threads)
        with self._timers[0].watch("starting"):
            self._bundle = plan.load_bundle()
            self._looking = self._looking_with(lambda build: engines.build(self._bundle, build, *self._where))

    def _looking_with(self, built: Callable[[Build], Engine]) -> Cascade:
        plan = self._plan
        return Cascade(self._bundle, plan.looks, built, options=plan.job.options, top_k=plan.top_k)

    @contextmanager
    def _lane(self) -> Iterator[StageTimer]:
        """The timesheet of a lane that is free, or of a new one."""
        try:
            timer = self._timers.pop()
        except IndexError:
            timer = StageTimer(self._cores, self._meter, next(self._lanes))
        try:
            yield timer
        finally:
            self._timers.append(timer)

    def attempt(self, shard: Shard, attempt: int, decode: Decode = image_batches) -> Path:
        """Classify a shard and write its part under `attempts/`; return the part's path.

        `decode` yields the image batches of references: in this process, or from wherever they are decoded. Several
        threads may attempt a shard each.
        """
        with self._lane() as time:
            with time.watch("other"):
                part = self._attempt(shard, attempt, decode, time)
            write_stage_times(part, time.cut())
            return part

    def _attempt(self, shard: Shard, attempt: int, decode: Decode, time: StageTimer) -> Path:
        plan, options = self._plan, self._plan.job.options
        who = f"{self._worker.kind} worker {self._worker.pid} on {self._worker.host}, attempt {attempt}"
        marker = ProgressMarker(RunFolder(plan.job.output, plan.run), shard, who, self._alarm)
        with ExitStack() as held:
            held.enter_context(marker)
            looking = self._looking
            if marker.found:
                log.warning("Shard %s: a worker was lost on it before, so its images are isolated now.", shard.id)
                decoder = IsolatedDecoder(
                    marker.beat,
                    seconds=options.image_seconds,
                    max_pixels=options.max_pixels,
                )
                decode = held.enter_context(closing(decoder)).batches
                looking = self._looking_with(
                    lambda build: held.enter_context(
                        closing(IsolatedEngine(plan.bundle, build, *self._where, marker.beat))
                    )
                )
            elif plan.looks.first.way == "gpu":
                decode = on_device(decode, self._where[0])
            return self._write(shard, attempt, decode, looking, marker, time)

    def _write(
        self, shard: Shard, attempt: int, decode: Decode, looking: Cascade, marker: ProgressMarker, time: StageTimer
    ) -> Path:
        plan, watch, decoders = self._plan, time.watch, set[Worker]()

        def noting(references: pa.Table, reading: Decoding, size: int, watch: Stopwatch) -> Iterator[pa.Table]:
            batches = _timed(decode(references, reading, size, watch), watch)
            return _noting_decoders(batches, decoders, time)

        tables, second_pass, decoded_again = [], 0, 0
        for each in marker.counting(looking.over(shard.references(), plan.batch_size, watch, noting)):
            tables.append(each.predictions)
            second_pass += int((each.looks > 1).sum())
            decoded_again += int((each.looks > 2).sum())
        predictions = pa.concat_tables(tables)
        stage_times = time.stage_times()
        receipt = Receipt(
            run=plan.run,
            shard=shard.id,
            attempt=attempt,
            rows=predictions.num_rows,
            **count_statuses(predictions),
            second_pass=second_pass,
            decoded_again=decoded_again,
            worker=self._worker,
            decoders=tuple(sorted(decoders or {self._worker}, key=lambda each: each.pid)),
            flow_run=self._flow_run,
            started_at=stage_times.began,
            ended_at=stage_times.ended,
            seconds=stage_times.seconds,
            cpu_seconds=stage_times.cpu_seconds,
            peak_memory=peak_memory(),
        )
        part = RunFolder(plan.job.output, plan.run).attempts / f"{shard.id}-{attempt}-{secrets.token_hex(4)}.parquet"
        with watch("write"):
            write_part(part, predictions, plan, receipt)
        return part


def _timed(batches: Iterator[pa.Table], watch: Stopwatch) -> Iterator[pa.Table]:
    """Time what it takes to get at a batch: making it here, its images' own stages aside, or waiting for others."""
    while True:
        with watch("gather"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _noting_decoders(batches: Iterable[pa.Table], decoders: set[Worker], time: StageTimer) -> Iterator[pa.Table]:
    for batch in batches:
        metadata = batch.schema.metadata or {}
        if DECODER in metadata:
            decoders.add(Worker(**json.loads(metadata[DECODER])))
        if DECODING in metadata:
            time.add_remote(**json.loads(metadata[DECODING]))
        yield batch
