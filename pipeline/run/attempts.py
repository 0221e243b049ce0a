"""One attempt at one shard: image batches → predictions → a part under `attempts/`, with its receipt.

The same code runs inline and in a Ray actor; where the batches come from (decoded here, or by decode tasks elsewhere)
is the caller's. An attempt only ever writes its own part: that it counts is for the driver to decide.

Where an attempt finds the in-progress marker of one before it, its images are decoded and classified in isolation, so
that the failing one becomes an error row and the others get their answers.
"""

import itertools
import json
import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import pyarrow as pa

from pipeline.events import Events
from pipeline.images.batching import DECODED_BY, DECODING_TIMES, BatchSource, Decoding, image_batches
from pipeline.images.decoding import ExactDecoder
from pipeline.images.isolating import IsolatedDecoding, readable_bytes
from pipeline.images.patient_reading import ReadPolicy
from pipeline.model.cascade import Cascade
from pipeline.model.engine import Engine, EngineSpec
from pipeline.model.isolating import IsolatedEngine
from pipeline.place import Place
from pipeline.run.output_kinds import run_at
from pipeline.run.parts import Receipt, count_statuses, write_part, write_stage_times
from pipeline.run.plan import Plan
from pipeline.run.progress_marker import ProgressMarker
from pipeline.run.sharding import Shard, sample_references
from pipeline.run.worker import Worker, own_versions, peak_memory
from pipeline.timing import CpuMeter, StageTimer, Stopwatch

log = logging.getLogger("shardseer")


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
        events: Events = Events(),
        cores: int | None = None,
    ) -> None:
        """Build the network on `device` (`cpu` or `cuda`) with `threads` CPU threads; `events` hears heartbeats.

        `cores` work for it, where those are not just its threads.
        """
        self._cores = cores or threads
        self._meter = CpuMeter()
        self._timers = [StageTimer(self._cores, self._meter)]  # of the lanes that have no shard now
        self._lanes = itertools.count(1)
        self._plan = plan
        self._folder = run_at(plan.job.output, plan.run)
        self._worker = worker
        self._flow_run = flow_run
        self._events = events
        self._device, self._threads = device, threads
        options = plan.job.options
        self._policy = ReadPolicy(
            options.source_patience,
            plan.root,
            sample_references(self._folder.read_shards()),
            private_hosts=options.private_hosts,
            most_bytes=readable_bytes(options.max_pixels),
        )
        own_versions()  # of what is loaded from now on
        with self._timers[0].watch("startup"):
            self._bundle = plan.load_bundle()
            self._cascade = self._assembled()

    @contextmanager
    def _lane(self) -> Iterator[StageTimer]:
        """The timer of a lane that is free, or of a new one."""
        try:
            timer = self._timers.pop()
        except IndexError:
            timer = StageTimer(self._cores, self._meter, next(self._lanes))
        try:
            yield timer
        finally:
            self._timers.append(timer)

    def attempt(self, shard: Shard, attempt: int, batches: Decoding = image_batches) -> Place:
        """Classify a shard and write its part under `attempts/`; return the part's place.

        `batches` yields the image batches of references: made in this process, or wherever they are decoded. Several
        threads may attempt a shard each.
        """
        with self._lane() as timer:
            with timer.watch("other"):
                part = self._attempt(shard, attempt, batches, timer)
            write_stage_times(part, timer.cut())
            return part

    def _attempt(self, shard: Shard, attempt: int, batches: Decoding, timer: StageTimer) -> Place:
        who = f"{self._worker.kind} worker {self._worker.pid} on {self._worker.host}, attempt {attempt}"
        with ExitStack() as held:
            marker = held.enter_context(
                ProgressMarker(self._folder, shard, who, self._events, self._plan.job.options.stall_seconds)
            )
            cascade = self._cascade
            if marker.found:
                log.warning("Shard %s: a worker was lost on it before, so its images are isolated now.", shard.id)
                batches, cascade = self._isolated(held, marker)
            decoding = partial(batches, events=marker, policy=self._policy)
            recorder = held.enter_context(_Recorder(decoding, timer))
            return self._write(shard, attempt, recorder, cascade, marker, timer)

    def _isolated(self, held: ExitStack, events: Events) -> tuple[Decoding, Cascade]:
        """Decoding and the network in child processes, until `held` is left."""
        options = self._plan.job.options
        decoding = IsolatedDecoding(events, seconds=options.image_seconds, max_pixels=options.max_pixels)

        def build(spec: EngineSpec) -> Engine:
            engine = IsolatedEngine(
                self._plan.bundle, spec, self._device, self._threads, events, seconds=options.stall_seconds
            )
            return held.enter_context(closing(engine))

        return held.enter_context(closing(decoding)).batches, self._assembled(build)

    def _assembled(self, build: Callable[[EngineSpec], Engine] | None = None) -> Cascade:
        plan, device, threads = self._plan, self._device, self._threads
        return Cascade(self._bundle, plan.inference, plan.job.options, device=device, threads=threads, build=build)

    def _write(
        self,
        shard: Shard,
        attempt: int,
        recorder: "_Recorder",
        cascade: Cascade,
        marker: ProgressMarker,
        timer: StageTimer,
    ) -> Place:
        watch, size = timer.watch, self._plan.inference.batch_size
        classified = cascade.classify(shard.references(), size, watch, recorder.batches, marker)
        tables, second_pass, decoded_again = [], 0, 0
        for batch in marker.counting(classified):
            tables.append(batch.predictions)
            second_pass += int((batch.passes > 1).sum())
            decoded_again += int((batch.passes > 2).sum())
        predictions = pa.concat_tables(tables)
        times = timer.stage_times()
        receipt = Receipt(
            run=self._plan.run,
            shard=shard.id,
            attempt=attempt,
            rows=predictions.num_rows,
            **count_statuses(predictions),
            second_pass=second_pass,
            decoded_again=decoded_again,
            worker=self._worker,
            decoded_by=tuple(sorted(recorder.decoded_by or {self._worker}, key=lambda each: each.pid)),
            flow_run=self._flow_run,
            started_at=times.began,
            ended_at=times.ended,
            seconds=times.seconds,
            cpu_seconds=times.cpu_seconds,
            peak_memory=peak_memory(),
        )
        part = self._folder.attempt_file(f"{shard.id}-{attempt}-{secrets.token_hex(4)}.parquet")
        with watch("write"):
            write_part(part, predictions, self._plan, receipt)
        return part


class _Recorder(ExitStack):
    """Notes who decoded the batches that it passes on, and how long that and getting at them took.

    What makes them is ended when it is left, however the attempt ends.
    """

    def __init__(self, batches: BatchSource, timer: StageTimer) -> None:
        super().__init__()
        self._batches = batches
        self._timer = timer
        self.decoded_by = set[Worker]()

    def batches(
        self, references: pa.Table, decoder: ExactDecoder, batch_size: int, watch: Stopwatch
    ) -> Iterator[pa.Table]:
        """As `batching.image_batches`."""
        batches = self._batches(references, decoder, batch_size, watch)
        if isinstance(batches, Generator):
            self.enter_context(closing(batches))
        while True:
            with watch("input_wait"):  # making a batch here, its images' own stages aside, or waiting for others
                batch = next(batches, None)
            if batch is None:
                return
            metadata = batch.schema.metadata or {}
            if DECODED_BY in metadata:
                self.decoded_by.add(Worker(**json.loads(metadata[DECODED_BY])))
            if DECODING_TIMES in metadata:
                self._timer.add_remote(**json.loads(metadata[DECODING_TIMES]))
            yield batch
