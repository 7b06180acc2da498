"""The README's snippet prints what it says it prints."""

import contextlib
import io
import re
from importlib.metadata import metadata
from pathlib import Path


def test_the_readme_tells_the_truth():
    path = Path(__file__).parent.parent / "README.md"
    # beside the tests in a checkout, else in what the wheel says of itself
    readme = (
        path.read_text(encoding="utf-8")
        if path.is_file()
        else metadata("grpo-reward-format")["Description"]
    )
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    said = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# ")]
    assert printed.getvalue().splitlines() == said
