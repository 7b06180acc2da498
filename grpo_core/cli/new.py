"""`grpo new reward NAME`: a complete distribution with one reward, ready to install and to change.

The files it writes stand at the end, as they are but for the words between @s.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(help="Start something new.", no_args_is_help=True)


@group.callback()
def _new() -> None:
    """Start something new."""


@group.command("reward")
def reward(
    name: Annotated[str, typer.Argument(help="The reward's name, as configs will use it.")],
    into: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("."),
) -> None:
    """Write a distribution with a reward, its options, README and tests."""
    from grpo_core.errors import ConfigError

    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a reward: small letters, digits and single - or _, "
            "a letter first"
        )
    folder = into / f"grpo-reward-{name.replace('_', '-')}"
    if folder.exists():
        raise ConfigError(f"{folder} is there already; nothing was written")
    if (owner := _owner(name)) is not None:
        raise ConfigError(f"{owner} registers a reward {name!r} already; choose another name")
    for path, text in files(name).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {folder}. Now:")
    for command, effect in (
        (f"pip install -e {folder}", "makes it known; `grpo plugins` lists it"),
        (f"grpo check {name}", "checks it against all that training relies on"),
        (f"pytest {folder}", "runs its tests, the same checks among them"),
    ):
        typer.echo(f"  {command}\n      {effect}")


def files(name: str) -> dict[str, str]:
    """What is written, by path inside the new folder."""
    module = name.replace("-", "_")
    words = {
        "name": name,
        "distribution": f"grpo-reward-{name.replace('_', '-')}",
        "module": f"grpo_reward_{module}",
        "class": "".join(part.capitalize() for part in module.split("_")),
    }

    def filled(text: str) -> str:
        return re.sub(r"@(\w+)@", lambda match: words[match[1]], text)

    return {filled(path): filled(text) for path, text in _FILES.items()}


def _owner(name: str) -> str | None:
    """The distribution that has a reward of this name already."""
    from grpo_core.plugins import load_plugins

    records = load_plugins().plugins
    return next((record.distribution for record in records if name in record.rewards), None)


_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "@distribution@"
version = "0.1.0"
description = "The reward @name@ for grpo-core"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["grpo-core>=0.1"]

[project.optional-dependencies]
test = ["pytest>=8.3"]

[project.entry-points.grpo_core]
@name@ = "@module@"

[tool.setuptools.packages.find]
include = ["@module@*"]

[tool.setuptools.package-data]
@module@ = ["py.typed"]
"""

_MODULE = '''\
"""The reward `@name@`: does the answer part say what the dataset says?"""

from __future__ import annotations

from pydantic import Field

from grpo_core import Reward, Sample, Score, hookimpl

grpo_core_api = 1


class @class@(Reward):
    """1.0 when the answer equals the row's ground truth, spaces aside, else 0.0.

    A row without a ground truth abstains.
    """

    class Options(Reward.Options):
        answer_column: str = Field("answer", description="The column with the ground truth")
        ignore_case: bool = Field(False, description="Whether A and a are the same")

    options: Options
    range = (0.0, 1.0)

    examples = (
        (Sample("3 + 4?", "<think>4, 5, 6, 7.</think><answer>7</answer>", {"answer": "7"}), 1.0),
        (Sample("3 + 4?", "<think>Eight?</think><answer>8</answer>", {"answer": "7"}), 0.0),
        (Sample("3 + 4?", "<answer>7</answer>", {"answer": ""}), None),
    )
    """Samples with the score each gets, None where it abstains; `grpo check` tries them."""

    @property
    def requires(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.options.answer_column,)

    def score(self, sample: Sample) -> Score:
        truth = sample.columns.get(self.options.answer_column)
        if not isinstance(truth, str) or not truth.strip():
            return Score(None, reason="the row has no ground truth")
        expected, found = self._plain(truth), self._plain(sample.answer_text)
        reason = f"the answer is {found[:60]!r}, expected {expected[:60]!r}"
        return Score(float(found == expected), reason=reason)

    def perfect(self, sample: Sample) -> str | None:
        """The completion that deserves the maximum; `grpo check` feeds it back."""
        truth = sample.columns.get(self.options.answer_column)
        return f"<think>I know it.</think><answer>{truth}</answer>"

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.options.ignore_case else text


@hookimpl
def register_rewards(register):
    register("@name@", @class@)
'''

_README = """\
# @distribution@

The reward `@name@` for [grpo-core](https://pypi.org/project/grpo-core/): 1.0 when the answer part
of a completion equals the row's ground truth, else 0.0. A row without a ground truth abstains.

    pip install @distribution@

In a config:

```yaml
rubric:
  rewards:
    - {use: @name@, weight: 1.0, options: {ignore_case: true}}
```

| option | default | meaning |
| --- | --- | --- |
| `answer_column` | `answer` | the column with the ground truth |
| `ignore_case` | `false` | whether A and a are the same |

Before training on a dataset, see on which of its rows the reward has nothing to say:

    grpo check @name@ --data rows.jsonl
"""

_TESTS = '''\
"""The reward `@name@` keeps the contract, and says what it is meant to say."""

from grpo_core import Sample, load_plugins
from grpo_core.testing import RewardContract


class Test@class@(RewardContract):
    """Every check of `grpo check @name@`, a test each."""

    reward = "@name@"


class Test@class@IgnoringCase(RewardContract):
    reward = "@name@"
    options = {"ignore_case": True}
    examples = (
        (Sample("Spell it out.", "<answer>Seven</answer>", {"answer": "seven"}), 1.0),
        (Sample("Spell it out.", "<answer>Eight</answer>", {"answer": "seven"}), 0.0),
    )


def test_the_reason_is_for_people_to_read():
    reward = load_plugins().rewards["@name@"]()
    score = reward.score(Sample("Spell it out.", "<answer>9</answer>", {"answer": "7"}))
    assert score.reason == "the answer is '9', expected '7'"
'''

_FILES = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    "@module@/__init__.py": _MODULE,
    "@module@/py.typed": "",
    "tests/test_@module@.py": _TESTS,
    ".gitignore": "*.egg-info/\n__pycache__/\nbuild/\ndist/\n",
}
