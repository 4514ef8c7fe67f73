"""Decides which requests run when, and which of them together.

A `Lane` is the queue in front of one network on one engine. The scheduler has a number of threads,
which all lanes share. While one of them is free, what comes runs at once; what comes while all
are busy waits, and the thread that is free next takes as much of it together as the lane allows. So
requests share a run exactly where there are more of them than threads, and one that is alone never
waits for company, unless the lane is told to wait for it. The other way round, a large request that
finds several threads free is shared out among them.

A run that is known to take no longer than `QUICK_S`, which is what a request's transport takes
anyway, is done on the event loop at once: to hand it to a thread and back would keep the loop busy
for as long, and the request waiting for longer. Everything but the other runs happens there too,
and needs no locks.

Where the loop has no time to spare, quick requests wait until `GATHERED` of them are there. A run
of several takes less than as many runs: the weights pass through the caches once, which then hold
what the loop itself works on. From then on answers leave and requests come in groups, which spares
turns of the loop. Nobody waits for longer than `GATHER_S`, nobody at all for a while where too few
others came in that time, and nobody any more once the loop has time again.
"""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from typing import NamedTuple, NoReturn, Protocol, TypeAlias

import numpy as np

from pyconv.engines.base import Array
from pyconv.server.errors import BusyError, DeadlineError

Tensors: TypeAlias = Mapping[str, Array]


QUICK_S = 0.0005
"""The longest run that is done on the event loop."""

GATHERED = 4
"""How many quick requests run together where the event loop is busy."""

GATHER_S = 0.003
"""The longest that one of them waits for the others."""

SLEEPS = 1
"""An event loop that goes to sleep less often than so many times a request has no time to spare."""

_LOOK_EVERY = 32  # requests
_FEWEST_ALONE, _MOST_ALONE = 32, 1024


PART_IMAGES = 32
"""The fewest images that are worth a thread of their own."""


class Runner(Protocol):
    """What a lane is in front of."""

    @property
    def image_s(self) -> float:
        """What one image takes; infinite where that is not known."""

    def run(self, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        """Compute the tensors of these names from inputs by name; the threads come here."""


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        tensors: the outputs, those of this request alone.
        queue_s: how long it waited for a thread.
        compute_s: how long the run took that it was part of.
        batch: how many images that run was of, all requests together.
    """

    tensors: Tensors
    queue_s: float
    compute_s: float
    batch: int


@dataclass(slots=True, eq=False)
class _Job:
    key: Hashable  # jobs of the same key may run together; None: alone
    inputs: Tensors
    outputs: Sequence[str]
    images: int
    deadline: float | None
    future: asyncio.Future[Outcome]
    since: float


@dataclass(slots=True, eq=False)
class _Batch:
    lane: Lane
    jobs: list[_Job]
    images: int
    started: float = 0.0
    ended: float = 0.0
    results: Sequence[Tensors | Exception] = ()


Observer: TypeAlias = Callable[[Runner, int, float], None]
"""Told of every run: what ran, on how many images, and its seconds."""


class Lane:
    """The queue in front of one network on one engine. Made by `Scheduler.lane`.

    Attributes:
        runner: the network on its engine.
        max_batch: how many images run together, at most; a larger request runs alone.
        max_wait_s: how long a request waits for others while a thread is free.
        max_queue: how many requests may wait; the next one is refused.
        waiting: how many do.
        retired: whether the last requests have come.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
    ) -> None:
        self.runner = runner
        self.max_batch = max_batch
        self.max_wait_s = max_wait_s
        self.max_queue = max_queue
        self.waiting = 0
        self.retired = False
        self._scheduler = scheduler
        self._jobs: deque[_Job] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._alone = 0  # how many quick requests do not wait for others
        self._next_alone = _FEWEST_ALONE
        self._job_s = 0.0  # what one request takes of a thread, on the average

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, for a request that has work to be done before it can be run.

        Raises:
            BusyError: the queue is full.
        """
        if self.waiting >= self.max_queue:
            self._refuse()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def submit(
        self,
        inputs: Tensors,
        outputs: Sequence[str],
        images: int,
        *,
        key: Hashable = None,
        deadline: float | None = None,
    ) -> Outcome:
        """Run the network, perhaps together with other requests.

        Args:
            inputs: its inputs by name.
            outputs: the tensors wanted.
            images: how many images these are, which is the size of axis 0 of every input and
                output where there is a key.
            key: requests of the same key may run together, their arrays behind each other along
                axis 0; one whose key is None runs alone.
            deadline: by `time.monotonic()`, when the caller has no use for the answer any more.

        Raises:
            BusyError: the queue is full.
            DeadlineError: the deadline passed before the run began.
            Exception: whatever the run raised.
        """
        if self.waiting >= self.max_queue:
            self._refuse()
        quick = images * self.runner.image_s <= QUICK_S and not self.max_wait_s
        gathers = quick and key is not None and self._gathers()
        if quick and not self._jobs and not gathers:
            return self._run_here(inputs, outputs, images, deadline)
        if gathers:
            return await self._enqueue(inputs, outputs, images, key, deadline, gather=True)
        parts = min(self._scheduler.free, images // PART_IMAGES)
        if key is None or parts < 2 or self._jobs:
            return await self._enqueue(inputs, outputs, images, key, deadline)
        # Threads are free, and nobody else waits for them: they share the request.
        bounds = [images * part // parts for part in range(parts + 1)]
        outcomes = await asyncio.gather(
            *(
                self._enqueue(
                    {name: array[start:end] for name, array in inputs.items()},
                    outputs,
                    end - start,
                    (key, start),  # not together with each other again
                    deadline,
                )
                for start, end in pairwise(bounds)
            )
        )
        return Outcome(
            {name: np.concatenate([o.tensors[name] for o in outcomes]) for name in outputs},
            max(outcome.queue_s for outcome in outcomes),
            max(outcome.compute_s for outcome in outcomes),
            images,
        )

    def _enqueue(
        self,
        inputs: Tensors,
        outputs: Sequence[str],
        images: int,
        key: Hashable,
        deadline: float | None,
        *,
        gather: bool = False,
    ) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        job = _Job(key, inputs, outputs, images, deadline, future, time.monotonic())
        self._jobs.append(job)
        self.waiting += 1
        if not gather or len(self._jobs) >= GATHERED:
            self._scheduler.wake(loop)
        elif self._timer is None:
            self._timer = loop.call_later(GATHER_S, self._give_up_gathering, loop)
        return future

    def _run_here(
        self, inputs: Tensors, outputs: Sequence[str], images: int, deadline: float | None
    ) -> Outcome:
        """Run at once, on the event loop."""
        started = time.monotonic()
        if deadline is not None and started >= deadline:
            raise DeadlineError("the deadline passed before the request was computed")
        tensors = self.runner.run(inputs, outputs)
        took = time.monotonic() - started
        self.learn(took)
        self._scheduler.observe(self.runner, images, took)
        return Outcome(tensors, 0.0, took, images)

    def _gathers(self) -> bool:
        """Whether a quick request shall wait for others; asked at each of them."""
        is_high = self._scheduler.load.is_high()
        if self._alone:
            self._alone -= 1
            return False
        return is_high

    def _give_up_gathering(self, loop: asyncio.AbstractEventLoop) -> None:
        """Too few came: there may be no more callers than that."""
        self._timer = None
        self._alone = self._next_alone
        self._next_alone = min(2 * self._next_alone, _MOST_ALONE)
        self._scheduler.wake(loop)

    def next_batch(self, now: float) -> _Batch | None:
        """What may run now; jobs that nobody waits for any more are dropped on the way."""
        jobs: list[_Job] = []
        images = 0
        later: list[_Job] = []
        while self._jobs and images < self.max_batch:
            job = self._jobs.popleft()
            if self._dropped(job, now):
                continue
            if not jobs:
                jobs.append(job)
                images = job.images
                if job.key is None:
                    break
            elif job.key == jobs[0].key and images + job.images <= self.max_batch:
                jobs.append(job)
                images += job.images
            else:
                later.append(job)
        self._jobs.extendleft(reversed(later))
        if not jobs:
            return None
        first = jobs[0]
        patience = self.max_wait_s - (now - first.since)
        if first.key is not None and images < self.max_batch and patience > 0:
            self._jobs.extendleft(reversed(jobs))
            self._wait_for_company(first.future.get_loop(), patience)
            return None
        self.waiting -= len(jobs)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(jobs) >= GATHERED:
            self._next_alone = max(self._next_alone // 2, _FEWEST_ALONE)
        return _Batch(self, jobs, images)

    def note(self, batch: _Batch) -> None:
        """Learn from a run what a request takes."""
        self.learn((batch.ended - batch.started) / len(batch.jobs))

    def learn(self, took: float) -> None:
        """A request took so many seconds of a thread."""
        self._job_s = took if not self._job_s else 0.9 * self._job_s + 0.1 * took

    def _dropped(self, job: _Job, now: float) -> bool:
        if job.future.done():  # cancelled: the caller is gone
            self.waiting -= 1
            return True
        if job.deadline is not None and now >= job.deadline:
            self.waiting -= 1
            job.future.set_exception(
                DeadlineError(f"the deadline passed after {now - job.since:.3f} s in the queue")
            )
            return True
        return False

    def _wait_for_company(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._scheduler.wake, loop)

    def _refuse(self) -> NoReturn:
        wait_ms = max(1, round(self._job_s * self.waiting / self._scheduler.threads * 1000))
        raise BusyError(
            f"{self.waiting} requests wait for this model already, the most that this server "
            f"queues; come again in {wait_ms} ms",
            wait_ms,
        )


class Scheduler:
    """Runs what its lanes hold on threads of its own.

    Args:
        threads: how many runs there are at the same time.
        observe: told of every run.

    Attributes:
        threads: as given.
        observe: as given.
        free: how many of them have nothing to do.
        load: of the event loop.
    """

    def __init__(self, threads: int, observe: Observer = lambda *_: None) -> None:
        self.threads = threads
        self.observe = observe
        self.load = LoopLoad()
        self.free = threads
        self._work: SimpleQueue[_Batch | None] = SimpleQueue()
        self._lanes: deque[Lane] = deque()  # the one whose turn it is stands first
        self._woken: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._run_batches, name=f"pyconv-run-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def lane(self, runner: Runner, max_batch: int, max_wait_s: float, max_queue: int) -> Lane:
        """A queue for one network on one engine; the arguments are `Lane`'s attributes."""
        lane = Lane(self, runner, max_batch, max_wait_s, max_queue)
        self._lanes.append(lane)
        return lane

    def remove(self, lane: Lane) -> None:
        """Forget a lane once nothing waits in it: nobody new will come to it."""
        lane.retired = True

    def close(self) -> None:
        """Finish the runs under way and end the threads."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for work, once everything that the event loop has at hand has been queued."""
        if self._woken is not loop:
            self._woken = loop
            loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._woken = None
        now = time.monotonic()
        idle = 0  # lanes in a row that had nothing; they take turns
        while self.free and idle < len(self._lanes):
            lane = self._lanes.popleft()
            if lane.retired and not lane.waiting:
                continue
            self._lanes.append(lane)
            batch = lane.next_batch(now)
            if batch is None:
                idle += 1
                continue
            idle = 0
            if batch.images * lane.runner.image_s <= QUICK_S:
                _run(batch)
                self._settle(batch)
                # Others that wait have their turn when the loop has looked around.
                self.wake(batch.jobs[0].future.get_loop())
                return
            self.free -= 1
            self._work.put(batch)

    def _run_batches(self) -> None:
        while (batch := self._work.get()) is not None:
            _run(batch)
            # The loop is closed where a server was torn down without waiting for its requests.
            try:
                batch.jobs[0].future.get_loop().call_soon_threadsafe(self._deliver, batch)
            except RuntimeError:
                self.free += 1
            del batch

    def _deliver(self, batch: _Batch) -> None:
        self.free += 1
        self._settle(batch)
        self._dispatch()

    def _settle(self, batch: _Batch) -> None:
        """Hand out what a run gave."""
        batch.lane.note(batch)
        took = batch.ended - batch.started
        for job, result in zip(batch.jobs, batch.results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                outcome = Outcome(result, batch.started - job.since, took, batch.images)
                job.future.set_result(outcome)
        self.observe(batch.lane.runner, batch.images, took)


def _run(batch: _Batch) -> None:
    batch.started = time.monotonic()
    batch.results = _results(batch)
    batch.ended = time.monotonic()


def _results(batch: _Batch) -> Sequence[Tensors | Exception]:
    """For each job its tensors, or what went wrong."""
    jobs = batch.jobs
    if len(jobs) == 1:
        return [_run_alone(batch.lane, jobs[0])]
    try:
        merged = {
            name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs
        }
        tensors = batch.lane.runner.run(merged, jobs[0].outputs)
    except Exception:
        # Perhaps one of them is at fault; the others shall not suffer from it.
        return [_run_alone(batch.lane, job) for job in jobs]
    results: list[Tensors | Exception] = []
    start = 0
    for job in jobs:
        end = start + job.images
        results.append({name: array[start:end] for name, array in tensors.items()})
        start = end
    return results


def _run_alone(lane: Lane, job: _Job) -> Tensors | Exception:
    try:
        return lane.runner.run(job.inputs, job.outputs)
    except Exception as error:
        return error


class LoopLoad:
    """Whether the event loop has time to spare: how often its thread goes to sleep.

    That tells it also where other processes keep the processor busy, of which the loop then has
    little and yet is never idle.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._is_high = False
        self._sleeps = _sleeps()

    def is_high(self) -> bool:
        """Whether it has none to spare; asked on the loop's thread, request by request."""
        self._asked += 1
        if self._asked >= _LOOK_EVERY:
            sleeps = _sleeps()
            self._is_high = sleeps - self._sleeps < SLEEPS * self._asked
            self._asked, self._sleeps = 0, sleeps
        return self._is_high


def _sleeps() -> int:
    """How often this thread has gone to sleep; elsewhere than on Linux, the whole process."""
    which = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
    return resource.getrusage(which).ru_nvcsw
