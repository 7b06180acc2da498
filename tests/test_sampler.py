"""The policy and the built-in sampler: what is drawn is what the model says."""

import pytest

torch = pytest.importorskip("torch")

from pathlib import Path  # noqa: E402

from grpo_core.errors import ConfigError  # noqa: E402
from grpo_core.policy import load_policy, micro_batches, pad, token_logps  # noqa: E402
from grpo_core.rollout import Sampling, draw  # noqa: E402


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(str(tiny_model), Path())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


PROMPTS = ["1+1=", "what is 7?", "a"]


def drawn(policy, seed=0, group_size=4, prompts=PROMPTS, **sampling):
    encoded = [policy.encode(prompt) for prompt in prompts]
    how = Sampling(**{"max_tokens": 12, **sampling})
    return encoded, draw(policy, encoded, group_size, how, generator(seed))


def test_text_round_trips(policy):
    text = "<think>48/2 = 24\n</think><answer>\\boxed{24}</answer>"
    assert policy.decode(policy.encode(text)) == text


def test_messages_go_through_the_chat_template(policy):
    rendered = policy.render([{"role": "user", "content": "2+2?"}])
    assert rendered == "[user]2+2?\n[assistant]"
    assert policy.decode(policy.encode([{"role": "user", "content": "2+2?"}])) == rendered


def test_the_log_probabilities_of_the_sampler_equal_recomputed_ones(policy):
    encoded, completions = drawn(policy, temperature=0.7)
    prompts = [ids for ids in encoded for _ in range(4)]
    batch = pad(prompts, [c.ids for c in completions], policy.pad_id)
    with torch.no_grad():
        logps = token_logps(policy.model, batch.ids, batch.attention, batch.mask.shape[1], 0.7)
    for row, completion in enumerate(completions):
        n = len(completion.ids)
        assert logps[row, :n].tolist() == pytest.approx(completion.logps, abs=1e-5)


def test_padding_and_company_change_nothing(policy):
    """A prompt drawn beside longer ones has the log-probabilities it has alone."""
    encoded, completions = drawn(policy)
    for group, ids in enumerate(encoded):
        for completion in completions[group * 4 : group * 4 + 4]:
            alone = pad([ids], [completion.ids], policy.pad_id)
            with torch.no_grad():
                logps = token_logps(policy.model, alone.ids, alone.attention, len(completion.ids))
            assert logps[0].tolist() == pytest.approx(completion.logps, abs=1e-5)


def test_the_same_seed_draws_the_same(policy):
    assert drawn(policy)[1] == drawn(policy)[1]
    assert drawn(policy)[1] != drawn(policy, seed=1)[1]


def test_groups_stand_together_whatever_the_batch_size(policy):
    _, completions = drawn(policy, greedy=True, group_size=2, batch_size=2)
    assert len(completions) == 6
    for first, second in zip(completions[::2], completions[1::2], strict=True):
        assert first.ids == second.ids


def test_greedy_takes_the_likeliest(policy):
    encoded, completions = drawn(policy, greedy=True, group_size=1, prompts=["1+1="])
    ids = torch.tensor([encoded[0]])
    with torch.no_grad():
        logits = policy.model(ids).logits[0, -1]
    assert completions[0].ids[0] == logits.argmax()


def test_a_completion_ends_with_eos_or_is_truncated(policy):
    for seed in range(20):
        for completion in drawn(policy, seed, max_tokens=20)[1]:
            assert completion.truncated == (completion.ids[-1] not in policy.eos_ids)
            assert not set(completion.ids[:-1]) & set(policy.eos_ids)
            assert len(completion.ids) <= 20
            assert len(completion.ids) == len(completion.logps) == len(completion.entropies)


def counts(policy, n=20_000, **sampling):
    _, completions = drawn(
        policy, group_size=n, prompts=["1+1="], max_tokens=1, batch_size=n, **sampling
    )
    ids = torch.tensor([completion.ids[0] for completion in completions])
    return torch.bincount(ids, minlength=policy.model.config.vocab_size)


def first_logits(policy):
    with torch.no_grad():
        return policy.model(torch.tensor([policy.encode("1+1=")])).logits[0, -1].double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax(policy, temperature):
    """Chi-square of 20,000 draws; the bound is passed by chance once in a thousand."""
    expected = (first_logits(policy) / temperature).softmax(-1) * 20_000
    seen = counts(policy, temperature=temperature)
    usual = expected >= 5
    statistic = ((seen - expected) ** 2 / expected)[usual].sum().item()
    freedom = int(usual.sum()) - 1
    # Wilson-Hilferty: chi-square is near normal after a cube root
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
    assert z < 3.1


def test_top_k_and_top_p_leave_the_rest_out(policy):
    order = first_logits(policy).argsort(descending=True)
    assert set(counts(policy, 2000, top_k=3).nonzero().flatten().tolist()) == set(
        order[:3].tolist()
    )
    probabilities = first_logits(policy).softmax(-1)[order]
    enough = int((probabilities.cumsum(0) < 0.3).sum()) + 1
    seen = set(counts(policy, 4000, top_p=0.3).nonzero().flatten().tolist())
    assert seen == set(order[:enough].tolist())


def test_other_families_too(tiny_qwen):
    qwen = load_policy(str(tiny_qwen), Path())
    encoded, completions = drawn(qwen)
    batch = pad([encoded[0]], [completions[0].ids], qwen.pad_id)
    with torch.no_grad():
        logps = token_logps(qwen.model, batch.ids, batch.attention, batch.mask.shape[1])
    assert logps[0].tolist() == pytest.approx(completions[0].logps, abs=1e-5)


def test_micro_batches_hold_everything_within_the_budget():
    lengths = [3, 9, 1, 4, 4, 20, 2]
    batches = micro_batches(lengths, budget=10)
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 10
    assert micro_batches([], 10) == []


def test_a_model_that_cannot_be_loaded_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"model.name: 'empty' cannot be loaded"):
        load_policy("empty", tmp_path)
