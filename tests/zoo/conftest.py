"""Real distributions, as wheels, in a virtual environment of their own."""

import base64
import hashlib
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest


def wheel(folder: Path, name: str, source: str, version: str = "1.0", requires: str = "") -> Path:
    """A wheel with one module `zoo_<name>` and an entry point `<name>` to it."""
    module, info = f"zoo_{name}", f"{name}-{version}.dist-info"
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: zoo\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[grpo_core]\n{name} = {module}\n",
    }

    def line(path: str, text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        return f"{path},sha256={digest.decode()},{len(text.encode())}\n"

    files[f"{info}/RECORD"] = "".join(line(*item) for item in files.items()) + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


class Environment:
    """A virtual environment that sees what this one has installed, and more."""

    def __init__(self, path: Path) -> None:
        venv.create(path, with_pip=False, symlinks=True)
        self.python = path / "bin" / "python"
        site = next(path.glob("lib/python*/site-packages"))
        root = Path(__file__).parents[2]
        (site / "outer.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{root}\n")

    def install(self, *wheels: Path) -> None:
        subprocess.run(
            [
                sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet",
                "--no-deps", "--no-index", "--disable-pip-version-check", *wheels,
            ],
            check=True, timeout=120,
        )  # fmt: skip

    def grpo(self, *arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), "-c", "from grpo_core.cli import main; main()", *map(str, arguments)],
            capture_output=True, text=True, timeout=120, **kwargs,
        )  # fmt: skip


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("zoo") / "environment")


@pytest.fixture(scope="session")
def build_wheel():
    return wheel
