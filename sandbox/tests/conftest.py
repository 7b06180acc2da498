"""Sandboxes for the tests: one a tier, shared, because starting one is what takes time."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from grpo_sandbox import Limits, Sandbox, SandboxUnavailable

LIMITS = Limits(wall_s=5.0)


def made(tier: int) -> Sandbox:
    try:
        return Sandbox(LIMITS, tier=tier)
    except SandboxUnavailable as error:
        pytest.skip(f"this machine has no tier {tier}: {error}")


@pytest.fixture(scope="session", params=[1, 2], ids=["tier1", "tier2"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with made(request.param) as sandbox:
        yield sandbox


@pytest.fixture(scope="session", autouse=True)
def own_scratches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder of our own, which other processes' sandboxes do not come and go in."""
    tmp_path_factory.getbasetemp()  # pytest's own folder, which is not to lie in ours
    folder = tempfile.mkdtemp(prefix="sandbox-tests-", dir="/tmp")
    os.chmod(folder, 0o1777)
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    yield
    tempfile.tempdir = None
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; not among the default tests")
