"""Rewards that misbehave as the completion tells them to; not a test, loaded by name.

Each test names one as `unruly.py:Name`, the way a config does.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

from grpo_core import Outcome, Reward, Score


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def misbehave(text: str) -> None:
    what, _, argument = text.partition(" ")
    if what == "spin":
        while True:
            pass
    elif what == "sleep":
        time.sleep(float(argument or 1e6))
    elif what == "hold-the-lock":  # C code that never lets another thread run
        ctypes.PyDLL(None).sleep(1000)
    elif what == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        while True:
            time.sleep(1)
    elif what == "swallow":
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
    elif what == "segfault":
        ctypes.string_at(0)
    elif what == "exit":
        os._exit(int(argument or 3))
    elif what == "sys.exit":
        sys.exit(0)
    elif what == "abort":
        os.abort()
    elif what == "alarm":  # kills whoever is judged when it rings
        signal.alarm(1)
    elif what == "eat":
        kept = []
        while True:
            kept.append(bytearray(2**22))
    elif what == "raise":
        raise ValueError(argument)
    elif what == "raise-unprintable":
        raise Unprintable
    elif what == "interrupt":
        raise KeyboardInterrupt
    elif what == "cancel":
        raise asyncio.CancelledError
    elif what == "print":
        print("loud", flush=True)
        os.write(1, b"louder\n")
    elif what == "close":
        os.closerange(3, 256)
    elif what == "child":
        os.system("sleep 1000")
    elif what == "thread":
        threading.Thread(target=lambda: time.sleep(1000)).start()


class Length(Reward):
    """The number of characters, unless told otherwise."""

    class Options(Reward.Options):
        scale: float = 1.0

    def score(self, sample):
        misbehave(sample.completion_text)
        return len(sample.completion_text) * self.options.scale


class InlineLength(Length):
    isolation = "inline"


class AsyncLength(Reward):
    isolation = "async"

    async def score(self, sample):
        text = sample.completion_text
        if text.startswith("wait"):
            await asyncio.sleep(float(text.split()[1]))
        elif text.startswith("stubborn"):
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
        else:
            misbehave(text)
        return float(len(text))


class BulkLength(Reward):
    def score_batch(self, samples):
        for sample in samples:
            misbehave(sample.completion_text)
        return [float(len(sample.completion_text)) for sample in samples]


class Place(Reward):
    """Where in its group a completion's length stands; refuses groups that are not whole."""

    scope = "group"

    class Options(Reward.Options):
        size: int = 4

    def score_batch(self, samples):
        for sample in samples:
            misbehave(sample.completion_text)
        if len(samples) != self.options.size or len({s.group for s in samples}) != 1:
            raise ValueError(f"{len(samples)} samples")
        lengths = sorted(len(s.completion_text) for s in samples)
        return [float(lengths.index(len(s.completion_text))) for s in samples]


class Needs(Reward):
    requires = ("answer",)

    def score(self, sample):
        return float(sample.columns["answer"] == sample.completion_text)


class Pid(Reward):
    """Which process judged this, and how often that one was called before."""

    calls = 0
    deterministic = False

    def score(self, sample):
        Pid.calls += 1
        return Score(float(os.getpid()), details={"calls": Pid.calls})


class Modules(Reward):
    """1 where the worker has not loaded what only training needs, nor anybody's __main__."""

    def score(self, sample):
        unwanted = {"torch", "transformers", "sympy", "pytest"} & set(sys.modules)
        main = getattr(sys.modules["__main__"], "__file__", None)
        return Score(float(not unwanted and main is None), reason=f"{unwanted} {main}")


class Threads(Reward):
    def score(self, sample):
        return float(os.environ["OMP_NUM_THREADS"])


class Odd(Reward):
    """Returns what no reward may."""

    range = (0.0, 1.0)

    def score(self, sample):
        return {
            "nan": float("nan"),
            "inf": float("inf"),
            "text": "1.0",
            "beyond": 1.5,
            "nothing": None,
            "own timeout": Score(None, Outcome.timeout, "the compiler took too long"),
            "details": Score(0.5, details={"x": [1]}),
        }.get(sample.completion_text, 0.5)


class Unbuildable(Reward):
    def __init__(self, **options):
        super().__init__(**options)
        if "grpo_core.scoring.worker" in sys.modules:
            misbehave(os.environ.get("UNRULY_BUILD", "raise no licence"))

    def score(self, sample):
        return 1.0


def lengths(prompts, completions, **columns):
    return [float(len(completion)) for completion in completions]


async def async_lengths(prompts, completions, **columns):
    await asyncio.sleep(0.01)
    return [float(len(completion)) for completion in completions]


def broadcast(prompts, completions, **columns):
    """The old bug: one number for the whole batch."""
    return [1.0]


def forgetful(prompts, completions, **columns):
    """Leaves out what it does not like."""
    return [1.0 for completion in completions if completion]


def fragile(prompts, completions, **columns):
    for completion in completions:
        misbehave(completion)
    return [float(len(completion)) for completion in completions]


def forked(prompts, completions, **columns):
    """Leaves a child behind that holds everything this process had open, and dies."""
    for completion in completions:
        if completion == "fork and die":
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(1)
    return [float(len(completion)) for completion in completions]


class SlowImport(Reward):
    """Imports on first use what takes longer than its deadline."""

    def score(self, sample):
        import slow_to_import

        return float(slow_to_import.VALUE)


class WarmsUp(Reward):
    """Loads on first use what takes longer than its deadline, unless it has warmed up."""

    model = None

    def warm_up(self):
        time.sleep(0.5)
        WarmsUp.model = "loaded"

    def score(self, sample):
        if WarmsUp.model is None:
            self.warm_up()
        return 1.0
