"""Weights laid out for oneDNN multiply as before, and are gone when drawing is over."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from grpo_core import onednn  # noqa: E402
from grpo_core.onednn import packed_weights  # noqa: E402

pytestmark = pytest.mark.skipif(not onednn._works(), reason="this torch has no oneDNN")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 320), nn.Tanh(), nn.Linear(320, 256, bias=False))


@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 1), (8, 1), (2, 5), (4, 33), (300, 1)])
def test_products_are_the_same_whatever_the_number_of_rows(model, shape):
    hidden = torch.randn(*shape, 256)
    with torch.no_grad():
        expected = model(hidden)
        with packed_weights(model):
            found = model(hidden)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_weights_that_have_changed_since_are_packed_anew(model):
    hidden = torch.randn(4, 256)
    with torch.no_grad():
        with packed_weights(model):
            before = model(hidden)
        model[2].weight.mul_(2)
        with packed_weights(model):
            torch.testing.assert_close(model(hidden), 2 * before)


def test_layers_are_left_as_they_were_found_also_by_a_failure(model):
    with pytest.raises(ZeroDivisionError), packed_weights(model):
        assert all("forward" in layer.__dict__ for layer in (model[0], model[2]))
        raise ZeroDivisionError
    assert not any("forward" in module.__dict__ for module in model.modules())
    model(torch.randn(2, 256)).sum().backward()
    assert model[0].weight.grad is not None


class Own(nn.Linear):
    """A layer with arithmetic of its own."""


def test_only_plain_large_layers_in_float32_are_packed():
    wrapped = nn.Linear(256, 256)
    wrapped.forward = lambda hidden: hidden
    others = [Own(256, 256), nn.Linear(64, 64), nn.Linear(256, 256).bfloat16(), wrapped]
    before = [dict(layer.__dict__) for layer in others]
    with packed_weights(nn.ModuleList([*others, nn.Linear(256, 256)])):
        assert [layer.__dict__ for layer in others] == before


def test_the_check_leaves_the_random_state_alone():
    onednn._works.cache_clear()
    state = torch.get_rng_state()
    assert onednn._works()
    assert torch.equal(torch.get_rng_state(), state)


def test_without_the_operations_everything_stays(model, monkeypatch):
    monkeypatch.setattr(onednn, "_works", lambda: False)
    with packed_weights(model):
        assert "forward" not in model[0].__dict__


def test_lengths_without_end_do_not_fill_the_memory():
    """Each shape is a program of oneDNN's; it would keep a thousand."""
    code = """
import torch
from grpo_core.onednn import bound_programs
bound_programs()
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20
weight = torch.randn(512, 512, dtype=torch.bfloat16)
for length in range(1, 500):
    torch.randn(length, 512, dtype=torch.bfloat16) @ weight
    if length == 99:
        before = resident()
print(resident() - before)
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(grown.stdout) < 40
