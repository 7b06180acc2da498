"""The pytest plugin: prints the latency figures of every RewardContract below the results.

Loaded at every start of pytest where grpo-core is installed, so it imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    lines = [
        str(value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in getattr(report, "user_properties", ())
        if name == "grpo_latency"
    ]
    if lines:
        terminalreporter.section("rewards", sep="-")
        for line in lines:
            terminalreporter.line(line)
