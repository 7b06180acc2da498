"""Attention block by block equals attention under a mask, and refuses what it leaves out."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from grpo_core.passes import Group, blocks, pack  # noqa: E402

CPU = torch.device("cpu")


def groups_of(sizes):
    return [Group([5] * prompt, [[6] * n for n in lengths]) for prompt, lengths in sizes]


def masked(query, key, value, groups, scale):
    """By definition: one softmax over everything that a token sees."""
    layout, _ = pack.joined(groups, CPU)
    which = torch.cat(
        [
            torch.full((len(g.prompt) + sum(max(0, len(c) - 1) for c in g.completions),), n)
            for n, g in enumerate(groups)
        ]
    )
    seen = pack.block_mask(layout.segments, layout.positions)[0, 0] & (which[:, None] == which)
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


SIZES = st.lists(
    st.tuples(st.integers(1, 70), st.lists(st.integers(0, 70), max_size=5)), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from([(4, 4), (4, 2), (3, 1)]), st.integers(0, 99))
def test_blocks_give_the_numbers_and_gradients_of_a_mask(sizes, heads, seed):
    groups = groups_of(sizes)
    layout, spans = pack.joined(groups, CPU)
    tokens = layout.ids.shape[1]
    torch.manual_seed(seed)
    shapes = [(1, heads[0], tokens, 8), (1, heads[1], tokens, 8), (1, heads[1], tokens, 8)]
    inputs = [(3 * torch.randn(s, dtype=torch.float64)).requires_grad_() for s in shapes]
    expected = masked(*inputs, groups, 0.4)
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    for how in (spans, blocks.rows(spans)):
        out, _ = blocks.attention(None, *inputs, None, scaling=0.4, blocks=how)
        torch.testing.assert_close(out, expected)
        found = torch.autograd.grad((out * weight).sum(), inputs)
        for one, other in zip(found, gradients, strict=True):
            torch.testing.assert_close(one, other)


def test_a_row_is_groups_one_behind_the_other_without_padding():
    groups = [Group([5, 6], [[7, 8, 2], [9]]), Group([10], [[], [11, 2]])]
    layout, spans = pack.joined(groups, CPU)
    assert layout.ids.tolist() == [[5, 6, 7, 8, 10, 11]]
    assert layout.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert spans == [(0, 2, (2, 0)), (4, 1, (0, 1))]
    # 7 and 9 are predicted where the first prompt ends, 11 where the second does
    assert layout.source.tolist() == [1, 2, 3, 1, 4, 5]


def test_far_apart_scores_are_merged_without_overflow():
    """Completion tokens that look at their prompt only, or at themselves only."""
    groups = groups_of([(3, [5, 5])])
    _, spans = pack.joined(groups, CPU)
    query = torch.full((1, 1, 11, 8), 40.0, dtype=torch.float64, requires_grad=True)
    key = torch.full((1, 1, 11, 8), 40.0, dtype=torch.float64)
    key[:, :, 3:7] = -40.0
    value = torch.randn(1, 1, 11, 8, dtype=torch.float64)
    out, _ = blocks.attention(None, query, key, value, None, blocks=spans)
    torch.testing.assert_close(out, masked(query, key, value, groups, 8**-0.5))
    out.sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"sliding_window": 4}, "wants sliding_window"),
        ({"softcap": 30.0, "s_aux": torch.ones(1)}, "wants softcap, s_aux"),
        ({"dropout": 0.1}, "wants dropout"),
        ({"blocks": None}, "was not told of the blocks"),
    ],
)
def test_what_blocks_leave_out_is_refused(asked, says):
    x = torch.randn(1, 1, 4, 8)
    options = {"blocks": [pack.Span(0, 2, (2,))], "sliding_window": None, **asked}
    with pytest.raises(blocks.Unsupported, match=f"NoneType {says}"):
        blocks.attention(None, x, x, x, None, **options)


def test_a_model_attends_as_before_behind_a_pass_that_failed(tiny_model):
    from transformers import AutoModelForCausalLM

    config = AutoModelForCausalLM.from_pretrained(tiny_model).config
    before = config._attn_implementation
    with pytest.raises(ZeroDivisionError), blocks.attending(config):
        assert config._attn_implementation == blocks.NAME
        raise ZeroDivisionError
    assert config._attn_implementation == before
