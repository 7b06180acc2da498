"""RewardContract, as an author's own test run sees it."""

import os
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def run_tests(tmp_path):
    """Run pytest on a test file in a folder of its own: `run_tests(source, "-k", …)`."""

    def run(source, *arguments):
        path = tmp_path / "test_it.py"
        path.write_text("from grpo_core.testing import RewardContract\n" + textwrap.dedent(source))
        command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider"]
        command += ["-p", "grpo_core.testing.pytest_plugin", *arguments]
        return subprocess.run(
            [*command, "--rootdir", str(tmp_path), str(path)],
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
        )  # fmt: skip

    return run


GOOD = """
    from grpo_core import Reward, Sample

    class Brevity(Reward):
        class Options(Reward.Options):
            limit: int = 10
        range = (0.0, 1.0)

        def score(self, sample):
            return max(0.0, 1 - len(sample.completion_text) / self.options.limit)

    class TestBrevity(RewardContract):
        reward = Brevity
        options = {"limit": 20}
        examples = [(Sample("p", "12345"), 0.75), (Sample("p", ""), 1.0)]
"""


def test_a_reward_that_keeps_it_passes_and_its_figures_stand_below(run_tests):
    done = run_tests(GOOD)
    assert done.returncode == 0, done.stdout
    assert "Brevity: latency: first score " in done.stdout
    assert "failed" not in done.stdout


def test_a_failure_says_what_was_done_seen_and_why_it_matters(run_tests):
    done = run_tests(GOOD.replace("0.75", "0.5"), "-k", "examples")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "Brevity breaks 'examples'" in done.stdout
    for word in ("did   judged", "saw   '12345': 0.75, stated is 0.5", "why   a verdict"):
        assert any(line.strip().startswith(word) for line in lines), done.stdout
    assert "Traceback" not in done.stdout and "contract.py" not in done.stdout


def test_a_check_is_waived_by_name_and_with_a_reason(run_tests):
    source = GOOD.replace("0.75", "0.5") + '        waive = {"examples": "we think otherwise"}\n'
    done = run_tests(source, "-k", "examples")
    assert done.returncode == 0
    assert "examples: we think otherwise" in done.stdout


def test_waiving_a_check_that_is_not_there_is_an_error(run_tests):
    done = run_tests(GOOD + '        waive = {"exmples": "?"}\n', "-k", "examples")
    assert done.returncode == 1
    assert "waive names no check: exmples (checks: rebuildable," in done.stdout


def test_what_is_waived_is_not_refused_either(run_tests, tmp_path):
    outside = tmp_path.parent.parent / "a-cache-of-mine"
    source = f"""
    from pathlib import Path
    from grpo_core import Reward, Sample

    class Caching(Reward):
        def score(self, sample):
            Path({str(outside)!r}).write_text("cached")
            return 1.0

    class TestCaching(RewardContract):
        reward = Caching
        examples = [(Sample("p", "c"), 1.0)]
        waive = {{"no_writes": "keeps a cache"}}
    """
    done = run_tests(source, "-k", "examples")
    assert done.returncode == 0, done.stdout
    outside.unlink(missing_ok=True)


def test_perfect_may_be_a_method_of_the_test(run_tests):
    source = GOOD + '        def perfect(self, sample):\n            return "long" * 0\n'
    assert run_tests(source, "-k", "perfect").returncode == 0
    done = run_tests(source.replace("* 0", "* 9"), "-k", "perfect")
    assert "the maximum is 1" in done.stdout and done.returncode == 1


@pytest.mark.slow
def test_a_hanging_reward_fails_its_checks_instead_of_hanging_them(run_tests):
    source = """
    import time
    from grpo_core import Reward, Sample

    class Hanging(Reward):
        deadline_s = 0.3
        def score(self, sample):
            time.sleep(1000)

    class TestHanging(RewardContract):
        reward = Hanging
        examples = [(Sample("p", "c"), 1.0)]
    """
    done = run_tests(source, "-k", "examples or bounded_time")
    assert done.returncode == 1
    assert "no verdict within 0.3 s" in done.stdout
    assert "2 failed" in done.stdout


def test_a_reward_that_cannot_be_rebuilt_fails_once_and_the_rest_is_skipped(run_tests):
    source = """
    import os
    from grpo_core import Reward, Sample

    if os.environ.get("HERE") is None:
        os.environ["HERE"] = str(os.getpid())
    elif os.environ["HERE"] != str(os.getpid()):
        raise RuntimeError("only once")

    class Once(Reward):
        def score(self, sample):
            return 1.0

    class TestOnce(RewardContract):
        reward = Once
        examples = [(Sample("p", "c"), 1.0)]
    """
    done = run_tests(source)
    assert "Once breaks 'rebuildable'" in done.stdout and "only once" in done.stdout
    assert "it cannot be rebuilt; see rebuildable" in done.stdout
    assert "1 failed" in done.stdout


def test_the_pytest_plugin_costs_other_test_runs_nothing():
    code = (
        "import sys, grpo_core.testing.pytest_plugin;"
        "print([m for m in sys.modules if m.startswith(('grpo_core.', 'pydantic'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['grpo_core.testing', 'grpo_core.testing.pytest_plugin']"
