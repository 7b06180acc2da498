"""The policy and the built-in sampler: what is drawn is what the model says."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from pathlib import Path  # noqa: E402

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from grpo_core import heap, onednn  # noqa: E402
from grpo_core.errors import ConfigError  # noqa: E402
from grpo_core.passes import Group, Passes  # noqa: E402
from grpo_core.policy import Policy, load_policy  # noqa: E402
from grpo_core.rollout import Sampling, draw  # noqa: E402
from grpo_core.rollout.reading import Cached, Packed, Plain, _Buffer, reader  # noqa: E402
from grpo_core.rollout.sampler import choose  # noqa: E402


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(str(tiny_model), Path())


@pytest.fixture(autouse=True)
def small_layers_are_packed_too(monkeypatch):
    """As those of a model of a usual size are."""
    monkeypatch.setattr(onednn, "LARGE", 1)


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


def test_no_dropout_is_left_in_the_policy(tiny_model, tmp_path):
    """Sampling has none, and in training it would be noise on the ratio."""
    transformers = pytest.importorskip("transformers")
    shutil.copytree(tiny_model, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_dropout": 0.5}))
    raw = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert {m.attention_dropout for m in raw.modules() if hasattr(m, "attention_dropout")} == {0.5}
    model = load_policy("model", tmp_path).model.train()
    ids = torch.arange(3, 13).unsqueeze(0)
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_dropout_that_a_layer_keeps_as_a_number_is_taken_out_too(tiny_model, tmp_path):
    transformers = pytest.importorskip("transformers")
    shutil.copytree(tiny_model, tmp_path / "model")
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    opt = transformers.OPTConfig(vocab_size=32, word_embed_proj_dim=16, layerdrop=0.5, **sizes)
    transformers.OPTForCausalLM(opt).save_pretrained(tmp_path / "model")
    model = load_policy("model", tmp_path).model.train()
    ids = torch.arange(3, 13).unsqueeze(0)
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_messages_go_through_the_chat_template(policy):
    rendered = policy.render([{"role": "user", "content": "2+2?"}])
    assert rendered == "[user]2+2?\n[assistant]"
    assert policy.decode(policy.encode([{"role": "user", "content": "2+2?"}])) == rendered


def recomputed(policy, prompts, completions, temperature=1.0):
    """Log-probabilities of each completion in a training pass over all of them."""
    passes = Passes(policy.model, pad_id=policy.pad_id, form="plain", temperature=temperature)
    groups = [Group(ids, [c.ids]) for ids, c in zip(prompts, completions, strict=True)]
    with torch.no_grad():
        read = passes(groups)
    return [row[mask].tolist() for row, mask in zip(read.logp, read.mask, strict=True)]


def test_the_log_probabilities_of_the_sampler_equal_those_of_training(policy):
    encoded, completions = drawn(policy, temperature=0.7)
    prompts = [ids for ids in encoded for _ in range(4)]
    again = recomputed(policy, prompts, completions, 0.7)
    for logps, completion in zip(again, completions, strict=True):
        assert logps == pytest.approx(completion.logps, abs=1e-5)


def test_padding_and_company_change_nothing(policy):
    """A prompt drawn beside longer ones has the log-probabilities it has alone."""
    encoded, completions = drawn(policy)
    for group, ids in enumerate(encoded):
        for completion in completions[group * 4 : group * 4 + 4]:
            [logps] = recomputed(policy, [ids], [completion])
            assert logps == pytest.approx(completion.logps, abs=1e-5)


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
        return 4 * policy.model(torch.tensor([policy.encode("1+1=")])).logits[0, -1].double()


@pytest.fixture(scope="module")
def peaked(tiny_model):
    """The tiny model with larger logits, so that truncation has something to cut."""
    peaked = load_policy(str(tiny_model), Path())
    with torch.no_grad():
        peaked.model.lm_head.weight.mul_(4)
    return peaked


def expected_shares(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Probabilities a token, by the definitions, one token after the other."""
    shares = (logits / temperature).softmax(-1).tolist()
    order = sorted(range(len(shares)), key=lambda token: -shares[token])
    kept = order[:top_k] if top_k else order
    whole = sum(shares[token] for token in kept)
    nucleus, reached = [], 0.0
    for token in kept:
        if reached >= top_p * whole:
            break
        nucleus.append(token)
        reached += shares[token]
    kept = {token for token in nucleus if shares[token] >= min_p * shares[order[0]]}
    whole = sum(shares[token] for token in kept)
    return [share / whole if token in kept else 0.0 for token, share in enumerate(shares)]


def deviation(seen, shares):
    """By how many standard deviations the counts are too far from the shares (chi-square).

    Tokens expected less than five times are one cell; a token that has no share
    and was drawn is infinitely far off.
    """
    n = int(seen.sum())
    expected = torch.tensor(shares, dtype=torch.float64) * n
    if seen[expected == 0].sum():
        return math.inf
    usual = expected >= 5
    expected = torch.cat([expected[usual], expected[~usual].sum()[None]])
    seen = torch.cat([seen[usual], seen[~usual].sum()[None]])
    held = expected > 0
    statistic = ((seen - expected) ** 2 / expected)[held].sum().item()
    freedom = int(held.sum()) - 1
    # Wilson-Hilferty: chi-square is near normal after a cube root
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5


BOUND = 3.1
"""Passed by chance once in a thousand."""

WAYS = {
    "plain": {},
    "cold": {"temperature": 0.5},
    "hot": {"temperature": 2.0},
    "top-k": {"top_k": 7},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.2},
    "top-k and top-p": {"top_k": 12, "top_p": 0.8},
    "top-p and min-p, cold": {"top_p": 0.9, "min_p": 0.1, "temperature": 0.7},
    "all, hot": {"top_k": 30, "top_p": 0.95, "min_p": 0.15, "temperature": 1.5},
}


@pytest.mark.parametrize("sampling", WAYS.values(), ids=WAYS.keys())
def test_tokens_are_drawn_from_the_softmax(peaked, policy, sampling):
    shares = expected_shares(first_logits(policy), **sampling)
    assert sum(share > 0 for share in shares) > 2
    assert deviation(counts(peaked, **sampling), shares) < BOUND


@pytest.mark.parametrize("asked", WAYS)
def test_the_chi_square_tells_the_ways_of_drawing_apart(peaked, policy, asked):
    seen = counts(peaked, **WAYS[asked])
    for other, sampling in WAYS.items():
        if other != asked:
            assert deviation(seen, expected_shares(first_logits(policy), **sampling)) > BOUND


def test_the_chi_square_finds_one_token_drawn_half_too_often(policy):
    shares = expected_shares(first_logits(policy))
    seen = torch.tensor(shares).multinomial(20_000, replacement=True, generator=generator())
    seen = torch.bincount(seen, minlength=len(shares))
    assert deviation(seen, shares) < BOUND
    seen[seen.argmax()] += seen.max() // 2
    assert deviation(seen, shares) > BOUND


def test_a_large_vocabulary_is_drawn_from_without_gross_error():
    """32,000 tokens, where sums of float32 could wear thin; in blocks of 500 tokens."""
    logits = torch.randn(1, 32_000, generator=generator(1)) * 2
    for sampling in ({}, {"top_p": 0.999}, {"top_p": 0.5}, {"top_k": 2000, "min_p": 0.01}):
        tokens, logps, entropies = choose(
            logits.expand(640, -1), Sampling(**sampling), generator(2)
        )
        shares = torch.tensor(expected_shares(logits[0].double(), **sampling))
        assert (shares[tokens] > 0).all()
        seen = torch.bincount(tokens // 500, minlength=64)
        assert deviation(seen, shares.view(64, 500).sum(-1).tolist()) < BOUND
        truth = logits[0].double().log_softmax(-1)
        assert logps.tolist() == pytest.approx(truth[tokens].tolist(), abs=1e-5)
        assert entropies[0].item() == pytest.approx(-(truth.exp() * truth).sum().item(), abs=1e-4)


def test_a_token_of_logit_minus_infinity_is_never_drawn_and_leaves_the_entropy_a_number():
    logits = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]]).expand(500, -1)
    for sampling in ({}, {"top_k": 4}, {"top_p": 0.99}, {"min_p": 0.1}, {"greedy": True}):
        tokens, logps, entropies = choose(logits, Sampling(**sampling), generator())
        assert set(tokens.tolist()) <= {0, 2}
        assert logps.isfinite().all()
        p = 1 / (1 + math.e)
        assert entropies[0].item() == pytest.approx(
            -p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-5
        )


TINY = dict(
    vocab_size=82,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
SMALL = dict(vocab_size=82, num_hidden_layers=2)
GEMMA = dict(head_dim=8, sliding_window=5, layer_types=["sliding_attention", "full_attention"])
MAMBA = dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1)
CACHED = {
    "Llama": TINY,
    "Mistral": TINY | dict(sliding_window=5),
    "Gemma2": TINY | GEMMA,
    "Gemma3": TINY | GEMMA,
    "GPT2": dict(vocab_size=82, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "Bloom": dict(vocab_size=82, hidden_size=32, n_layer=2, n_head=4),
    "FalconH1": TINY | MAMBA | dict(mamba_chunk_size=8),
}
UNCACHED = {
    "Mamba": SMALL | dict(hidden_size=32, state_size=8),
    "RecurrentGemma": TINY | dict(lru_width=32, attention_window_size=8, num_hidden_layers=3),
}
NAMES = {
    "Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "GPT2": ("GPT2Config", "GPT2LMHeadModel"),
}


@pytest.fixture(scope="module")
def family(policy):
    """A policy of a family, tiny and with random weights whose biases are not zero."""
    import transformers

    made = {}

    def make(name):
        if name not in made:
            config, model = NAMES.get(name, (f"{name}Config", f"{name}ForCausalLM"))
            torch.manual_seed(0)
            settings = (CACHED | UNCACHED)[name] | dict(
                bos_token_id=2, eos_token_id=1, pad_token_id=0
            )
            built = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()
            with torch.no_grad():
                for weight in built.parameters():
                    weight.add_(0.03 * torch.randn_like(weight))
            made[name] = Policy(built, policy.tokenizer)
        return made[name]

    return make


RAGGED = [[5, 9, 7, 8, 30, 31, 32, 33, 34, 40], [6], [11, 12, 13, 14]]
EVEN = [[5, 9, 7, 8, 30, 31], [6, 5, 4, 3, 8, 9]]
LONG = [[*range(5, 30)], [*range(40, 18, -1)], [*range(6, 66, 3)]]
"""Longer than what is drawn, so that a prompt is kept once for its group."""
LEVERS = {
    "all": {},
    "no shared prefill": {"shared_prefill": False},
    "no dropping": {"drop_finished": False},
    "weights as they are": {"packed_weights": False},
    "none": {"shared_prefill": False, "drop_finished": False, "packed_weights": False},
}


class Ending(Policy):
    """Many tokens end a completion, so that rows end at different times."""

    @property
    def eos_ids(self):
        return [1, *range(60, 70)]


def check_against_plain_passes(policy, prompts, **sampling):
    """Each completion alone behind its prompt, in one pass without cache or padding."""
    completions = draw(
        policy, prompts, 4, Sampling(max_tokens=20, temperature=0.8, **sampling), generator(3)
    )
    assert len({len(c.ids) for c in completions}) > 2
    for n, completion in enumerate(completions):
        prompt = prompts[n // 4]
        with torch.no_grad():
            logits = policy.model(torch.tensor([prompt + completion.ids]), use_cache=False).logits
        logps = (logits[0, len(prompt) - 1 : -1].float() / 0.8).log_softmax(-1)
        chosen = logps.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert completion.logps == pytest.approx(chosen.tolist(), abs=1e-5)
        entropies = -(logps.exp() * logps).sum(-1)
        assert completion.entropies == pytest.approx(entropies.tolist(), abs=1e-5)
    return completions


@pytest.mark.parametrize("levers", LEVERS.values(), ids=LEVERS.keys())
@pytest.mark.parametrize("prompts", [RAGGED, EVEN, LONG], ids=["ragged", "even", "long"])
@pytest.mark.parametrize("name", CACHED)
def test_every_family_is_read_with_a_cache_and_exactly(family, name, prompts, levers, recwarn):
    one = family(name)
    check_against_plain_passes(Ending(one.model, one.tokenizer), prompts, **levers)
    assert not [w for w in recwarn if "slow" in str(w.message)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Llama", Packed), ("GPT2", Packed), ("Mistral", Cached), ("Bloom", Cached)],
)
def test_long_prompts_are_kept_once_for_their_group_where_that_is_exact(family, name, expected):
    model = family(name).model
    assert type(reader(model, 0, LONG, copies=4, steps=20)) is expected
    for less in ({"copies": 1, "steps": 20}, {"copies": 4, "steps": 50}, {"copies": 17}):
        assert type(reader(model, 0, LONG, **less)) is Cached


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_packed_rows_are_those_of_plain_reading_whichever_are_kept(family, data):
    """Any rows may leave after any token: slots, prompts and columns move up."""
    model = family("Llama").model
    packed, plain = Packed(model, 0), Plain(model)
    with torch.no_grad():
        pairs = [(packed.start(RAGGED, 3), plain.start(RAGGED, 3))]
        rows = 9
        for _ in range(data.draw(st.integers(1, 5))):
            tokens = torch.tensor(
                data.draw(st.lists(st.integers(3, 80), min_size=rows, max_size=rows))
            )
            pairs.append((packed.step(tokens), plain.step(tokens)))
            kept = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
            packed.keep(torch.tensor(kept))
            plain.keep(torch.tensor(kept))
            rows = len(kept)
            tokens = torch.full((rows,), 7)
            pairs.append((packed.step(tokens), plain.step(tokens)))
    for one, other in pairs:
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", UNCACHED)
def test_a_model_with_a_cache_of_its_own_is_found_out_and_read_anew(family, name):
    one = family(name)
    with pytest.warns(UserWarning, match=f"{name}ForCausalLM is read anew at every token"):
        check_against_plain_passes(Ending(one.model, one.tokenizer), RAGGED)
    check_against_plain_passes(Ending(one.model, one.tokenizer), EVEN, drop_finished=False)


class Deaf(torch.nn.Module):
    """A model that takes a mask or positions and pays no heed to them."""

    def __init__(self, model, *ignored):
        super().__init__()
        self.inner, self.ignored = model, ignored
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self.generation_config = model.generation_config

    def forward(self, *args, **kwargs):
        return self.inner(*args, **{k: v for k, v in kwargs.items() if k not in self.ignored})


@pytest.mark.parametrize("ignored", ["attention_mask", "past_key_values"])
def test_a_model_that_ignores_what_it_is_given_is_found_out(family, policy, ignored):
    deaf = Deaf(family("Llama").model, ignored)
    with pytest.warns(UserWarning, match="log-probabilities are off by"):
        check_against_plain_passes(Ending(deaf, policy.tokenizer), RAGGED)


def test_a_cache_that_outgrows_its_buffer_stays_exact(family):
    one = family("Mistral")
    prompt = [5, 9, 7]
    completion = draw(one, [prompt], 1, Sampling(max_tokens=150, greedy=True), generator())
    ids = completion[0].ids
    assert len(ids) > 100
    with torch.no_grad():
        logps = one.model(torch.tensor([prompt + ids])).logits[0, 2:-1].log_softmax(-1)
    chosen = logps.gather(-1, torch.tensor(ids)[:, None])[:, 0]
    assert completion[0].logps == pytest.approx(chosen.tolist(), abs=1e-5)


def test_a_cache_asks_for_memory_for_all_that_is_to_come():
    """Of one size, then, so that each of many takes what the one before it has left."""
    buffer = _Buffer(columns=20)
    held = None
    for n in range(1, 17):
        held = buffer.append(held, torch.full((2, 3, 1, 4), float(n)))
        assert held[1, 2, :, 3].tolist() == list(range(1, n + 1))
        if n > 1:
            assert held.untyped_storage().nbytes() == 2 * 3 * 20 * 4 * held.element_size()
    for n in range(17, 27):  # more than was announced
        held = buffer.append(held, torch.full((2, 3, 1, 4), float(n)))
    assert held[0, 0, :, 0].tolist() == list(range(1, 27))


def test_freed_memory_is_given_back_where_the_c_library_can(monkeypatch):
    asked = []
    heap.give_back()
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=asked.append))
    heap.give_back()
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: SimpleNamespace())
    heap.give_back()
    assert asked == [0]


def test_completions_are_handed_over_when_they_end(family):
    """Shorter ones first, each once and whole, in place n of the result."""
    one = family("Llama")
    handed = []
    for levers in LEVERS.values():
        handed.clear()
        completions = draw(
            Ending(one.model, one.tokenizer),
            RAGGED,
            4,
            Sampling(max_tokens=20, **levers),
            generator(5),
            lambda n, completion: handed.append((n, completion)),
        )
        lengths = [len(completion.ids) for _, completion in handed]
        assert lengths == sorted(lengths)
        assert sorted(n for n, _ in handed) == list(range(12))
        assert all(completions[n] is completion for n, completion in handed)


def test_no_prompts_no_completions(policy):
    assert draw(policy, [], 4, Sampling(), generator()) == []


def test_other_families_too(tiny_qwen):
    qwen = load_policy(str(tiny_qwen), Path())
    encoded, completions = drawn(qwen)
    [logps] = recomputed(qwen, encoded[:1], completions[:1])
    assert logps == pytest.approx(completions[0].logps, abs=1e-5)


def test_a_model_that_cannot_be_loaded_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"model.name: 'empty' cannot be loaded"):
        load_policy("empty", tmp_path)
