"""Training passes: every form gives the model's own numbers, and a form that cannot is refused."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from grpo_core.passes import (  # noqa: E402
    Group,
    Passes,
    blocks,
    default_budget,
    forms,
    head,
    micro_batches,
    pack,
    padded_tokens,
    self_check,
)
from grpo_core.passes.batching import SHORT  # noqa: E402

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LINEAR = {
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES = {
    "llama": ("Llama", SIZES),
    "llama_tied": ("Llama", {**SIZES, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", SIZES),
    "qwen2_windows": (
        "Qwen2",
        {**SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {**SIZES, "head_dim": 8}),
    "mistral": ("Mistral", {**SIZES, "sliding_window": 5}),
    "gemma2": (
        "Gemma2",
        {**SIZES, "head_dim": 8, "sliding_window": 5, "final_logit_softcapping": 0.5},
    ),
    "gemma3": (
        "Gemma3Text",
        {
            **SIZES,
            "head_dim": 8,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "granite": ("Granite", {**SIZES, "logits_scaling": 4.0}),
    "cohere": ("Cohere", {**SIZES, "logit_scale": 0.25}),
    "gpt2": ("GPT2", {**GPT2, **SPECIAL}),
    "bloom": (
        "Bloom",
        {"vocab_size": 61, "hidden_size": 32, "n_layer": 2, "n_head": 4, **SPECIAL},
    ),
    "lfm2": ("Lfm2", {**SIZES, "layer_types": ["conv", "full_attention"]}),
    "qwen3_next": (
        "Qwen3Next",
        {**SIZES, **LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    ),
}
EAGER_ONLY = {"gemma2", "bloom"}
HOLDS = (
    {name: ("blocks", "mask", "key_value", "plain") for name in FAMILIES}
    | {
        name: ("mask", "key_value", "plain")
        for name in ("qwen2_windows", "mistral", "gemma2", "gemma3")
    }
    | {
        "bloom": ("key_value", "plain"),
        "lfm2": ("plain",),
        "qwen3_next": ("plain",),
    }
)
"""What each family allows, fastest first; blocks only with torch's own attention."""


def holds(family, attention):
    return [form for form in HOLDS[family] if form != "blocks" or attention == "sdpa"]


GROUPS = [
    Group([5, 6, 7, 8, 9, 10, 11, 12, 13], [[20, 21, 22, 2], [23], [24, 25, 26, 27, 28, 29, 30]]),
    Group([14, 15, 16], [[31, 32, 33, 34, 35, 36, 37, 38], [39, 2]]),
    Group([17, 18], [[40, 41, 42]]),
]


def build(family, attention="eager", dtype=None):
    """A random model, its weights large enough that logits differ and caps bite. In float64,
    but for eager attention, whose softmax transformers makes in float32 whatever comes in."""
    single = attention == "eager" or family == "qwen3_next"  # its experts take no float64
    dtype = dtype or (torch.float32 if single else torch.float64)
    name, options = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, f"{name}Config")(**options), attn_implementation=attention
    ).to(dtype)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    return model.eval()


CASES = [
    (family, attention)
    for family in FAMILIES
    for attention in ("eager", "sdpa")
    if attention == "eager" or family not in EAGER_ONLY
]


def truth(model, groups=GROUPS, temperature=1.0):
    """Log-probabilities and entropies by definition: one completion at a time, no padding,
    the model's own logits, torch's own softmax."""
    logps, entropies = [], []
    for prompt, completions in groups:
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion]])
            logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature
            every = logits.log_softmax(-1)
            logps.append(every.gather(-1, torch.tensor(completion).unsqueeze(-1)).squeeze(-1))
            entropies.append(-(every.exp() * every).sum(-1))
    return torch.cat(logps), torch.cat(entropies)


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    scale = torch.stack([g.norm() for g in expected.values()]).norm()
    assert scale > 0
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * scale, name


def weights(count):
    """A different weight a token, so that no two errors cancel."""
    return torch.cos(torch.arange(count, dtype=torch.float32))


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_every_form_gives_the_models_own_numbers_and_gradients(family, attention, monkeypatch):
    monkeypatch.setattr(forms, "even", lambda prompt, completions: True)  # else rows are not tried
    model = build(family, attention)
    logp, entropy = truth(model, temperature=0.7)
    weight = weights(len(logp)).to(logp.dtype)
    expected = gradients(model, weight @ logp + 0.1 * weight.flip(0) @ entropy)
    for form in holds(family, attention):
        for fused, short in ((True, 0), (False, 0), (True, SHORT)):
            how = {"fused_head": fused, "temperature": 0.7, "short": short}
            passes = Passes(model, pad_id=0, form=form, **how)
            found = passes(GROUPS, entropy=True)
            assert [row.tolist().count(True) for row in found.mask] == [4, 1, 7, 8, 2, 3]
            torch.testing.assert_close(found.logp[found.mask], logp, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.entropy[found.mask], entropy, rtol=1e-5, atol=1e-5)
            assert not found.logp[~found.mask].any()
            loss = weight @ found.logp[found.mask]
            loss = loss + 0.1 * weight.flip(0) @ found.entropy[found.mask]
            assert_same_gradients(gradients(model, loss), expected)


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_the_self_check_chooses_the_fastest_form_that_holds(family, attention):
    model = build(family, attention, torch.float32)
    passes, lines = self_check(model, pad_id=0)
    assert (passes.form, passes.fused_head) == (holds(family, attention)[0], True), lines
    assert lines[-1] == f"training passes: form {passes.form}, fused head"
    assert len(lines) == 5 - len(holds(family, attention))
    assert all("refused" in line for line in lines[:-1])


def test_the_self_check_tries_blocks_in_each_of_their_ways(monkeypatch):
    made = []
    monkeypatch.setattr(blocks, "rows", noted(made, "rows", blocks.rows))
    monkeypatch.setattr(blocks, "_shared", noted(made, "merged", blocks._shared))
    monkeypatch.setattr(pack, "block_mask", noted(made, "mask", pack.block_mask))
    assert self_check(build("llama", "sdpa", torch.float32), pad_id=0)[0].form == "blocks"
    assert list(dict.fromkeys(made)) == ["merged", "mask", "rows"]


def test_all_levers_on_equal_the_plain_path_in_float32():
    model = build("mistral", "sdpa", torch.float32)
    found = {}
    for form, fused in (("mask", True), ("plain", False)):
        result = Passes(model, pad_id=0, form=form, fused_head=fused)(GROUPS)
        weight = weights(int(result.mask.sum()))
        found[form] = gradients(model, weight @ result.logp[result.mask])
    assert_same_gradients(found["mask"], found["plain"])


def test_a_form_asked_for_is_where_the_search_begins():
    model = build("llama", dtype=torch.float32)
    assert self_check(model, pad_id=0, form="key_value")[0].form == "key_value"
    passes, lines = self_check(model, pad_id=0, form="plain", fused_head=False)
    assert (passes.form, passes.fused_head) == ("plain", False)
    assert lines == ["training passes: form plain, the model's own head"]


# --- what the self-check must notice ---


def causal_alone(segments, positions, window=None):
    length = segments.shape[1]
    return torch.ones(len(segments), 1, length, length, dtype=torch.bool).tril()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_without_blocks_is_refused(monkeypatch, dtype):
    monkeypatch.setattr(pack, "block_mask", causal_alone)
    passes, lines = self_check(build("llama", "sdpa", dtype), pad_id=0, form="mask")
    assert passes.form == "key_value"
    assert "form mask refused: differs by" in lines[0]


@pytest.mark.parametrize("window", [5, 4096])
def test_a_mask_that_forgets_the_window_is_refused_however_long_the_window(monkeypatch, window):
    model = build("mistral", "sdpa", torch.float32)
    model.config.sliding_window = window
    honest = pack.block_mask
    monkeypatch.setattr(pack, "block_mask", lambda s, p, window=None: honest(s, p))
    passes, lines = self_check(model, pad_id=0)
    assert passes.form == "key_value", lines
    assert model.config.sliding_window == window


@pytest.mark.parametrize(
    ("family", "change"), [("gemma2", {"softcap": None}), ("granite", {"scale": 1.0})]
)
def test_a_head_that_skips_what_the_model_does_is_refused(monkeypatch, family, change):
    honest = head.split
    monkeypatch.setattr(head, "split", lambda model: honest(model)._replace(**change))
    model = build(family, dtype=torch.float32)
    passes, lines = self_check(model, pad_id=0)
    assert (passes.form, passes.fused_head) == ("mask", False)
    assert lines[0].startswith("fused head refused: differs by")
    logp, _ = truth(model)
    found = passes(GROUPS)
    torch.testing.assert_close(found.logp[found.mask], logp, rtol=1e-4, atol=1e-5)


def test_a_cache_without_gradient_is_refused(monkeypatch):
    """The numbers are right; only the gradient through the prompt is lost."""
    honest = transformers.DynamicCache.batch_select_indices

    def detached(cache, indices):
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        honest(cache, indices)

    monkeypatch.setattr(transformers.DynamicCache, "batch_select_indices", detached)
    passes, lines = self_check(build("qwen2", "sdpa", torch.float32), pad_id=0, form="key_value")
    assert passes.form == "plain"
    assert "form key_value refused: differs by" in lines[0]


def test_gradient_checkpointing_rules_the_cache_out_and_keeps_the_mask():
    model = build("llama", "sdpa", torch.float32)
    model.gradient_checkpointing_enable()
    assert self_check(model, pad_id=0)[0].form == "mask"
    passes, lines = self_check(model, pad_id=0, form="key_value")
    assert passes.form == "plain"
    assert "gradient checkpointing keeps no key/value cache" in lines[0]

    logp, _ = truth(model)
    expected = gradients(model, logp.sum())
    model.train()
    found = Passes(model, pad_id=0, form="mask")(GROUPS)
    assert_same_gradients(gradients(model, found.logp.sum()), expected)
    with pytest.raises(RuntimeError, match="no key/value cache"):
        Passes(model, pad_id=0, form="key_value")(GROUPS)


def test_the_check_leaves_everything_as_found():
    model = build("gpt2", dtype=torch.float32)  # with dropout
    model.train()
    model.transformer.h[0].eval()
    model.transformer.wpe.weight.requires_grad_(False)
    model.lm_head.weight.grad = marker = torch.ones_like(model.lm_head.weight)
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    passes, _ = self_check(model, pad_id=0)
    assert passes.form == "mask"
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert model.lm_head.weight.grad is marker
    assert bool((marker == 1).all())
    assert model.transformer.wpe.weight.grad is None


def test_a_frozen_model_is_checked_by_its_numbers():
    model = build("llama", dtype=torch.float32).requires_grad_(False)
    assert self_check(model, pad_id=0)[0].form == "mask"


# --- models that are wrapped, adapted or in lower precision ---


def test_lora_gradients_equal_those_of_the_plain_path():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"])
    model = peft.get_peft_model(build("llama", "sdpa"), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, and with it half of the gradients
            torch.nn.init.normal_(parameter, std=0.1)
    passes, lines = self_check(model, pad_id=0)
    assert (passes.form, passes.fused_head) == ("blocks", True), lines
    logp, _ = truth(model)
    expected = gradients(model, logp.sum())
    assert len(expected) == 2 * (2 * 2 + 1)
    assert_same_gradients(gradients(model, passes(GROUPS).logp.sum()), expected)
    with model.disable_adapter(), torch.no_grad():
        reference, found = truth(model)[0], passes(GROUPS)
        torch.testing.assert_close(found.logp[found.mask], reference)
    assert not torch.allclose(reference, logp)


@pytest.mark.parametrize("form", pack.FORMS)
@pytest.mark.parametrize("short", [0, SHORT])
def test_under_bf16_autocast_the_softmax_stays_in_float32(form, short, monkeypatch):
    monkeypatch.setattr(forms, "even", lambda prompt, completions: True)
    model = build("qwen3", "sdpa", torch.float32)
    logp, _ = truth(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = Passes(model, pad_id=0, form=form, short=short)(GROUPS)
    assert found.logp.dtype == torch.float32
    assert (found.logp[found.mask] - logp).abs().mean() < 0.05
    found.logp.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_check_holds_under_autocast():
    model = build("llama", "sdpa", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        passes, lines = self_check(model, pad_id=0)
    assert (passes.form, passes.fused_head) == ("blocks", True), lines


def test_ddp_wraps_passes_with_a_chunked_head(monkeypatch, tmp_path):
    monkeypatch.setattr(head, "KEEP", 61 * 4)
    monkeypatch.setattr(head, "CHUNK", 61 * 4)
    model = build("llama_tied", "sdpa")
    expected = gradients(model, truth(model)[0].sum())
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        passes = torch.nn.parallel.DistributedDataParallel(Passes(model, pad_id=0))
        assert_same_gradients(gradients(model, passes(GROUPS).logp.sum()), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_that_cannot_select_logits_makes_them_all(monkeypatch):
    model = build("llama", "sdpa")
    whole = type(model).forward

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
        return whole(self, input_ids, attention_mask, position_ids, use_cache=use_cache)

    monkeypatch.setattr(type(model), "forward", forward)
    for form in ("mask", "plain"):
        found = Passes(model, pad_id=0, form=form, fused_head=False)(GROUPS)
        torch.testing.assert_close(found.logp[found.mask], truth(model)[0])


# --- the head ---


@pytest.mark.parametrize(
    ("family", "attention", "tolerance"), [("granite", "sdpa", 1e-12), ("gemma2", "eager", 1e-6)]
)
def test_a_chunked_head_equals_a_whole_one(monkeypatch, family, attention, tolerance):
    model = build(family, attention)
    found = {}
    for size in (2**24, 61 * 4):
        monkeypatch.setattr(head, "KEEP", size)
        monkeypatch.setattr(head, "CHUNK", size)
        result = Passes(model, pad_id=0, temperature=0.7)(GROUPS, entropy=True)
        value = (result.logp.sin() + result.entropy).sum()
        with torch.no_grad():
            again = Passes(model, pad_id=0, temperature=0.7)(GROUPS)
        torch.testing.assert_close(again.logp, result.logp)
        found[size] = (result, gradients(model, value))
    whole, chunked = found.values()
    torch.testing.assert_close(chunked[0].logp, whole[0].logp)
    torch.testing.assert_close(chunked[0].entropy, whole[0].entropy)
    assert_same_gradients(chunked[1], whole[1], tolerance)


def test_the_gradient_of_the_fused_softmax_is_that_of_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda x: head.log_softmax(x, target, 0.7, True), logits)
    assert torch.autograd.gradcheck(lambda x: head.log_softmax(x, target)[0], logits)


def test_an_impossible_token_has_no_probability_and_no_nan():
    """Models that forbid tokens have logits of minus infinity."""
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    logp, entropy = head.log_softmax(logits, torch.tensor([0]), entropy=True)
    (logp + entropy).sum().backward()
    assert entropy.item() == pytest.approx(0.6931, abs=1e-4)
    assert logits.grad.tolist() == [[0.5, -0.5, 0.0]]


# --- edges ---


@pytest.mark.parametrize("form", pack.FORMS)
@pytest.mark.parametrize(
    "groups",
    [
        [Group([5], [[6]])],
        [Group([5, 6], [[7], [8]]), Group([9], [[10]])],
        [Group([5, 6, 7], [[8, 9], [], [10]])],
        [Group([5, 6], [[], []])],
    ],
    ids=["one token each", "no token to read", "an empty one", "nothing but empty ones"],
)
@pytest.mark.parametrize("short", [0, SHORT])
def test_shortest_completions(form, groups, short):
    model = build("llama", "sdpa")
    found = Passes(model, pad_id=0, form=form, short=short)(groups)
    lengths = [len(c) for group in groups for c in group.completions]
    assert found.mask.sum(1).tolist() == lengths
    assert found.logp.shape == (len(lengths), max(lengths))
    if any(lengths):
        torch.testing.assert_close(found.logp[found.mask], truth(model, groups)[0])


def test_padding_makes_no_nan_with_eager_attention_and_a_short_window():
    """A row of padding that sees nothing would be 0/0 there."""
    model = build("mistral", "eager", torch.float32)
    groups = [Group([5] * 30, [[6] * 20]), Group([7], [[8]])]
    found = Passes(model, pad_id=0)(groups)
    found.logp.sum().backward()
    assert found.logp.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# --- micro-batches ---

LENGTHS = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(0, 40), max_size=6)), max_size=6
)


@settings(max_examples=150, deadline=None)
@given(
    LENGTHS,
    st.integers(1, 300),
    st.sampled_from(pack.FORMS),
    st.sampled_from([1, 64, 1024]),
    st.booleans(),
)
def test_every_completion_is_in_one_pass_within_budget(groups, budget, form, hidden_size, sort):
    prompts, completions = [p for p, _ in groups], [c for _, c in groups]
    passes = micro_batches(prompts, completions, budget, form, hidden_size=hidden_size, sort=sort)
    placed = [(g, i) for chosen in passes for g, indices in chosen for i in indices]
    assert sorted(placed) == [(g, i) for g, c in enumerate(completions) for i in range(len(c))]
    for chosen in passes:
        alone = sum(len(indices) for _, indices in chosen) == 1
        assert alone or padded_tokens(chosen, prompts, completions, form) <= budget


def test_a_long_prompt_is_not_read_once_a_completion():
    group = [64] * 8
    for device, prompt in (("cpu", 100), ("cpu", 2000), ("cuda", 30_000)):
        budget = default_budget(device, prompt)
        assert len(micro_batches([prompt], [group], budget, "mask")) <= 2
    assert default_budget("cpu", 400) == default_budget("cpu") == 832


def test_a_group_stays_behind_one_prompt_until_attention_costs_more():
    short, long = [64] * 8, [64] * 512
    assert micro_batches([256], [short], 10**6, "mask", hidden_size=256) == [[(0, list(range(8)))]]
    rows = micro_batches([256], [long], 10**6, "mask", hidden_size=256)[0]
    assert len(rows) > 8
    assert len(micro_batches([256], [long], 10**6, "mask", hidden_size=65536)[0]) < len(rows)


def test_blocks_split_no_group_but_into_short_rows_that_go_under_a_mask(monkeypatch):
    whole = [(0, list(range(8)))]
    assert micro_batches([256], [[64] * 8], 10**6, "blocks", hidden_size=256) == [whole]
    assert micro_batches([256], [[512] * 8], 10**6, "blocks", hidden_size=256) == [whole]
    ragged = [48, 40, 16, 16, 16, 16, 16, 16]
    short = micro_batches([10], [ragged], 10**6, "blocks", hidden_size=128)
    assert short == micro_batches([10], [ragged], 10**6, "mask", hidden_size=128)

    made = []
    for form in ("blocks", "mask"):
        monkeypatch.setattr(Passes, f"_{form}", noted(made, form, getattr(Passes, f"_{form}")))
    model = build("llama", "sdpa")
    for prompt, expected in ((100, ["blocks", "mask"]), (130, ["blocks"])):
        made.clear()
        Passes(model, pad_id=0, form="blocks")([Group([5] * prompt, [[6] * 8])])
        assert made == expected


def test_short_completions_of_about_one_length_attend_in_rows(monkeypatch):
    made = []
    monkeypatch.setattr(blocks, "rows", noted(made, "rows", blocks.rows))
    whole = [(0, list(range(8)))]
    assert micro_batches([10], [[48] * 8], 10**6, "blocks", hidden_size=128) == [whole]
    passes = Passes(build("llama", "sdpa"), pad_id=0, form="blocks")
    passes([Group([5] * 10, [[6] * 48] * 8), Group([5] * 10, [[6] * 40] * 8)])
    assert made == ["rows"]
    for others in (Group([5] * 10, [[6] * 48, *[[6] * 4] * 7]), Group([5] * 80, [[6] * 8])):
        passes([others, Group([5] * 10, [[6] * 48] * 8)])
    assert made == ["rows"]


def noted(made, what, method):
    def call(*arguments):
        made.append(what)
        return method(*arguments)

    return call


def test_similar_lengths_go_together_unless_the_order_is_kept():
    lengths = [[1, 9, 1, 9]]
    for sort, expected in ((True, [[1, 3], [0, 2]]), (False, [[0, 1], [2, 3]])):
        passes = micro_batches([1], lengths, 20, "plain", sort=sort)
        assert passes == [[(0, [i]) for i in indices] for indices in expected]


def test_windows_that_go_by_place_in_the_row_are_known_by_the_config():
    """GPT-Neo's, which are longer than what is tried."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoConfig(
        vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
    )  # fmt: skip
    passes, lines = self_check(transformers.GPTNeoForCausalLM(config), pad_id=0)
    assert passes.form in ("key_value", "plain")
    assert any("form mask refused: its windows" in line for line in lines)
