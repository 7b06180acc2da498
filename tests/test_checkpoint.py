"""Checkpoints: whole or not there, checked before they are used, and harmless to load.

What a run makes of them when it is killed is test_crash.py's part.
"""

import errno
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from grpo_core import checkpoint, disk  # noqa: E402
from grpo_core.errors import ConfigError  # noqa: E402


class Tiny:
    """Stands for a policy: one layer, saved as safetensors."""

    def __init__(self, width=4):
        self.model = torch.nn.Linear(width, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.model(torch.ones(width)).sum().backward()
        self.optimizer.step()

    def save(self, directory):
        save_file(dict(self.model.state_dict()), directory / "model.safetensors")
        (directory / "config.json").write_text("{}")


@pytest.fixture
def policy():
    return Tiny()


@pytest.fixture
def save(tmp_path, policy):
    def write(step, keep=3, **more):
        state = {"num_tokens": step * 10}
        return checkpoint.save(
            tmp_path / "checkpoints", step, policy, policy.optimizer, state, keep, **more
        )

    return write


@pytest.fixture
def told():
    return []


def names(directory):
    return sorted(path.name for path in directory.iterdir())


class TestWriting:
    def test_what_is_in_it(self, save):
        path = save(100)
        assert names(path) == [
            "config.json", "manifest.json", "model.safetensors", "optimizer.pt",
            "parameters.json", "trainer_state.json",
        ]  # fmt: skip
        assert checkpoint.read_state(path) == {"step": 100, "num_tokens": 1000}
        assert checkpoint.fault(path) is None

    def test_the_manifest_names_every_file_but_itself(self, save):
        path = save(1)
        manifest = json.loads((path / "manifest.json").read_text())
        assert sorted(manifest["files"]) == [n for n in names(path) if n != "manifest.json"]
        size = (path / "model.safetensors").stat().st_size
        assert manifest["files"]["model.safetensors"]["bytes"] == size

    def test_only_the_newest_stay(self, save):
        for step in (2, 4, 6, 100):
            path = save(step, keep=2)
        assert names(path.parent) == ["step-000006", "step-000100"]

    def test_steps_are_ordered_as_numbers(self, save, told):
        save(999_999)
        path = save(1_000_000)
        assert checkpoint.latest(path.parent, told.append) == path

    def test_a_reference_that_moved_is_kept_beside(self, save):
        class Reference:
            def save_pretrained(self, folder):
                folder.mkdir()
                (folder / "model.safetensors").write_bytes(b"r")

        path = save(1, reference=Reference())
        assert checkpoint.reference_folder(path) == path / "reference"
        (path / "reference" / "model.safetensors").write_bytes(b"x")
        assert "reference/model.safetensors" in checkpoint.fault(path)

    def test_without_one_there_is_none(self, save):
        assert checkpoint.reference_folder(save(1)) is None

    def test_all_is_on_the_disk_before_it_gets_its_name(self, save, monkeypatch):
        """What a power cut could tear is synced: every file, the folder, its parent."""
        events = []
        real_sync, real_replace = os.fsync, os.replace

        def fsync(descriptor):
            events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real_sync(descriptor)

        def replace(old, new):
            events.append("renamed")
            real_replace(old, new)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        path = save(1)
        done = events.index("renamed")
        partial = path.with_name("partial-step-000001")
        assert {str(partial), *(str(partial / name) for name in names(path))} <= set(events[:done])
        assert str(path.parent) in events[done:]


class TestNewestWhole:
    def test_none_at_all(self, tmp_path, told):
        assert checkpoint.latest(tmp_path / "nowhere", told.append) is None

    def test_half_written_ones_are_no_checkpoints(self, save, told):
        path = save(2)
        shutil.copytree(path, path.with_name("partial-step-000004"))
        assert checkpoint.latest(path.parent, told.append) == path
        assert told == []

    @pytest.mark.parametrize(
        "name",
        ["model.safetensors", "optimizer.pt", "trainer_state.json", "config.json", "manifest.json"],
    )
    def test_a_truncated_file(self, save, told, name):
        before, path = save(2), save(4)
        os.truncate(path / name, (path / name).stat().st_size - 1)
        if name == "manifest.json":  # its last byte is only a line's end
            os.truncate(path / name, (path / name).stat().st_size - 1)
        assert checkpoint.latest(path.parent, told.append) == before
        assert len(told) == 1 and name in told[0] and str(path) in told[0]

    def test_any_flipped_bit_of_any_file(self, save, told):
        before, path = save(2), save(4)
        chance = random.Random(0)
        for name in names(path) * 8:
            data = (path / name).read_bytes()
            bit = chance.randrange(8 * len(data))
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            (path / name).write_bytes(flipped)
            told.clear()
            found = checkpoint.latest(path.parent, told.append)
            if name == "manifest.json" and found == path:  # an indent may be a tab
                assert json.loads(flipped) == json.loads(data)
            else:
                assert found == before, (name, bit)
                assert name in told[0]
            (path / name).write_bytes(data)
        assert checkpoint.latest(path.parent, told.append) == path

    def test_a_missing_file(self, save, told):
        before, path = save(2), save(4)
        (path / "optimizer.pt").unlink()
        assert checkpoint.latest(path.parent, told.append) == before
        assert "optimizer.pt is missing" in told[0]

    def test_a_missing_manifest(self, save, told):
        before, path = save(2), save(4)
        (path / "manifest.json").unlink()
        assert checkpoint.latest(path.parent, told.append) == before
        assert "there is no manifest.json" in told[0]

    @pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"files": 1, "sha256": 2}', "\xff"])
    def test_a_manifest_of_something_else(self, save, told, text):
        before, path = save(2), save(4)
        (path / "manifest.json").write_text(text)
        assert checkpoint.latest(path.parent, told.append) == before
        assert "manifest.json" in told[0]

    def test_two_damaged_ones_are_both_named(self, save, told):
        first, *others = save(2), save(4), save(6)
        for path in others:
            (path / "optimizer.pt").write_bytes(b"")
        assert checkpoint.latest(first.parent, told.append) == first
        assert [str(path) in line for path, line in zip(reversed(others), told, strict=True)]

    def test_none_is_whole(self, save, told):
        path = save(2)
        (path / "optimizer.pt").write_bytes(b"")
        with pytest.raises(ConfigError, match="none of the 1 checkpoints .* is whole"):
            checkpoint.latest(path.parent, told.append)
        assert "optimizer.pt has 0 bytes" in told[0]

    def test_files_of_others_do_not_matter(self, save, told):
        path = save(2)
        (path / "README.md").write_text("the good one")
        assert checkpoint.latest(path.parent, told.append) == path

    def test_a_damaged_future_does_not_push_out_what_is_whole(self, save, told):
        """With one kept, the run that went on from step 2 must not delete its own step 3."""
        path = save(2)
        (save(4) / "optimizer.pt").unlink()
        (save(6) / "optimizer.pt").unlink()
        assert checkpoint.latest(path.parent, told.append) == path
        after = save(3, keep=1)
        assert names(path.parent) == ["step-000003"]
        assert checkpoint.latest(path.parent, told.append) == after

    def test_a_damaged_one_is_replaced_by_the_same_step(self, save, told):
        save(2)
        path = save(4)
        (path / "model.safetensors").write_bytes(b"")
        assert save(4) == path
        assert checkpoint.latest(path.parent, told.append) == path


class TestLoading:
    def test_the_optimizer_goes_on_as_if_nothing_had_been(self, save, policy):
        path = save(2)
        twin = Tiny()
        twin.model.load_state_dict(policy.model.state_dict())
        checkpoint.restore(path, twin.optimizer)
        for each in (policy, twin):
            each.model(torch.ones(4)).sum().backward()
            each.optimizer.step()
        assert torch.equal(policy.model.weight, twin.model.weight)

    def test_another_model_is_refused_with_what_differs(self, save):
        with pytest.raises(ConfigError, match=r"weight of shape \[2, 4\].*has \[2, 5\]"):
            checkpoint.restore(save(2), Tiny(width=5).optimizer)

    def test_so_is_one_with_fewer_parameters(self, save):
        one = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 4))])
        with pytest.raises(ConfigError, match="trained 2 parameters, this one has 1"):
            checkpoint.restore(save(2), one)

    def test_no_code_runs_even_when_the_checksums_were_made_to_fit(self, save, policy, tmp_path):
        class Payload:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path / 'owned'}",)

        path = save(2)
        torch.save(Payload(), path / "optimizer.pt")
        files = checkpoint._measure(path)
        manifest = {"files": files, "sha256": checkpoint._digest_of(files)}
        (path / "manifest.json").write_text(json.dumps(manifest))
        assert checkpoint.fault(path) is None
        with pytest.raises(ConfigError, match="was not written by grpo"):
            checkpoint.restore(path, policy.optimizer)
        assert not (tmp_path / "owned").exists()
        pickle.loads(pickle.dumps(Payload()))  # the payload would have worked
        assert (tmp_path / "owned").exists()


def until_told(told, monkeypatch, then):
    """Call `then` when the run has said that it waits."""
    monkeypatch.setattr(disk, "RETRY_S", 0.02)

    def say(text):
        told.append(text)
        if len(told) == 1:
            threading.Timer(0.1, then).start()

    return say


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch, tmp_path):
        """Files that cannot be written while `full` holds their names."""
        blocked = set()
        real = Path.write_text

        def write_text(path, text):
            if path.name in blocked:
                path.write_bytes(text[: len(text) // 2].encode())
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, text)

        monkeypatch.setattr(Path, "write_text", write_text)
        return blocked

    def test_it_waits_and_goes_on(self, save, told, full, monkeypatch):
        before = save(2)
        full.add("trainer_state.json")
        seen = []

        def look_and_free():
            seen.extend(names(before.parent))
            full.clear()

        path = save(4, say=until_told(told, monkeypatch, look_and_free))
        assert checkpoint.fault(path) is None
        assert "disk is full" in told[0] and "step-000004" in told[0]
        assert str(path.parent) in told[0] and "make space" in told[0]
        assert len(told) == 2 and "going on" in told[1]
        assert "step-000002" in seen

    def test_nothing_half_written_stays_when_it_fails_otherwise(self, save, policy, monkeypatch):
        before = save(2)

        def fail(directory):
            (directory / "model.safetensors").write_bytes(b"half")
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(policy, "save", fail)
        with pytest.raises(OSError, match="Input/output"):
            save(4)
        assert names(before.parent) == ["step-000002"]

    def test_a_stop_in_the_middle_leaves_nothing(self, save, policy, monkeypatch):
        before = save(2)

        def stopped(directory):
            raise KeyboardInterrupt

        monkeypatch.setattr(policy, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            save(4)
        assert names(before.parent) == ["step-000002"]

    def test_a_terminal_that_is_a_file_on_that_disk(self, save, full, monkeypatch):
        monkeypatch.setattr(disk, "RETRY_S", 0.02)
        full.add("trainer_state.json")

        def say(text):
            full.clear()
            raise OSError(errno.ENOSPC, "No space left on device")

        assert checkpoint.fault(save(4, say=say)) is None

    @pytest.mark.parametrize("free", [0, 40, 100, 180, 240])
    def test_a_small_disk(self, small_disk, told, monkeypatch, free):
        """Wherever it fills up: in the model's 80 kB, the optimizer's 160 kB, or later."""
        wide = Tiny(width=10_000)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * (400 - free) * 1024)
        path = checkpoint.save(
            small_disk / "checkpoints", 2, wide, wide.optimizer, {}, 3,
            say=until_told(told, monkeypatch, ballast.unlink),
        )  # fmt: skip
        assert checkpoint.fault(path) is None
        assert len(told) == 2 and "disk is full" in told[0]
        assert names(path.parent) == ["step-000002"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs needs root: {mounted.stderr.decode().splitlines()[0]}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


def killed_at_event(n, work):
    """Do it in a child that is killed at its n-th touch of the file system; whether it was."""
    child = os.fork()
    if child == 0:
        left = [n]

        def count(event, arguments):
            if event in EVENTS:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_moment_of_a_save_a_whole_one_is_there(tmp_path, policy, told, monkeypatch):
    """One kill at each touch of the file system by a save that also removes the one
    before; afterwards that or the new one is whole, and the next save leaves no rest."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill loses nothing written

    def save(step):
        checkpoint.save(tmp_path, step, policy, policy.optimizer, {}, keep=1)

    found = []
    for n in itertools.count(1):
        shutil.rmtree(tmp_path)
        save(1)
        killed = killed_at_event(n, lambda: save(2))
        found.append(checkpoint.latest(tmp_path, told.append).name)
        save(3)
        assert names(tmp_path) == ["step-000003"]
        if not killed:
            break
    switched = found.index("step-000002")
    assert switched > 10
    assert set(found[:switched]) == {"step-000001"} and set(found[switched:]) == {"step-000002"}
    assert told == []
