"""Scorer: the public face of scoring.

Inline rewards run right here, in the caller's thread; all others in the pool's
workers. Left out: who judges what when (`pool`), how a verdict is made (`judge`).
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from grpo_core.rewards import Outcome, Reward, Sample, Score
from grpo_core.scoring import judge
from grpo_core.scoring.batch import Batch, Station, Timings
from grpo_core.scoring.pool import Item, Lane, Pool, Running
from grpo_core.scoring.recipe import recipe_of

if TYPE_CHECKING:
    from grpo_core.rubric import Rubric, Table


class Scorer:
    """Runs a rubric over samples, with warm workers, from any thread or event loop.

    `workers` samples are judged at a time, `spares` further processes wait to
    replace one that is killed, `memory_mb` is what each may use (0: no limit).
    Raises PluginError when a worker could not rebuild one of the rewards.

    >>> with Scorer(rubric, workers=2) as scorer:
    ...     table = scorer.score(samples)
    """

    def __init__(
        self, rubric: Rubric, workers: int = 2, *, spares: int = 1, memory_mb: int = 2048
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.rubric = rubric
        lanes: list[Lane] = []
        self._stations: list[Station] = []
        for term in rubric.terms:
            reward, call = term.reward, judge.call_of(term.reward)
            if reward.isolation == "inline":
                run: Callable[[Sequence[Item]], None] = partial(_judge_inline, reward, call)
            else:
                recipe = recipe_of(term.name, reward)
                lane = Lane(
                    len(lanes), term.name, call, term.deadline_s, recipe, reward.deterministic
                )
                lanes.append(lane)
                run = partial(self._submit_items, lane)
            self._stations.append(Station(term, call, tuple(reward.requires), run))
        # Workers first: they judge while the inline rewards run in this thread.
        self._stations.sort(key=lambda station: station.term.reward.isolation == "inline")
        self._pool = Pool(lanes, workers, spares, memory_mb) if lanes else None
        self._last: Batch | None = None
        self._courier: _Courier | None = None

    def __enter__(self) -> Scorer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers now, rather than with the first samples."""
        if self._pool is not None:
            _not_while_building()
            self._pool.start()

    def close(self) -> None:
        """Kill the workers. What was still to be judged ends in `error`."""
        if self._pool is not None:
            self._pool.close()
        if self._courier is not None:
            self._courier.close()

    # --- scoring -----------------------------------------------------------------

    def score(self, samples: Sequence[Sample], step: int = 0) -> Table:
        """Judge samples by every reward of the rubric, and wait for the table.

        `step` is the training step, for weights on a schedule. Raises
        ScoringError where a policy says `raise`; whatever else goes wrong is an
        outcome of the sample it happened to.
        """
        batch = self.batch(step)
        try:
            batch.add(samples)
            table = batch.result()
        except BaseException:
            batch.cancel()
            raise
        self._last = batch
        return table

    async def score_async(self, samples: Sequence[Sample], step: int = 0) -> Table:
        """`score` for an event loop, which it does not block."""
        batch = self.batch(step)
        try:
            await asyncio.to_thread(_add_and_finish, batch, samples)
            await asyncio.wrap_future(batch.done)
        except BaseException:
            batch.cancel()
            raise
        self._last = batch
        return batch.table()

    def submit(self, sample: Sample | Sequence[Sample], step: int = 0) -> Future[Table]:
        """`score` as a future: the table of one sample, or of several.

        A rubric with rewards that judge whole groups needs several: raises
        ValueError when given one.
        """
        if isinstance(sample, Sample):
            for station in self._stations:
                if station.call is judge.Call.group:
                    raise ValueError(
                        f"reward {station.term.name!r} judges whole groups: "
                        "submit the list of a group's samples, or use batch()"
                    )
        if self._courier is None:
            self._courier = _Courier()
        courier, future = self._courier, Future[Any]()
        batch = self.batch(step)
        batch.add(sample)
        batch.finish()
        # Not on the pool's thread: a callback of the caller's may take its time.
        batch.done.add_done_callback(lambda _: courier.bring(future, batch))
        return future

    def batch(self, step: int = 0) -> Batch:
        """A batch to add samples to as they come: scoring that overlaps with what
        produces them."""
        _not_while_building()
        return Batch(self.rubric, self._stations, step)

    # --- watching ----------------------------------------------------------------

    @property
    def last_timings(self) -> Timings | None:
        """Where the time of the last `score` or `score_async` went."""
        return self._last.timings() if self._last is not None else None

    def running(self) -> list[Running]:
        """What the workers are judging now: reward, sample, seconds; longest first."""
        return self._pool.running() if self._pool is not None else []

    def _submit_items(self, lane: Lane, items: Sequence[Item]) -> None:
        assert self._pool is not None
        self._pool.submit(lane, items)


def score(samples: Sequence[Sample], rubric: Rubric, workers: int = 2) -> Table:
    """Judge samples by a rubric, once: `table.scores`, `table.values`, `table.totals`.

    Starts workers and lets them go again; a `Scorer` keeps them.
    """
    scorer = Scorer(rubric, workers)
    try:
        return scorer.score(samples)
    finally:
        scorer.close()


def _add_and_finish(batch: Batch, samples: Sequence[Sample]) -> None:
    batch.add(samples)
    batch.finish()


def _not_while_building() -> None:
    worker = sys.modules.get("grpo_core.scoring.worker")
    if worker is not None and worker.building:
        raise RuntimeError(
            "scoring was started while a worker imports the module that holds a reward; "
            'put the module\'s own scoring under `if __name__ == "__main__":`'
        )


# --- inline ----------------------------------------------------------------------


def _judge_inline(reward: Reward, call: judge.Call, items: Sequence[Item]) -> None:
    """Judge here and now. Trusted: no deadline can be enforced."""
    clock = time.perf_counter
    started = clock()
    if call is judge.Call.bulk:
        samples = [item.samples[0] for item in items]
        scores = _survive(lambda: judge.judge_bulk(reward, samples, _wait), len(samples))
        each = (clock() - started) / len(items)
        for item, score in zip(items, scores, strict=True):
            item.settle((score,), each)
        return
    for item in items:
        if call is judge.Call.group:
            scores = _survive(
                partial(judge.judge_together, reward, item.samples, _wait), len(item.samples)
            )
        else:
            try:
                scores = [judge.judge_one(reward, item.samples[0], _wait)]
            except MemoryError as error:
                scores = [judge.failed(error)]
        now = clock()
        item.settle(scores, now - started)
        started = now


def _survive(call: Callable[[], list[Score]], count: int) -> list[Score]:
    try:
        return call()
    except MemoryError as error:
        return [Score(None, Outcome.error, judge.failed(error).reason)] * count


def _wait(awaitable: Awaitable[Any]) -> Any:
    """Run an inline reward's coroutine on a loop of its own: the caller's may be running."""

    async def later() -> Any:
        return await awaitable

    with _LOOP_LOCK:
        if not _LOOPS:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="grpo-inline", daemon=True).start()
            _LOOPS.append(loop)
    return asyncio.run_coroutine_threadsafe(later(), _LOOPS[0]).result()


_LOOPS: list[asyncio.AbstractEventLoop] = []
_LOOP_LOCK = threading.Lock()


class _Courier:
    """A thread that makes the tables of submitted batches and hands them over."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Batch] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="grpo-courier", daemon=True)
        self._thread.start()

    def bring(self, future: Future[Any], batch: Batch) -> None:
        self._queue.put((future, batch))

    def close(self) -> None:
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            future, batch = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(batch.table())
            except Exception as error:
                future.set_exception(error)
