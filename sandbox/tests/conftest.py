"""Sandboxes for the tests: one a tier, shared, because starting one is what takes time."""

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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; not among the default tests")
