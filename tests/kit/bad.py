"""Rewards that each break one rule, named by the check that must see it.

Everything else about them is right, so that no other check has to fail.
"""

import contextlib
import locale
import os
import random
import re
import signal
import socket
import sys
import time
import warnings

from pydantic import ConfigDict, field_validator

from grpo_core import Reward, Sample

GOLD = {"answer": "7"}
EXAMPLES = (
    (Sample("3 + 4?", "7", GOLD), 1.0),
    (Sample("3 + 4?", "8", GOLD), 0.0),
    (Sample("3 + 4?", "The answer is 7", GOLD), 0.0),
    (Sample("Capital of France?", "Paris", {"answer": "Paris"}), 1.0),
    (Sample("3 + 4?", "7", {"answer": None}), None),
)


def verdict(sample):
    """1.0 when the completion is the gold, None where there is no gold."""
    gold = sample.columns.get("answer")
    if not isinstance(gold, str) or not gold.strip():
        return None
    return float(sample.completion_text == gold)


class Good(Reward):
    """Breaks no rule; the others change one thing about it."""

    range = (0.0, 1.0)
    requires = ("answer",)
    examples = EXAMPLES

    def score(self, sample):
        return verdict(sample)


class GoodInBulk(Good):
    def score_batch(self, samples):
        return [verdict(sample) for sample in samples]


class GoodInline(Good):
    isolation = "inline"


class GoodAsync(Good):
    isolation = "async"

    async def score(self, sample):
        return verdict(sample)


class GoodRandom(Good):
    """Not deterministic, and says so."""

    deterministic = False
    examples = ()

    def score(self, sample):
        gold = verdict(sample)
        return None if gold is None else min(1.0, gold + random.SystemRandom().random())


class GoodGroup(Reward):
    """The shortest correct answer of its group."""

    range = (0.0, 1.0)
    requires = ("answer",)
    scope = "group"

    def score_batch(self, samples):
        right = [s for s in samples if s.completion_text.strip().endswith("7")]
        shortest = min((len(s.completion_text) for s in right), default=None)
        return [float(s in right and len(s.completion_text) == shortest) for s in samples]


def good_function(prompts, completions, answer, **columns):
    """As TRL's users write them."""
    return [
        None if not isinstance(gold, str) or not gold.strip() else float(text == gold)
        for text, gold in zip(completions, answer, strict=True)
    ]


# --- one rule each -------------------------------------------------------------------


class rebuildable_changes_its_options(Good):
    class Options(Reward.Options):
        limit: int = 1

        @field_validator("limit")
        @classmethod
        def _double(cls, limit):
            return 2 * limit

    options_to_test = (("limit", 5),)


class rebuildable_takes_any_option(Good):
    class Options(Reward.Options):
        model_config = ConfigDict(extra="allow")


class examples_are_not_what_it_says(Good):
    examples = ((Sample("3 + 4?", "8", GOLD), 1.0),)


class examples_make_it_raise(Good):
    def score(self, sample):
        if sample.completion_text.startswith("The"):
            raise RuntimeError("cannot read articles")
        return verdict(sample)


class count_one_too_few(GoodInBulk):
    def score_batch(self, samples):
        scores = [verdict(sample) for sample in samples]
        return scores[:-1] or scores


class count_one_for_all(GoodInBulk):
    def score_batch(self, samples):
        return [verdict(samples[0])]


class order_sorted(GoodInBulk):
    def score_batch(self, samples):
        return sorted(map(verdict, samples), key=lambda value: -1.0 if value is None else value)


class order_first_of_the_group(GoodGroup):
    def score_batch(self, samples):
        return [float(i == 0) for i, _ in enumerate(samples)]


class independent_of_nothing(GoodInBulk):
    """Relative to the best of its batch, as a normalisation in the wrong place does."""

    def score_batch(self, samples):
        lengths = [len(sample.completion_text) for sample in samples]
        return [
            None if verdict(s) is None else n / max(*lengths, 1) * verdict(s)
            for s, n in zip(samples, lengths, strict=True)
        ]


class independent_but_for_the_first(Good):
    examples = ()

    def score(self, sample):
        gold = verdict(sample)
        return None if gold is None else float(gold or sample.index > 3)


class deterministic_but_for_dice(Good):
    examples = ()

    def score(self, sample):
        gold = verdict(sample)
        return None if gold is None else gold * random.SystemRandom().random()


class deterministic_but_for_hashes(Good):
    examples = ()

    def score(self, sample):
        gold = verdict(sample)
        return None if gold is None else hash(sample.prompt_text) % 1000 / 1000


class stateless_but_for_a_counter(Good):
    calls = 0

    def score(self, sample):
        self.calls += 1
        value = verdict(sample)
        return value if value is None or self.calls <= 6 else 0.0


SEEN = set()


class stateless_but_for_what_it_saw(Good):
    def score(self, sample):
        known = sample.completion_text in SEEN
        SEEN.add(sample.completion_text)
        return 0.0 if known and verdict(sample) else verdict(sample)


class in_range_but_for_long_ones(Good):
    def score(self, sample):
        gold = verdict(sample)
        return 1.5 if gold == 0.0 and len(sample.completion_text) > 1000 else gold


class in_range_but_for_nan(Good):
    def score(self, sample):
        return float("nan") if "\x00" in sample.completion_text else verdict(sample)


class columns_undeclared(Good):
    examples = tuple(
        (Sample(s.prompt, s.completion, {**s.columns, "level": 1}), v) for s, v in EXAMPLES
    )

    def score(self, sample):
        return verdict(sample) if sample.columns["level"] else None


class abstains_never(Good):
    examples = EXAMPLES[:4]

    def score(self, sample):
        return float(sample.completion_text == sample.columns["answer"])


class abstains_but_for_blanks(Good):
    def score(self, sample):
        gold = sample.columns["answer"]
        return verdict(sample) if gold != " \n" else 0.0


class perfect_is_not_enough(Good):
    """Compares in lower case, but only one side."""

    examples = (*EXAMPLES[:3], (Sample("Capital of France?", "Paris", {"answer": "Paris"}), 0.0))

    def score(self, sample):
        gold = verdict(sample)
        return (
            None
            if gold is None
            else float(sample.completion_text.lower() == sample.columns["answer"])
        )


class chat_is_foreign(Good):
    def score(self, sample):
        return verdict(sample) if isinstance(sample.completion, str) else 0.0


class leaves_samples_changed(Good):
    def score(self, sample):
        value = verdict(sample)
        sample.columns["judged"] = True
        return value


class robust_but_for_surrogates(Good):
    def score(self, sample):
        sample.completion_text.encode()
        return verdict(sample)


class robust_but_it_exits(Good):
    def score(self, sample):
        if sample.completion_text.startswith("\\boxed{}"):
            os._exit(3)
        return verdict(sample)


class bounded_time_but_for_a_pattern(Good):
    deadline_s = 0.5

    def score(self, sample):
        re.match(r"(a+)+$", sample.completion_text)
        return verdict(sample)


class bounded_time_but_it_waits(Good):
    isolation = "inline"

    def score(self, sample):
        if "\u202e" in sample.completion_text:
            time.sleep(1.2)
        return verdict(sample)


class bounded_memory_but_for_long_ones(Good):
    def score(self, sample):
        if len(sample.completion_text) == 10**6:
            assert sample.completion_text.encode() * 600
        return verdict(sample)


class no_execution_but_eval(Good):
    def score(self, sample):
        text = sample.answer_text
        if "**" not in text and len(text) < 200:
            with contextlib.suppress(Exception):
                eval(text)
        return verdict(sample)


class no_network_but_a_look_up(Good):
    def score(self, sample):
        with contextlib.suppress(OSError):
            socket.getaddrinfo("judge.invalid", 443)
        return verdict(sample)


class no_network_but_a_connection(Good):
    def score(self, sample):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()
        return verdict(sample)


class no_writes_but_a_log(Good):
    def score(self, sample):
        with contextlib.suppress(OSError), open(os.path.expanduser("~/rewards.log"), "a") as log:
            log.write("judged\n")
        return verdict(sample)


class no_writes_but_a_folder(Good):
    def score(self, sample):
        with contextlib.suppress(OSError):
            os.mkdir(os.path.expanduser("~/rewards-of-mine"))
        return verdict(sample)


class no_traces_but_the_folder(Good):
    def score(self, sample):
        os.chdir("/")
        return verdict(sample)


class no_traces_but_the_environment(Good):
    def score(self, sample):
        os.environ["MY_REWARD"] = "was here"
        return verdict(sample)


class no_traces_but_a_handler(Good):
    def score(self, sample):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        return verdict(sample)


class no_traces_but_an_alarm(Good):
    def score(self, sample):
        signal.alarm(1000)
        return verdict(sample)


class no_traces_but_the_locale(Good):
    def score(self, sample):
        locale.setlocale(
            locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C"
        )
        return verdict(sample)


class no_traces_but_a_seed(Good):
    def score(self, sample):
        random.seed(0)
        return verdict(sample)


class no_traces_but_a_filter(Good):
    def score(self, sample):
        warnings.simplefilter("ignore", category=BytesWarning)
        return verdict(sample)


class no_traces_but_a_limit(Good):
    def score(self, sample):
        sys.setrecursionlimit(12_345)
        return verdict(sample)


class no_traces_but_a_timeout(Good):
    def score(self, sample):
        socket.setdefaulttimeout(3)
        return verdict(sample)


class no_traces_but_a_stream(Good):
    def score(self, sample):
        sys.stdout = sys.stderr
        return verdict(sample)


class any_thread_but_for_its_alarm(Good):
    """A timeout by alarm, cleaned up as it should be."""

    isolation = "inline"

    def score(self, sample):
        before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            return verdict(sample)
        finally:
            signal.signal(signal.SIGALRM, before)


BAD = [name for name, thing in vars().items() if isinstance(thing, type) and name.islower()]


def checks(name):
    """Which check a bad reward's name begins with."""
    from grpo_core.testing import CHECKS

    return next(check for check in CHECKS if name.startswith(check.name))
