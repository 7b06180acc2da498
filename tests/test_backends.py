"""Rollouts drawn by other programs: transformers' continuous batching, and a vLLM server.

The server is `vllm_stand_in`, on a thread of the test or as a process.
"""

import copy
import importlib.util
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("httpx2")

import typer  # noqa: E402

from grpo_core.cli import train as command  # noqa: E402
from grpo_core.errors import ConfigError, RolloutError  # noqa: E402
from grpo_core.policy import Policy, load_policy  # noqa: E402
from grpo_core.rollout import Sampling, continuous, draw, vllm  # noqa: E402
from grpo_core.rollout.vllm import Server, save_weights  # noqa: E402

STAND_IN = Path(__file__).with_name("vllm_stand_in.py")


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


vllm_stand_in = module_of(STAND_IN)

TEXTS = ["12+3=", "4*5=", "7", "999+1="]
HOW = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return load_policy(str(tiny_model), Path())


@pytest.fixture
def policy(loaded):
    return Policy(copy.deepcopy(loaded.model), loaded.tokenizer)


@pytest.fixture(scope="module")
def running(tiny_model):
    with vllm_stand_in.StandIn(tiny_model) as server:
        yield server


@pytest.fixture
def stand_in(running):
    """The server, behaving, with its first weights, and nothing remembered."""
    running.spoil.clear()
    running.asked.clear()
    running.loaded.clear()
    running.restart()
    running.processed = True
    return running


@pytest.fixture
def backend(stand_in, policy, tmp_path, monkeypatch):
    """Synchronised; hardly a pause between attempts."""
    monkeypatch.setattr(vllm, "FIRST_PAUSE_S", 0.02)
    backend = Server(stand_in.url, tmp_path / "weights", patience_s=60, say=lambda text: None)
    backend.sync(policy)
    return backend


def prompts_of(policy):
    return [policy.encode(text) for text in TEXTS]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def changed(policy, by=0.3):
    """The policy after a big step."""
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(by * torch.randn(p.shape, generator=seeded(1)))
    return policy


def largest_error(policy, prompts, group_size, completions, temperature=1.0):
    """Of the completions' log-probabilities against those of the model."""
    worst = 0.0
    for n, completion in enumerate(completions):
        ids = completion.ids
        whole = torch.tensor([[*prompts[n // group_size], *ids]])
        logits = policy.model(whole).logits[0, -len(ids) - 1 : -1] / temperature
        logps = logits.log_softmax(-1)[range(len(ids)), ids]
        worst = max(worst, (logps - torch.tensor(completion.logps)).abs().max().item())
    return worst


def assert_whole(policy, completions, finished):
    """Every completion ends as it says, and was handed over once."""
    assert sorted(finished) == list(range(len(completions)))
    for completion in completions:
        ended = completion.ids[-1] in policy.eos_ids
        assert ended != completion.truncated
        assert not set(completion.ids[:-1]) & set(policy.eos_ids)
        assert len(completion.ids) == HOW.max_tokens or ended


class TestContinuousBatching:
    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    def test_log_probabilities_are_those_of_the_model(self, policy, temperature):
        prompts, finished = prompts_of(policy), []
        how = Sampling(max_tokens=8, temperature=temperature)
        drawn = continuous.draw(
            policy, prompts, 3, how, seeded(), lambda n, completion: finished.append(n)
        )
        assert_whole(policy, drawn, finished)
        assert largest_error(policy, prompts, 3, drawn, temperature) < 1e-5

    def test_prompts_longer_than_a_token_are_read_once_for_their_group(self, policy):
        prompts = [p for p in prompts_of(policy) if len(p) > 1]
        drawn = continuous.draw(policy, prompts, 4, Sampling(max_tokens=8, batch_size=5), seeded())
        assert largest_error(policy, prompts, 4, drawn) < 1e-5
        assert len({tuple(c.ids) for c in drawn}) == 12  # nothing is shared but the prompt

    def test_the_same_generator_gives_the_same_completions(self, policy):
        one, two, other = (
            continuous.draw(policy, [policy.encode("1+1=")], 4, HOW, seeded(seed))
            for seed in (0, 0, 1)
        )
        assert one == two != other

    def test_it_draws_as_often_as_the_model_says(self, policy):
        """The first token of 600 completions, against the model's distribution."""
        policy = changed(policy)
        prompt = policy.encode("1+1=")
        drawn = continuous.draw(policy, [prompt], 600, Sampling(max_tokens=1), seeded())
        expected = 600 * policy.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        counts = torch.bincount(torch.tensor([c.ids[0] for c in drawn]), minlength=len(expected))
        likely = expected > 10
        assert likely.sum() >= 3
        assert ((counts - expected)[likely].abs() / expected[likely].sqrt()).max() < 4

    def test_greedy_is_the_built_in_sampler_s(self, policy):
        how = Sampling(max_tokens=8, greedy=True)
        prompts = prompts_of(policy)
        theirs = continuous.draw(policy, prompts, 1, how, seeded())
        ours = draw(policy, prompts, 1, how, seeded())
        assert [c.ids for c in theirs] == [c.ids for c in ours]

    def test_it_leaves_everything_else_as_it_was(self, policy):
        policy.model.train()
        attention = policy.model.config._attn_implementation
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        continuous.draw(policy, [policy.encode("1+1=")], 2, HOW, seeded())
        assert torch.equal(torch.rand(2), expected)
        assert policy.model.training
        assert policy.model.config._attn_implementation == attention

    def test_a_failure_on_the_way_is_one_error(self, policy, monkeypatch):
        def broken(*args, **kwargs):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(policy.model, "forward", broken)
        with pytest.raises(RolloutError, match="continuous batching .*out of memory"):
            continuous.draw(policy, [policy.encode("1+1=")], 2, HOW, seeded())

    def test_a_model_it_cannot_batch_is_refused_by_name(self, policy):
        policy.model.config._attn_implementation = "flex_attention"
        with pytest.raises(RolloutError, match="LlamaForCausalLM.*built-in sampler"):
            continuous.draw(policy, [policy.encode("1+1=")], 2, HOW, seeded())


class TestServer:
    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    def test_log_probabilities_are_those_of_the_model(self, policy, backend, temperature):
        prompts, finished = prompts_of(policy), []
        how = Sampling(max_tokens=8, temperature=temperature)
        drawn = backend(policy, prompts, 3, how, seeded(), lambda n, c: finished.append((n, c)))
        assert_whole(policy, drawn, [n for n, _ in finished])
        assert all(drawn[n] is completion for n, completion in finished)
        assert largest_error(policy, prompts, 3, drawn, temperature) < 1e-5

    def test_it_draws_from_the_weights_of_the_last_sync(self, policy, backend, stand_in):
        prompts = prompts_of(policy)
        backend.sync(changed(policy))
        drawn = backend(policy, prompts, 3, HOW, seeded())
        assert largest_error(policy, prompts, 3, drawn) < 1e-5
        assert len(stand_in.loaded) == 2

    def test_without_a_sync_it_still_has_the_old_ones(self, policy, backend):
        prompts = prompts_of(policy)
        drawn = backend(changed(policy), prompts, 3, HOW, seeded())
        assert largest_error(policy, prompts, 3, drawn) > 0.1

    def test_only_the_last_weights_stay_on_disk(self, policy, backend):
        backend.sync(policy)
        backend.sync(policy)
        assert [path.name for path in backend.folder.iterdir()] == ["weights-3"]

    def test_a_process_that_is_not_main_writes_nothing(self, policy, backend, stand_in):
        other = Server(stand_in.url, backend.folder, say=lambda text: None)
        other.sync(policy, main=False)
        assert len(stand_in.loaded) == 1
        assert len(other(policy, prompts_of(policy), 2, HOW, seeded())) == 8

    def test_weights_come_first(self, policy, stand_in, tmp_path):
        with pytest.raises(RolloutError, match="call sync first"):
            Server(stand_in.url, tmp_path)(policy, prompts_of(policy), 2, HOW, seeded())

    def test_a_request_is_token_ids_and_leaves_nothing_to_defaults(self, policy, backend, stand_in):
        backend(policy, [policy.encode("1+1=")], 3, Sampling(max_tokens=5), seeded())
        (asked,) = stand_in.asked
        assert asked["prompt"] == policy.encode("1+1=")
        assert (asked["n"], asked["max_tokens"], asked["temperature"]) == (3, 5, 1.0)
        assert (asked["top_p"], asked["top_k"], asked["repetition_penalty"]) == (1.0, 0, 1.0)

    def test_every_prompt_has_a_seed_of_its_own_from_the_generator(self, policy, backend, stand_in):
        for seed in (0, 0, 1):
            backend(policy, prompts_of(policy), 2, HOW, seeded(seed))
        by_prompt = sorted((asked["prompt"], asked["seed"]) for asked in stand_in.asked)
        assert len({seed for _, seed in by_prompt}) == 8  # 4 prompts x 2 generators

    def test_greedy_groups_are_copies_of_one_completion(self, policy, backend, stand_in):
        how = Sampling(max_tokens=8, greedy=True)
        drawn = backend(policy, prompts_of(policy), 2, how, seeded())
        expected = draw(policy, prompts_of(policy), 2, how, seeded())
        assert [c.ids for c in drawn] == [c.ids for c in expected]
        assert {asked["n"] for asked in stand_in.asked} == {1}

    def test_log_probabilities_without_the_temperature_are_refused(self, policy, backend, stand_in):
        stand_in.processed = False
        backend(policy, prompts_of(policy), 2, HOW, seeded())  # at 1 they are the same
        with pytest.raises(RolloutError, match="--logprobs-mode processed_logprobs"):
            backend(policy, prompts_of(policy), 2, Sampling(temperature=0.6), seeded())

    def test_adapters_are_added_to_the_weights_not_to_the_model(self, policy, tmp_path):
        peft = pytest.importorskip("peft")
        settings = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        policy.model = peft.get_peft_model(policy.model, settings)
        changed(policy)
        before = [p.clone() for p in policy.model.parameters()]
        save_weights(policy, tmp_path / "merged")
        for p, kept in zip(policy.model.parameters(), before, strict=True):
            assert torch.equal(p, kept)
        ids = torch.tensor([policy.encode("1+1=")])
        merged = type(policy.model.get_base_model()).from_pretrained(tmp_path / "merged")
        assert (policy.model(ids).logits - merged(ids).logits).abs().max() < 1e-4


class TestTheScriptForARealServer:
    """`benchmarks/vllm_server.py`, on the stand-in."""

    @pytest.fixture
    def script(self):
        return module_of(Path(__file__).parents[1] / "benchmarks" / "vllm_server.py")

    def test_a_server_that_is_right(self, script, stand_in, tiny_model, capsys):
        arguments = [str(tiny_model), "--server", stand_in.url, "--max-tokens", "4"]
        assert script.main(arguments) == 0
        assert "draws from the weights it is sent" in capsys.readouterr().out

    def test_a_server_that_keeps_its_weights(self, script, stand_in, tiny_model, monkeypatch):
        monkeypatch.setattr(stand_in, "load", lambda folder: None)
        monkeypatch.setattr(script, "WRONG", 0.01)  # a model of two layers says little
        arguments = [str(tiny_model), "--server", stand_in.url, "--max-tokens", "4"]
        assert script.main(arguments) == 1


NONSENSE = {
    "few": "2 choices, not the 3",
    "twice": "each once",
    "no choices": "without choices",
    "list": "without choices",
    "no logprobs": "log-probability for each",
    "short logprobs": "log-probability for each",
    "nan": "log-probabilities that are none",
    "null": "log-probabilities that are none",
    "positive": "log-probabilities that are none",
    "vocabulary": "vocabulary",
    "negative": "vocabulary",
    "text": "vocabulary",
    "no ids": "token_ids",
    "empty": "token_ids",
    "long": "of at most 8",
    "abort": "'abort'",
    "stop without end": "an end that is missing",
    "other prompt": "another prompt",
    "half": "no JSON",
    "page": "no JSON.*Bad Gateway",
    "cut off": "no answer",
    "drop": "no answer",
}


class TestAServerThatMisbehaves:
    @pytest.mark.parametrize("how", NONSENSE)
    def test_once_is_asked_again(self, policy, backend, stand_in, how):
        prompts, finished = prompts_of(policy), []
        stand_in.misbehave(how)
        drawn = backend(policy, prompts, 3, HOW, seeded(), lambda n, c: finished.append(n))
        assert stand_in.spoil == []
        assert_whole(policy, drawn, finished)
        assert largest_error(policy, prompts, 3, drawn) < 1e-5

    @pytest.mark.parametrize("how", NONSENSE)
    def test_always_is_one_error_and_no_completion(self, policy, backend, stand_in, how):
        stand_in.misbehave(how, times=100)
        finished = []
        backend.patience_s = 0.03  # for one more
        with pytest.raises(RolloutError, match=f"2 times.*{NONSENSE[how]}") as failed:
            backend(policy, prompts_of(policy), 3, HOW, seeded(), lambda n, c: finished.append(n))
        assert finished == []
        assert stand_in.url in str(failed.value)

    @pytest.mark.parametrize("code", [500, 503, 429])
    def test_an_overloaded_server_is_asked_again(self, policy, backend, stand_in, code):
        stand_in.misbehave("status", times=2, code=code)
        assert len(backend(policy, prompts_of(policy), 2, HOW, seeded())) == 8

    def test_a_request_it_refuses_is_not_repeated(self, policy, backend, stand_in):
        stand_in.misbehave("status", times=100, code=400)
        with pytest.raises(RolloutError, match="400: .*out of memory"):
            backend(policy, [policy.encode("1+1=")], 2, HOW, seeded())
        assert len(stand_in.spoil) == 99

    def test_one_too_slow_is_given_up(self, policy, backend, stand_in):
        stand_in.misbehave("hang", times=100, seconds=3)
        backend.timeout_s, backend.patience_s = 0.3, 0.0
        with pytest.raises(RolloutError, match=r"no answer .* in 0.3 s \(rollout.timeout_s\)"):
            backend(policy, prompts_of(policy), 2, HOW, seeded())

    def test_nobody_listens(self, policy, backend):
        backend.url, backend.patience_s = "http://127.0.0.1:9", 0.03
        with pytest.raises(RolloutError, match="http://127.0.0.1:9 failed 2 times: .*Connect"):
            backend.sync(policy)

    def test_groups_that_came_are_whole_when_another_fails(self, policy, backend, stand_in):
        stand_in.misbehave("few", times=100)
        backend.patience_s = 0.03
        stand_in.spoil[:0] = [{"how": "hang", "seconds": 0}] * 3  # three are answered
        finished = []
        with pytest.raises(RolloutError):
            backend(policy, prompts_of(policy), 3, HOW, seeded(), lambda n, c: finished.append(n))
        groups = {n // 3 for n in finished}
        assert len(finished) == 3 * len(groups) and len(groups) <= 3

    def test_one_that_was_restarted_gets_the_weights_again(self, policy, backend, stand_in):
        prompts = prompts_of(policy)
        backend.sync(changed(policy))
        stand_in.misbehave("restart")
        drawn = backend(policy, prompts, 3, HOW, seeded())
        assert len(stand_in.loaded) == 3
        again = backend(policy, prompts, 3, HOW, seeded())
        assert largest_error(policy, prompts, 3, again) < 1e-5
        assert len(drawn) == 12 and len(stand_in.loaded) == 3

    def test_weights_that_it_cannot_read(self, policy, backend, stand_in):
        stand_in.misbehave("status", times=100, code=500, path="/collective_rpc")
        backend.patience_s = 0.03
        with pytest.raises(RolloutError, match="/collective_rpc gave 500"):
            backend.sync(policy)

    def test_one_that_is_not_in_development_mode(self, policy, backend, stand_in):
        stand_in.misbehave("status", code=404, path="/collective_rpc")
        with pytest.raises(RolloutError, match="VLLM_SERVER_DEV_MODE=1"):
            backend.sync(policy)

    def test_the_terminal_is_told_once(self, policy, backend, stand_in):
        told = []
        backend.say = told.append
        stand_in.misbehave("status", times=3, code=500)
        backend(policy, prompts_of(policy), 2, HOW, seeded())
        assert len(told) == 1 and "trying again" in told[0]


@pytest.fixture
def train(project, monkeypatch):
    """Run `grpo train` here; returns the run's folder."""
    monkeypatch.chdir(project)

    def run(*overrides, resume=False):
        out = project / "runs" / "run"
        command.train(project / "grpo.yaml", [f"train.output_dir={out}", *overrides], resume=resume)
        return out

    return run


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class TestTraining:
    def test_with_continuous_batching(self, train):
        found = lines(train("rollout.backend=continuous", "eval=null", "train.steps=2"))
        assert [line["step"] for line in found] == [1, 2]
        assert max(line["sampling/sampling_logp_difference/max"] for line in found) < 1e-5
        assert found[0]["entropy"] is None

    def test_with_a_server(self, train, stand_in):
        run = train("rollout.backend=vllm", f"rollout.server={stand_in.url}")
        found = lines(run)
        assert [line["step"] for line in found] == [1, 2, 3, 4]
        assert max(line["sampling/sampling_logp_difference/max"] for line in found) < 1e-5
        assert len(stand_in.loaded) == 1 + 4
        assert all(line["time/sync"] > 0 for line in found)
        summary = json.loads((run / "summary.json").read_text())
        assert summary["after"]["n"] == 6

    def test_a_server_draws_with_adapters(self, train, stand_in):
        pytest.importorskip("peft")
        found = lines(
            train(
                "rollout.backend=vllm", f"rollout.server={stand_in.url}", "eval=null",
                "model.lora.rank=4", "train.learning_rate=0.05", "grpo.beta=0.1", "train.steps=3",
            )
        )  # fmt: skip
        assert found[-1]["kl"] > 1e-4  # they do something
        assert max(line["sampling/sampling_logp_difference/max"] for line in found) < 1e-4

    def test_a_server_that_fails_stops_the_run_with_its_checkpoints_intact(
        self, train, stand_in, capsys
    ):
        """And when it is well again, the run goes on."""
        fails = {"how": "status", "code": 500, "path": "/collective_rpc"}
        passes = {"how": "hang", "seconds": 0, "path": "/collective_rpc"}
        stand_in.spoil = [passes] * 3 + [fails] * 100  # before step 1, after it, after step 2
        backend = ("rollout.backend=vllm", f"rollout.server={stand_in.url}")
        settings = (*backend, "eval=null", "train.save_every=1", "rollout.patience_s=0.1")
        with pytest.raises(typer.Exit) as stopped:
            train(*settings)
        assert stopped.value.exit_code == 1
        told = " ".join(capsys.readouterr().err.split())
        assert f"stopped: the vLLM server at {stand_in.url} failed" in told
        stand_in.spoil.clear()
        run = train(*settings, resume=True)
        assert "resuming from" in capsys.readouterr().err
        assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
        assert len(list((run / "checkpoints").glob("step-*"))) == 3

    @pytest.mark.slow
    def test_a_server_that_dies_stops_the_run_with_its_checkpoint_intact(
        self, train, project, tiny_model, stand_in, capsys
    ):
        """And with another server it goes on. The first is a process, killed."""
        first = project / "runs" / "run" / "checkpoints" / "step-000001"
        process = subprocess.Popen(
            [sys.executable, str(STAND_IN), str(tiny_model)], stdout=subprocess.PIPE, text=True
        )
        url = process.stdout.readline().strip()

        def kill_after_a_step():
            while not first.is_dir():
                time.sleep(0.01)
            process.kill()

        killer = threading.Thread(target=kill_after_a_step, daemon=True)
        killer.start()
        settings = ("rollout.backend=vllm", "eval=null", "train.save_every=1", "train.keep=100")
        with pytest.raises(typer.Exit) as stopped:
            train(*settings, f"rollout.server={url}", "train.steps=10000", "rollout.patience_s=0.6")
        killer.join()
        process.wait()
        assert stopped.value.exit_code == 1
        assert f"the vLLM server at {url} failed" in " ".join(capsys.readouterr().err.split())
        done = len(list(first.parent.glob("step-*")))
        another = f"rollout.server={stand_in.url}"
        run = train(*settings, another, f"train.steps={done + 1}", resume=True)
        assert [line["step"] for line in lines(run)] == list(range(1, done + 2))
        assert len(stand_in.loaded) == 2


class TestConfig:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["rollout.backend=vllm"], "rollout.server: vllm needs it"),
            (["rollout.backend=vllm", "rollout.server=localhost:8000"], "rollout.server"),
            (["rollout.server=http://localhost:8000"], "rollout.backend: vllm alone"),
            (["rollout.backend=continuous", "rollout.top_p=0.9"], "rollout.top_p"),
            (["rollout.backend=continuous", "rollout.top_k=5"], "rollout.top_k"),
            (["rollout.backend=continuous", "rollout.min_p=0.1"], "rollout.min_p"),
            (["rollout.backend=continuous", "grpo.top_entropy=0.2"], "tells none"),
            (["rollout.correction.floor=3"], "above the cap"),
            (["rollout.correction.how=clip"], "truncate"),
            (["rollout.backend=sglang"], "sglang"),
        ],
    )
    def test_what_does_not_fit_is_refused_before_anything_is_loaded(
        self, project, overrides, message
    ):
        with pytest.raises(ConfigError) as refused:
            command.prepare(project / "grpo.yaml", overrides)
        assert message in str(refused.value)
