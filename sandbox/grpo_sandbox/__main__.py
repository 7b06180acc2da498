"""`python -m grpo_sandbox doctor`: what isolates here, and how fast."""

from __future__ import annotations

import sys

from grpo_sandbox import doctor


def main() -> int:
    if sys.argv[1:] not in (["doctor"], ["doctor", "--json"]):
        print("usage: python -m grpo_sandbox doctor [--json]", file=sys.stderr)
        return 2
    report = doctor.examine()
    print(report.as_json() if "--json" in sys.argv else report.as_text())
    return 0 if report.tier else 1


if __name__ == "__main__":
    sys.exit(main())
