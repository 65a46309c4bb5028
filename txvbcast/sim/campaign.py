"""Many random runs in worker processes: no seed is lost, whatever becomes of its worker.

A worker gets one seed at a time, so that the parent always knows which seed a worker was
busy with when it died or fell silent.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import attrs
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner, globalLogPublisher
from zope.interface import implementer

from txvbcast.core.marks import Mark
from txvbcast.sim.checks import Violation
from txvbcast.sim.options import Options
from txvbcast.sim.reach import Reached, ReachWatcher
from txvbcast.sim.swarm import Swarm
from txvbcast.sim.trace import Tally
from txvbcast.sim.watch import Watcher

#: How many new objects a worker lets gather before it looks for garbage among them.
GARBAGE_OBJECTS = 100_000
#: A worker that has not answered after so many seconds is given up, and its seed reported.
PATIENCE_S = 1800.0


@attrs.frozen
class Result:
    """What became of one seed.

    :ivar violation: what does not hold, or why there is no result; empty if all is well.
    :ivar trace_hash: the hash of every byte sent; empty if the run did not come to an end.
    :ivar virtual_s: how much time passed in the world; cpu_s: what it took of a processor.
    :ivar steps: calls of the world's clock.
    :ivar outcomes: transactions by what their clients heard; faults: by kind, how many began.
    :ivar standings: by kind, how often some node told of a member's standing.
    :ivar marks: the rare branches that it came to.
    """

    seed: int
    soak: bool = False
    violation: str = ""
    trace_hash: str = ""
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    steps: int = 0
    outcomes: Mapping[str, int] = attrs.field(factory=dict)
    faults: Mapping[str, int] = attrs.field(factory=dict)
    standings: Mapping[str, int] = attrs.field(factory=dict)
    epochs: int = 0
    marks: frozenset[Mark] = frozenset()

    @property
    def lost(self) -> bool:
        """Whether the run did not come to an end: its worker died, or was given up."""
        return not self.trace_hash


@attrs.frozen
class CampaignResult:
    """What became of many seeds.

    :ivar results: by rising seed; asked: how many seeds there were to do.
    :ivar interrupted: it was ended by Ctrl-C.
    """

    results: tuple[Result, ...]
    asked: int
    jobs: int
    wall_s: float
    interrupted: bool = False

    @property
    def failing(self) -> tuple[Result, ...]:
        """The seeds with a violation."""
        return tuple(result for result in self.results if result.violation)

    @property
    def virtual_s(self) -> float:
        """Virtual time of all runs together."""
        return sum(result.virtual_s for result in self.results)

    @property
    def cpu_s(self) -> float:
        """What all runs together took of the processors."""
        return sum(result.cpu_s for result in self.results)

    def total(self, what: Callable[[Result], Mapping[str, int]]) -> Counter[str]:
        """The sum of one kind of count over all runs."""
        counts: Counter[str] = Counter()
        for result in self.results:
            counts.update(what(result))
        return counts

    @property
    def reached(self) -> Reached:
        """Which rare branches how many of the runs came to."""
        reached = Reached((Mark,))
        for result in self.results:
            reached.add(result.marks)
        return reached


#: Makes the result of a seed; ``bool``: whether its options are those of a soak.
Task = Callable[[int, bool], Result]


def run_seed(seed: int, soak: bool = False, watchers: Sequence[Watcher] = ()) -> Result:
    """One run, in this process.

    What was only logged as a failure is a violation too: nothing in a simulated world may
    fail that nobody hears of.
    """
    began_s = time.process_time()
    tally, reach, complaints = Tally(), ReachWatcher(), _Complaints()
    globalLogPublisher.addObserver(complaints)
    try:
        swarm = Swarm(seed, Options.draw(seed, soak), (tally, reach, *watchers))
        violation = _violation(swarm)
        gc.collect()  # an error that was left in a Deferred is logged when that goes: in its own run
    finally:
        globalLogPublisher.removeObserver(complaints)
    world = swarm.world
    return Result(
        seed,
        soak,
        violation or "\n".join(complaints.texts),
        world.network.digest(),
        world.clock.seconds(),
        time.process_time() - began_s,
        world.clock.calls,
        tally.outcomes,
        tally.faults,
        tally.standings,
        tally.epochs,
        reach.reached,
    )


def _violation(swarm: Swarm) -> str:
    try:
        swarm.run()
    except Violation as violation:
        cause = violation.__cause__
        known = cause is None or str(cause) == str(violation)
        return str(violation) if known else f"{violation}\n{''.join(traceback.format_exception(cause))}"
    except Exception:  # noqa: BLE001 - a campaign must name the seed, whatever its run came to
        return f"the run failed:\n{traceback.format_exc()}"
    return ""


@implementer(ILogObserver)
class _Complaints:
    """Keeps what is logged as critical: an error that somebody has caught, or that nobody has."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        if event["log_level"] is LogLevel.critical:
            self.texts.append(eventAsText(event, includeTimestamp=False, includeSystem=False))


# --- workers ------------------------------------------------------------------------------


def _work(pipe: Connection, soak: bool, task: Task) -> None:
    """A worker's life: answer each seed with its result, until there is none left."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    gc.freeze()  # the modules are not garbage
    gc.set_threshold(GARBAGE_OBJECTS)  # a world is thrown away as a whole
    with suppress(EOFError):
        while True:
            pipe.send(task(pipe.recv(), soak))


@attrs.define(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    seed: int = 0
    since_s: float = 0.0

    def give(self, seed: int) -> None:
        """Let it begin with a seed; if it is dead already, that is noticed when it is asked for the result."""
        self.seed, self.since_s = seed, time.monotonic()
        with suppress(ConnectionError):
            self.pipe.send(seed)

    def end(self) -> None:
        """Stop it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def jobs_for(seeds: Sequence[int], jobs: int | None) -> int:
    """How many processes are worth having; ``jobs`` None: as many as there are processors."""
    return min(jobs or os.cpu_count() or 1, max(1, len(seeds)))


def run(
    seeds: Iterable[int],
    jobs: int | None = None,
    soak: bool = False,
    on_result: Callable[[Result], None] = lambda result: None,
    *,
    failures_max: int | None = None,
    patience_s: float = PATIENCE_S,
    task: Task = run_seed,
) -> CampaignResult:
    """Run many seeds, each in one of ``jobs`` processes (None: as many as there are processors).

    To be called from the main thread; Ctrl-C ends it early, with the results so far.

    :param on_result: told of each result as it comes, in no certain order.
    :param failures_max: give out no more seeds after so many violations; None: go on to the end.
    :param task: what a worker does with a seed; a function of some module, so that it can be sent to it.
    """
    wanted = list(seeds)
    jobs = jobs_for(wanted, jobs)
    began_s = time.monotonic()
    campaign = _Campaign(wanted, jobs, soak, on_result, failures_max, patience_s, task)
    interrupted = False
    try:
        campaign.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        campaign.end()
    results = tuple(sorted(campaign.results, key=lambda result: result.seed))
    return CampaignResult(results, len(wanted), jobs, time.monotonic() - began_s, interrupted)


@attrs.define(eq=False)
class _Campaign:
    seeds: list[int]
    jobs: int
    soak: bool
    on_result: Callable[[Result], None]
    failures_max: int | None
    patience_s: float
    task: Task
    results: list[Result] = attrs.field(factory=list)
    busy: dict[Connection, _Worker] = attrs.field(factory=dict)
    idle: list[_Worker] = attrs.field(factory=list)
    failures: int = 0
    begun: int = 0

    def run(self) -> None:
        """All seeds, or until there are enough violations."""
        self._give_out()
        while self.busy:
            due_s = min(worker.since_s for worker in self.busy.values()) + self.patience_s
            for pipe in wait(list(self.busy), max(0.0, due_s - time.monotonic())):
                assert isinstance(pipe, Connection)
                self._take(self.busy.pop(pipe))
            self._give_up_the_silent()
            self._give_out()

    def end(self) -> None:
        """Stop all workers."""
        for worker in (*self.idle, *self.busy.values()):
            worker.end()

    def _give_out(self) -> None:
        """Give seeds to whoever can take one."""
        enough = self.failures_max is not None and self.failures >= self.failures_max
        while self.begun < len(self.seeds) and len(self.busy) < self.jobs and not enough:
            worker = self.idle.pop() if self.idle else self._hire()
            self.busy[worker.pipe] = worker
            worker.give(self.seeds[self.begun])
            self.begun += 1

    def _hire(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # nothing of this process's state gets into a run
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.soak, self.task), daemon=True)
        # Ctrl-C goes to all processes of a terminal; a process started while it is ignored ignores it.
        heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, heeded)
        theirs.close()
        return _Worker(process, ours)

    def _take(self, worker: _Worker) -> None:
        try:
            result = worker.pipe.recv()
        except (EOFError, OSError):  # the worker is gone, perhaps in the middle of a result
            worker.process.join()
            why = f"its worker died with exit status {worker.process.exitcode}"
            worker.end()
            result = Result(worker.seed, self.soak, why)
        else:
            self.idle.append(worker)
        self._keep(result)

    def _give_up_the_silent(self) -> None:
        now_s = time.monotonic()
        for pipe, worker in list(self.busy.items()):
            if now_s - worker.since_s >= self.patience_s:
                del self.busy[pipe]
                worker.end()
                why = f"its worker had no result after {self.patience_s:g} s and was stopped"
                self._keep(Result(worker.seed, self.soak, why))

    def _keep(self, result: Result) -> None:
        self.results.append(result)
        self.failures += bool(result.violation)
        self.on_result(result)
