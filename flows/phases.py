"""The runs of a job, phase by phase: plan, classify, publish, report. Plain functions, with or without Prefect.

A command continues the unfinished run of its request first. That run's listing is as old as its plan, so a second run
follows it in the same command, of what is new since.
"""

from contextlib import AbstractContextManager, ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from types import TracebackType

from pipeline.child_process import one_child
from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.images import gpu_decoding
from pipeline.images.input_check import check_input
from pipeline.job import Device, Job
from pipeline.model import engines, fingerprint, resolving
from pipeline.model.bundle import Bundle
from pipeline.run import outputs, planning, publishing, recovering, reporting
from pipeline.run.accounting import Account, AccountBuilder
from pipeline.run.bottleneck import RunConditions
from pipeline.run.output import Held
from pipeline.run.output_kinds import output_at
from pipeline.run.parts import take_stage_times
from pipeline.run.plan import Plan
from pipeline.run.reporting import Summary
from pipeline.run.result import Result, attach
from pipeline.run.run_files import RunFiles
from pipeline.run.selecting import Earlier
from pipeline.run.worker import peak_memory
from pipeline.timing import Stopwatch
from workers.executor import Executor, check_executor, open_executor, runs_inline


def check(job: Job) -> Bundle:
    """Find out all that can be wrong with a request before anything is written. Raises `RequestError`."""
    with output_at(job.output).one_look():
        outputs.check_output(job.output)
        check_input(job)
        bundle = resolving.resolve(job.model)
        outputs.check_names(job.output, planning.partition(job, bundle))
    fingerprint.top_k_of(job.options, bundle)
    engines.check(bundle, job.options)
    gpu_decoding.check(job.options, bundle.preprocessing)
    check_executor(job.options)
    return bundle


class Run(AbstractContextManager["Run"]):
    """A job while it is worked on: holds the output's lock and the executor until it is left.

    The phases are called in turn, again while there `is_more`: plan, classify, publish, report.
    """

    def __init__(self, job: Job, events: Events, flow_run: str | None = None) -> None:
        """`events` hears sentences for people, and images done and in all; `flow_run` goes into the provenance."""
        self._job, self._events, self._flow_run = job, events, flow_run
        self._held, self._timed, self._account_builder = ExitStack(), Stopwatch(), AccountBuilder()
        self._began: datetime  # classifying
        self._folder: RunFiles
        self._output: Held = outputs.Unheld()
        self._plan: Plan
        self._executors = self._held.enter_context(ExitStack())
        self._executor: Executor | None = None
        self._chosen: tuple[bool, Device] | None = None  # whether the executor is inline, and the device asked for
        self._resumed = 0
        self._earlier: Earlier | None = None  # the run that this command continued
        self.result = Result.of(job)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._held:
            if error is not None:
                attach(reason := outputs.reason(error, self._output), self.result)
                if reason is not error:
                    raise reason from error

    @property
    def is_more(self) -> bool:
        """Whether another run may follow the one that was reported, of what is new since it was planned."""
        limit = self._job.options.limit
        return self._earlier is not None and (limit is None or self._earlier.images < limit)

    @property
    def device(self) -> str:
        """Where the network runs: cpu or cuda; what was asked for where nothing was left to classify."""
        return self._job.options.device if self._executor is None else self._executor.device

    def plan(self) -> Plan | None:
        """Continue the unfinished run of this request, or plan a new one; None where nothing is new."""
        self._timed, self._account_builder = Stopwatch(), AccountBuilder()
        with self._timed("plan"), one_child():
            self._events.doing("checking the request")
            bundle = check(self._job)
            unfinished = None
            if self._earlier is None:
                self._output = self._held.enter_context(outputs.locked(self._job.output, self._events))
                unfinished = self._unfinished(bundle)
            plan = self._plan_anew(bundle) if unfinished is None else self._resume(unfinished, bundle)
        if plan is not None:
            self._plan = plan
        return plan

    def classify(self) -> None:
        """Classify the shards that are not staged yet, accepting one part for each."""
        with self._timed("classify"):
            shards = publishing.unstaged_shards(self._folder)
            self._resumed = self._plan.shards - len(shards)
            total = self._plan.counts.images
            done = total - sum(shard.images for shard in shards)
            self._events.progress(done, total)
            self._began = datetime.now(UTC)
            if not shards:
                return
            assert self._executor is not None
            with closing(self._executor.classify(self._plan, shards, self._flow_run)) as parts:
                for shard, part in parts:
                    self._output.check()
                    self._account_builder.add(publishing.accept(self._folder, shard, part), take_stage_times(part))
                    done += shard.images
                    self._events.progress(done, total)

    def publish(self) -> None:
        """Count, decide, and make the run visible."""
        with self._timed("publish"):
            self._events.doing("publishing")
            self._output.check()
            if self._folder.state == "planned":
                publishing.decide(self._folder, self._plan, self._job.options.max_error_rate)
            publishing.publish(self._folder)

    def report(self) -> Summary:
        """Say what was done; write it beside the plan."""
        seconds = {phase: round(spent, 3) for phase, spent in self._timed.seconds.items()}
        account = self._account(seconds)
        summary = reporting.summarize(self._folder, self._plan, seconds, peak_memory(), self._resumed, account)
        reporting.write_report(self._folder, summary)
        publishing.remove_leftovers(self._folder)
        self.result = self.result.with_run(summary)
        return summary

    def every_phase(self) -> Result:
        """Everything that there is to do, in this process."""
        while self.plan() is not None:
            self.classify()
            self.publish()
            self.report()
            if not self.is_more:
                break
        return self.result

    def _account(self, seconds: dict[str, float]) -> Account | None:
        if self._executor is None:
            return None
        cascade = self._plan.inference.cascade
        how = RunConditions(
            size=self._executor.size,
            on_gpu=self._executor.device == "cuda",
            precision=self._job.options.precision,
            engine=cascade.engine,
            gpu_decoding=cascade.first.decoder == "gpu",
        )
        return self._account_builder.account(self._began, seconds, how)

    def _unfinished(self, bundle: Bundle) -> RunFiles | None:
        """The run to continue, after what earlier runs left behind was put right: this one has the lock."""
        found = planning.unfinished(self._job, self._job.key(fingerprint.model_key(bundle, self._job.options)))
        continued = None if self._job.options.fresh else found
        recovering.recover(self._job.output, self._events, continued)
        if found is not None and continued is None:
            recovering.abandon(found, self._events)
        return continued

    def _resume(self, folder: RunFiles, bundle: Bundle) -> Plan:
        # What may have made it fail is asked anew: how long to wait for what does not end, and whom images come from.
        asked_anew = {"image_seconds", "private_hosts", "source_patience", "stall_seconds", "watchdog_minutes"}
        deadlines = self._job.options.model_dump(include=asked_anew)
        plan = folder.plan()
        device = engines.device_to_continue(plan.inference.cascade.engine, self._job.options.device)
        options = plan.job.options.model_copy(update={**deadlines, "device": device})
        job = plan.job.model_copy(update={"options": options})
        plan = plan.model_copy(update={"job": job, "bundle": bundle.folder})  # the same one, where it lies now
        left = publishing.unstaged_shards(folder)
        self._folder = folder
        self._earlier = Earlier(folder.run, plan.counts.images, folder, tuple(left))
        self._events.message(
            f"Continuing run {folder.run}: {plan.shards - len(left)} of {counted(plan.shards, 'shard')} done."
        )
        if left:
            folder.withdraw_decision()
            if options.gpu_decoding:  # the plan's, whatever is asked for now
                gpu_decoding.check(options, plan.load_bundle().preprocessing)
            executor = self._open_executor(sum(shard.images for shard in left), device)
            gpu_decoding.check_device(options, executor.device)
        return plan

    def _plan_anew(self, bundle: Bundle) -> Plan | None:
        job, folder, earlier = self._job, outputs.new_run(self._job.output), self._earlier
        if earlier is not None:
            self._events.message(f"Run {earlier.run} was planned by an earlier command: looking for what is new since.")
        folder.create()
        self._events.doing("listing the images")
        self._earlier, self._resumed = None, 0
        selection = planning.select(job, bundle, folder.scratch, earlier, self._events)
        self.result = self.result.with_listing(selection.found, selection.found - selection.eligible)
        if missing := selection.write_missing(folder.run, partial(self._output.check, asks=True)):
            self._events.message(
                f"Missing since: {counted(missing, 'file')} of earlier runs, which `current` leaves out."
            )
        if selection.images == 0:
            folder.discard()
            self._events.message(f"Nothing new: {counted(selection.found, 'image')}, all classified already.")
            return None
        self._folder = folder
        try:
            executor = self._open_executor(selection.images, job.options.device)
            gpu_decoding.check_device(job.options, executor.device)
            self._output.check()
            plan = planning.make_plan(folder, job, bundle, selection, workers=executor.size, device=executor.device)
        except RequestError:  # only the cluster itself could say
            folder.discard()
            raise
        self._events.doing("preparing the network")
        plan.inference.prepare(bundle)
        cascade = plan.inference.cascade
        how = f"{cascade.engine} in {cascade.first.dtype}"
        self._events.message(
            f"Run {plan.run}: {counted(plan.counts.images, 'image')} in {counted(plan.shards, 'shard')}, {how}."
        )
        return plan

    def _open_executor(self, images: int, device: Device) -> Executor:
        """The executor for so many images: the one of the run before where it would be chosen again."""
        options = self._job.options.model_copy(update={"device": device})
        chosen = runs_inline(options, images), device
        if self._executor is None or chosen != self._chosen:
            with self._timed("start"):
                self._executors.close()
                if not chosen[0]:
                    self._events.doing("starting Ray")
                self._executor = self._executors.enter_context(open_executor(options, images))
                self._chosen = chosen
        return self._executor


def run_directly(job: Job, events: Events) -> Result:
    """All phases in this process without Prefect."""
    with Run(job, events) as run:
        return run.every_phase()
