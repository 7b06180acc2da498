"""What scoring costs, and what it survives: the figures in docs/scoring.md.

    python benchmarks/scoring.py                      # all but the long ones
    python benchmarks/scoring.py hang overhead        # some
    python benchmarks/scoring.py rows --rows 1000000  # grpo score, its memory, its resume
    python benchmarks/scoring.py soak --rows 10000000
    python benchmarks/scoring.py ray --data DIR       # with gsm8k_model_solutions.jsonl

Peers, where installed: concurrent.futures, and pebble (pip install pebble), the
pool that also kills what overruns. Rows need grpo-reward-format.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from grpo_core import Reward, Rubric, Sample, Scorer
from grpo_core.scoring.pool import Pool

HERE = Path(__file__).resolve()


# --- rewards, which workers import from this file --------------------------------


def length(text: str) -> float:
    return float(len(text))


class Trivial(Reward):
    def score(self, sample: Sample) -> float:
        return length(sample.completion_text)


class TrivialInline(Trivial):
    isolation = "inline"


class Hanging(Reward):
    """Hangs, dies or raises where the completion says so."""

    def score(self, sample: Sample) -> float:
        act(sample.completion_text)
        return length(sample.completion_text)


class Waits(Reward):
    def score(self, sample: Sample) -> float:
        time.sleep(0.05)
        return 1.0


class Computes(Reward):
    def score(self, sample: Sample) -> float:
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass
        return 1.0


class Numeric(Reward):
    def score(self, sample: Sample) -> float:
        import numpy

        matrix = numpy.ones((256, 256), numpy.float32)
        return float((matrix @ matrix)[0, 0])


def act(text: str) -> float:
    if text.startswith("spin"):
        while True:
            pass
    if text.startswith("sleep"):
        time.sleep(1e6)
    if text.startswith("c-loop"):
        ctypes.PyDLL(None).sleep(100_000)
    if text.startswith("deaf"):
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        while True:
            time.sleep(1)
    if text.startswith("segfault"):
        ctypes.string_at(0)
    if text.startswith("exit"):
        os._exit(1)
    if text.startswith("eat"):
        kept = []
        while True:
            kept.append(bytearray(2**24))
    if text.startswith("raise"):
        raise ValueError("asked for")
    return length(text)


def rubric(name: str, deadline_s: float = 5.0) -> Rubric:
    return Rubric.from_config({"rewards": [{"use": f"{HERE}:{name}", "deadline_s": deadline_s}]})


def samples(count: int, completions: Callable[[int], str] = "completion {}".format) -> list[Sample]:
    return [
        Sample("the prompt", completions(i), {"row": i}, group=i // 8, index=i % 8)
        for i in range(count)
    ]


# --- 1 and 2: hangs and deaths ------------------------------------------------------


def hang(workers: int, deadline_s: float) -> None:
    """1,000 samples, 10 of which hang for ever."""
    kinds = ["spin", "sleep", "c-loop", "deaf"]
    hangs = {i * 100 + 7: f"{kinds[n % 4]} {i}" for n, i in enumerate(range(10))}
    chosen = samples(1000, lambda i: hangs.get(i, f"completion {i}"))
    bound = deadline_s * -(-10 // workers)
    print(f"hang: 1,000 samples, 10 hang; deadline {deadline_s:g} s, {workers} workers")

    def check(name: str, took: float, table: object) -> None:
        scores = table.scores["Hanging"]  # type: ignore[attr-defined]
        right = all(
            one.outcome == "timeout" if i in hangs else one.value == len(chosen[i].completion)
            for i, one in enumerate(scores)
        )
        verdict = "all right" if right else "WRONG"
        print(f"  {name:12} {took:6.2f} s = {took / bound:.3f} of the bound {bound:g} s, {verdict}")

    with Scorer(rubric("Hanging", deadline_s), workers=workers) as scorer:
        warm(scorer)
        started = time.perf_counter()
        table = scorer.score(chosen)
        check("main thread", time.perf_counter() - started, table)
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(scorer.score(chosen)))
        started = time.perf_counter()
        thread.start()
        thread.join()
        check("thread", time.perf_counter() - started, found[0])
        started = time.perf_counter()
        table = asyncio.run(scorer.score_async(chosen))
        check("event loop", time.perf_counter() - started, table)
    print(f"  processes left behind: {len(children())}")
    with contextlib.suppress(ImportError):
        took = pebble_hang([sample.completion_text for sample in chosen], workers, deadline_s)
        print(f"  pebble       {took:6.2f} s = {took / bound:.3f} (a future a sample)")


def pebble_hang(texts: list[str], workers: int, deadline_s: float) -> float:
    from pebble import ProcessPool

    with ProcessPool(max_workers=workers) as pool:
        pool.schedule(act, args=("warm",)).result()
        started = time.perf_counter()
        for future in [pool.schedule(act, args=(text,), timeout=deadline_s) for text in texts]:
            with contextlib.suppress(TimeoutError):
                future.result()
        return time.perf_counter() - started


def deaths(workers: int) -> None:
    """10 of 1,000 samples kill their worker, eat memory or raise."""
    print("deaths: 1,000 samples, 10 of a kind")
    with Scorer(rubric("Hanging", 30), workers=workers, memory_mb=512) as scorer:
        for kind in ("segfault", "exit", "eat", "raise"):
            warm(scorer)
            bad = set(range(50, 1000, 100))
            texts = [f"{kind} {i}" if i in bad else f"fine {i}" for i in range(1000)]
            chosen = samples(1000, texts.__getitem__)
            started = time.perf_counter()
            scores = scorer.score(chosen).scores["Hanging"]
            took = time.perf_counter() - started
            counts = Counter(one.outcome.value for one in scores)
            right = {i for i, one in enumerate(scores) if one.outcome == "error"} == bad
            print(f"  {kind:9} {took:6.2f} s  {dict(counts)} {'exact' if right else 'WRONG'}")


# --- 3: overhead -----------------------------------------------------------------------


def overhead(workers: int) -> None:
    """Batch 1,024, trivial reward, against calling the function directly."""
    count = 1024
    texts = [sample.completion_text for sample in samples(count)]
    reward = TrivialInline()

    def fastest(call: Callable[[list[Sample]], object], times: int = 30) -> float:
        """µs a sample, in the fastest of several rounds: what the work takes when
        nothing else on the machine does."""
        took = []
        for _ in range(times):
            fresh = samples(count)
            started = time.perf_counter()
            call(fresh)
            took.append(time.perf_counter() - started)
        return 1e6 * min(took) / count

    direct = fastest(lambda fresh: [reward.score(sample) for sample in fresh])
    print(f"overhead: µs a sample above the direct call ({direct:.2f} µs)")

    def report(name: str, took: float) -> float:
        print(f"  {name:34} {took - direct:8.1f}")
        return took - direct

    for name, cls in (("inline", "TrivialInline"), ("process", "Trivial")):
        with Scorer(rubric(cls), workers=workers) as scorer:
            warm(scorer)
            ours = report(name, fastest(scorer.score))
    with ProcessPoolExecutor(workers) as executor:
        list(executor.map(length, texts))
        report(
            "concurrent.futures, chunks of 64",
            fastest(lambda _: list(executor.map(length, texts, chunksize=64))),
        )
        peer = report(
            "concurrent.futures, one by one",
            fastest(lambda _: list(executor.map(length, texts)), 10),
        )
        print(f"  process / concurrent.futures one by one: {ours / peer:.3f}")
    with contextlib.suppress(ImportError):
        from pebble import ProcessPool

        with ProcessPool(max_workers=workers) as pool:
            pool.schedule(length, args=("warm",)).result()

            def one_by_one(_: object) -> None:
                for future in [pool.schedule(length, args=(text,), timeout=5) for text in texts]:
                    future.result()

            peer = report("pebble, a deadline a sample", fastest(one_by_one, 10))
            print(f"  process / pebble: {ours / peer:.3f}")


# --- 4: overlap ------------------------------------------------------------------------


def overlap(wait_workers: int, compute_workers: int) -> None:
    """256 samples; generation that takes as long as scoring, and finishes them throughout."""
    print("overlap: 256 samples judged while they are made")
    for name, workers in (("Waits", wait_workers), ("Computes", compute_workers)):
        with Scorer(rubric(name), workers=workers) as scorer:
            warm(scorer, n=workers)
            chosen = samples(256)
            started = time.perf_counter()
            scorer.score(chosen)
            alone = time.perf_counter() - started
            batch = scorer.batch()
            started = time.perf_counter()
            for n, sample in enumerate(samples(256, "later {}".format)):
                time.sleep(max(0.0, started + alone * (n + 1) / 256 - time.perf_counter()))
                batch.add(sample)
            made = time.perf_counter()
            batch.result()
            shown = time.perf_counter() - made
            print(
                f"  {name:9} {workers} workers: scoring alone {alone:.2f} s, after generation "
                f"{shown:.3f} s: {1 - shown / alone:.1%} hidden"
            )


# --- threads -----------------------------------------------------------------------------


def threads(workers: int) -> None:
    """The model's arithmetic beside workers whose rewards use numeric libraries too."""
    import torch

    from grpo_core.scoring import process

    print(f"threads: torch with {torch.get_num_threads()} threads beside {workers} workers")
    counts: tuple[str, ...] = process._THREAD_COUNTS
    matrix = torch.rand(512, 512)

    def steps(seconds: float) -> float:
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            matrix @ matrix
            done += 1
        return done / seconds

    steps(0.5)
    print(f"  {'alone':28} {steps(4):8.0f} products a second")
    for name, limited in (("one thread a worker (ours)", counts), ("as many as cores", ())):
        process._THREAD_COUNTS = limited
        with Scorer(rubric("Numeric", 60), workers=workers) as scorer:
            warm(scorer)
            batch = scorer.batch()
            chosen = samples(100_000, "numeric {}".format)
            batch.add(chosen)
            before = batch.pending
            speed = steps(4)
            judged = (before - batch.pending) / 4
            batch.cancel()
        print(f"  {name:28} {speed:8.0f} products a second, {judged:6.0f} samples a second")
    process._THREAD_COUNTS = counts


# --- 5: grpo score -----------------------------------------------------------------------


def rows(count: int, workers: int, reward: str) -> None:
    """`grpo score` on a file of `count` rows: speed, memory, and resuming after kill -9."""
    grpo = [sys.executable, "-c", "from grpo_core.cli import main; main()", "score"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.jsonl")
        with source.open("w") as file:
            for i in range(count):
                text = f"<think>{i} apples and {i % 7} pears make {i + i % 7}</think>"
                answer = f"<answer>\\boxed{{{i + i % 7}}}</answer>"
                row = {"prompt": f"How many are {i} and {i % 7}?", "answer": str(i), "id": i}
                file.write(json.dumps({**row, "completion": text + answer * (i % 5 > 0)}) + "\n")
        command = [*grpo, str(source), "--reward", reward, "--workers", str(workers), "--out"]
        whole, torn = Path(folder, "whole.jsonl"), Path(folder, "torn.jsonl")
        started = time.perf_counter()
        process = subprocess.Popen([*command, str(whole)], stderr=subprocess.DEVNULL)
        memory: list[int] = []
        while process.poll() is None:
            memory.append(resident(process.pid))
            time.sleep(0.2)
        took = time.perf_counter() - started
        early = max(memory[: max(1, len(memory) // 4)])
        print(
            f"rows: {count:,} rows by {reward}, {workers} workers: {count / took:,.0f} rows a second"
        )
        print(
            f"  resident, whole tree: {early / 2**20:.0f} MB in the first quarter, {max(memory) / 2**20:.0f} MB at most"
        )
        process = subprocess.Popen([*command, str(torn)], stderr=subprocess.DEVNULL)
        while not torn.exists() or torn.stat().st_size < whole.stat().st_size * 0.4:
            time.sleep(0.02)
        process.kill()
        process.wait()
        kept = torn.stat().st_size / whole.stat().st_size
        subprocess.run([*command, str(torn), "--resume"], stderr=subprocess.DEVNULL, check=True)
        same = whole.read_bytes() == torn.read_bytes()
        print(
            f"  killed at {kept:.0%} of the output, resumed: {'the same file' if same else 'ANOTHER FILE'}"
        )


# --- 6: soak ------------------------------------------------------------------------------


def soak(count: int, workers: int) -> None:
    """Trivial scores, many: memory, file descriptors, processes."""
    print(f"soak: {count:,} trivial scores, {workers} workers, one hangs in a hundred thousand")
    with Scorer(rubric("Hanging", 0.2), workers=workers) as scorer:
        warm(scorer)
        done, started = 0, time.perf_counter()
        for part in range(10):
            while done < count * (part + 1) // 10:
                texts = ["spin" if i % 100_000 == 7 else str(i) for i in range(done, done + 1000)]
                scorer.score(samples(1000, texts.__getitem__))
                done += 1000
            fds = len(os.listdir("/proc/self/fd"))
            print(
                f"  {done:>12,}  {time.perf_counter() - started:7.0f} s  this process "
                f"{resident(os.getpid(), tree=False) / 2**20:.1f} MB, workers "
                f"{sum(resident(pid, tree=False) for pid in children()) / 2**20:.1f} MB, "
                f"{fds} descriptors, {len(children())} processes, {threading.active_count()} threads"
            )


# --- 8: Ray ---------------------------------------------------------------------------------


def on_ray(workers: int, data: Path) -> None:
    """Real solutions on a local cluster of several nodes, one killed on the way, against here."""
    ray = importlib.import_module("ray")
    cluster_utils = importlib.import_module("ray.cluster_utils")

    chosen: list[Sample] = []
    for line in (data / "gsm8k_model_solutions.jsonl").read_text().splitlines():
        row = json.loads(line)
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        for solution in (value["solution"] for value in row.values() if isinstance(value, dict)):
            text, _, answer = solution.rpartition("A:")
            completion = f"{text}\\boxed{{{answer.strip()}}}"
            chosen.append(Sample(row["question"], completion, {"answer": gold, "n": len(chosen)}))
    math = Rubric.from_config({"rewards": [{"use": "math"}]})
    with Scorer(math, workers=workers) as scorer:
        started = time.perf_counter()
        here = scorer.score(chosen).scores["math"]
        alone = time.perf_counter() - started
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=workers)
    doomed = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with Scorer(math, workers=workers + 1, executor="ray") as scorer:
            batch = scorer.batch()
            batch.add(chosen)
            while batch.pending > len(chosen) * 2 // 3:
                time.sleep(0.001)
            cluster.remove_node(doomed, allow_graceful=False)
            left = batch.pending
            started = time.perf_counter()
            batch.result()
            after = time.perf_counter() - started
            there = batch.scores()["math"]
    finally:
        ray.shutdown()
        cluster.shutdown()
    same = sum(
        a.value == b.value and a.outcome == b.outcome for a, b in zip(here, there, strict=True)
    )
    print(f"ray {ray.__version__}: {len(chosen):,} solutions judged by math, local {alone:.1f} s")
    print(
        f"  a node killed with {left:,} to come, the rest took {after:.1f} s: {same:,} the same verdicts"
    )


# --- helpers ------------------------------------------------------------------------------


def warm(scorer: Scorer, n: int = 2) -> None:
    """Let all workers and spares start."""
    scorer.score(samples(4 * n, "warm {}".format))
    pool = scorer._plant.pool
    assert isinstance(pool, Pool)
    while any(worker.to_build for worker in list(pool._workers)):
        time.sleep(0.05)
    time.sleep(0.3)


def children(parent: int | None = None) -> list[int]:
    return [pid for pid, its in _parents() if its == (parent or os.getpid())]


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                yield int(stat.parent.name), int(fields[1])


def resident(pid: int, tree: bool = True) -> int:
    """Bytes of memory that only this process (and its children) holds."""
    total = 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()
        total = (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")
    return total + (sum(resident(child) for child in children(pid)) if tree else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["hang", "deaths", "overhead", "overlap", "threads", "rows", "soak", "ray"]
    parser.add_argument("which", nargs="*", metavar="WHICH", help=", ".join(names))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--deadline", type=float, default=1.0)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--reward", default="format", help="what judges rows")
    parser.add_argument("--data", type=Path, help="the folder with gsm8k_model_solutions.jsonl")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load {load:.1f} before we began"
    )
    for name in arguments.which or names[:4]:
        if name == "hang":
            hang(arguments.workers, arguments.deadline)
        elif name == "deaths":
            deaths(arguments.workers)
        elif name == "overhead":
            overhead(arguments.workers)
        elif name == "overlap":
            overlap(8, arguments.workers)
        elif name == "threads":
            threads(arguments.workers)
        elif name == "rows":
            rows(arguments.rows, arguments.workers, arguments.reward)
        elif name == "ray" and arguments.data is not None:
            on_ray(arguments.workers, arguments.data)
        elif name == "soak":
            soak(arguments.rows, arguments.workers)
        else:
            parser.error(f"{name!r} is none of {', '.join(names)}, or needs --data")


if __name__ == "__main__":
    main()
