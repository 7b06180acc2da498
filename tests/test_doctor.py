"""`grpo doctor` says what is there, what is broken, and exits accordingly."""

import os
import subprocess
import sys

import pytest

from grpo_core.plugins import PATHS


def doctor(**environment):
    return subprocess.run(
        [sys.executable, "-c", "from grpo_core.cli import main; main()", "doctor"],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_sound_machine():
    pytest.importorskip("grpo_sandbox")
    done = doctor()
    assert done.returncode == 0, done.stdout
    assert "tier " in done.stdout and "math" in done.stdout


def test_a_broken_plugin_is_named_with_its_reason(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module\n")
    done = doctor(**{PATHS: str(tmp_path / "bad.py")})
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stdout
