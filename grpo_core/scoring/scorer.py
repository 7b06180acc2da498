"""Scorer: the public face of scoring.

Left out: what becomes of the samples (`batch`), who judges what when (`pool`),
how a verdict is made (`judge`).
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from grpo_core.rewards import Sample
from grpo_core.scoring import judge
from grpo_core.scoring.batch import Batch, Plant, Station
from grpo_core.scoring.inline import Inline
from grpo_core.scoring.pool import Pool
from grpo_core.scoring.recipe import recipe_of
from grpo_core.scoring.timing import Running, Timings
from grpo_core.scoring.watch import Watch
from grpo_core.scoring.work import Lane

if TYPE_CHECKING:
    from grpo_core.rubric import Rubric, Table
    from grpo_core.scoring.on_ray import RayPool


class Scorer:
    """Runs a rubric over samples, with warm workers, from any thread or event loop.

    `workers` samples are judged at a time (default: one a core), `spares` further
    processes wait to replace one that is killed, `memory_mb` is what each may use (0: no limit).
    With `executor="ray"` the workers are actors of a Ray cluster. Raises
    PluginError when a worker could not rebuild one of the rewards.

    >>> with Scorer(rubric, workers=2) as scorer:
    ...     table = scorer.score(samples)
    """

    def __init__(
        self,
        rubric: Rubric,
        workers: int | None = None,
        *,
        spares: int = 1,
        memory_mb: int = 2048,
        executor: Literal["local", "ray"] = "local",
    ) -> None:
        workers = _cores() if workers is None else workers
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.workers = workers
        self.rubric = rubric
        lanes: list[Lane] = []
        stations: list[Station] = []
        for term in rubric.terms:
            reward, call = term.reward, judge.call_of(term.reward)
            lane = None
            if reward.isolation != "inline":
                recipe = recipe_of(term.name, reward)
                lane = Lane(
                    len(lanes), term.name, call, term.deadline_s, recipe, reward.deterministic
                )
                lanes.append(lane)
            stations.append(Station(term, call, tuple(reward.requires), lane))
        # Workers first: they judge while the inline rewards run in the caller's thread.
        stations.sort(key=lambda station: station.lane is None)
        watch = Watch(self.running)
        pool: Pool | RayPool
        if executor == "ray":
            from grpo_core.scoring.on_ray import RayPool

            pool = RayPool(lanes, workers, spares, memory_mb)
        elif executor == "local":
            pool = Pool(lanes, workers, spares, memory_mb)
        else:
            raise ValueError(f"executor is 'local' or 'ray', not {executor!r}")
        self._plant = Plant(rubric, stations, pool, Inline(), watch)
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
        _not_while_building()
        if self._plant.pool.lanes:
            self._plant.pool.start()

    def close(self) -> None:
        """Kill the workers. What was still to be judged ends in `error`."""
        self._plant.pool.close()
        self._plant.watch.close()
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
            for station in self._plant.stations:
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
        future.add_done_callback(lambda f: batch.cancel() if f.cancelled() else None)
        # Not on the pool's thread: a callback of the caller's may take its time.
        batch.done.add_done_callback(lambda _: courier.bring(future, batch))
        return future

    def batch(self, step: int = 0) -> Batch:
        """A batch to add samples to as they come: scoring that overlaps with what
        produces them."""
        _not_while_building()
        return Batch(self._plant, step)

    # --- watching ----------------------------------------------------------------

    @property
    def last_timings(self) -> Timings | None:
        """Where the time of the last `score` or `score_async` went."""
        return self._last.timings() if self._last is not None else None

    def running(self) -> list[Running]:
        """What is being judged now: reward, sample, seconds; longest first."""
        running = self._plant.pool.running() + self._plant.inline.running()
        return sorted(running, key=lambda one: -one.seconds)


def score(samples: Sequence[Sample], rubric: Rubric, workers: int | None = None) -> Table:
    """Judge samples by a rubric, once: `table.scores`, `table.values`, `table.totals`.

    Starts workers and lets them go again; a `Scorer` keeps them.
    """
    scorer = Scorer(rubric, workers)
    try:
        return scorer.score(samples)
    finally:
        scorer.close()


def _cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
