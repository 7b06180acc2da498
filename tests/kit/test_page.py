"""The page on testing lists the checks there are, in their own words."""

from pathlib import Path

from grpo_core.testing import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "testing-a-reward.md"


def test_the_table_is_what_the_code_says():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    wanted = [f"| `{check.name}` | {check.did} | {check.why} |" for check in CHECKS]
    missing = [row for row in wanted if row not in rows]
    assert not missing, "write into the table:\n" + "\n".join(wanted)


def test_there_is_no_row_for_a_check_that_is_gone():
    _, _, table = PAGE.read_text().partition("## What is checked")
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert named == [check.name for check in CHECKS]
