"""Six wheels: each installs from them into an empty environment and passes its tests there."""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "grpo-core": ROOT,
    "grpo-sandbox": ROOT / "sandbox",
    "grpo-reward-math": ROOT / "plugins" / "math",
    "grpo-reward-format": ROOT / "plugins" / "format",
    "grpo-reward-language": ROOT / "plugins" / "language",
    "grpo-reward-code": ROOT / "plugins" / "code",
}
TOOLS = ["pytest", "hypothesis", "pytest-asyncio"]

pytestmark = pytest.mark.slow


def run(*command, **kwargs):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=1800, **kwargs
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Built from copies, so that no build folder of a checkout gets in."""
    dist = tmp_path_factory.mktemp("dist")
    for name, source in SOURCES.items():
        copy = tmp_path_factory.mktemp("source") / name
        tracked = run("git", "ls-files", "-z", ".", cwd=source).split("\0")[:-1]
        for file in tracked:
            if (source / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, copy / file)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", dist, copy)
    assert len(list(dist.glob("*.whl"))) == 6
    return dist


@pytest.mark.parametrize("name", SOURCES)
def test_it_installs_alone_and_passes_its_tests(name, wheels, tmp_path, request):
    # not in tmp_path, which is root's alone: the sandbox's tests also run as a plain user
    environment = Path(tempfile.mkdtemp(prefix="wheels-", dir="/tmp"))
    environment.chmod(0o755)
    request.addfinalizer(lambda: shutil.rmtree(environment))
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(
        python, "-m", "pip", "install", "--quiet", "--find-links", wheels,
        "--constraint", ROOT / "constraints.txt", name, *TOOLS,
    )  # fmt: skip
    tests = environment / "alone" / "tests"
    shutil.copytree(SOURCES[name] / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--import-mode=importlib", "-o", "asyncio_mode=auto", "-m", "not slow"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    # Of the core, what its base install can do: no torch, no plugins, no repository beside it.
    chosen = [
        "tests/test_rewards.py",
        "tests/test_rubric.py",
        "tests/test_plugins.py",
        "tests/scoring",
    ]
    run(
        python, "-m", "pytest", "-q", *options, *(chosen if name == "grpo-core" else ["tests"]),
        cwd=tests.parent, env=clean,
    )  # fmt: skip
