"""Drawing from a vLLM server: completions over its OpenAI-compatible HTTP, weights over a folder.

The server is started by hand, in development mode, which alone has the routes that change
weights (docs/rollouts.md):

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs

After each update the weights are written as safetensors into a folder that the server sees,
and it reads them into the running model (vLLM's `reload_weights` with `weights_path`,
docs.vllm.ai/en/latest/training/layerwise). Nothing of vLLM is imported. Left out: weights
over NCCL or CUDA IPC, several servers, adapters served as adapters (they are merged),
and top-k, top-p and min-p (`config` refuses them: log-probabilities would be of what they
leave over).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import torch
from torch import Tensor

from grpo_core.disk import when_there_is_space
from grpo_core.errors import RolloutError
from grpo_core.policy import Policy
from grpo_core.rollout.sampler import Completion, OnFinished, Sampling

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between attempts, doubling from one to the other."""
NEUTRAL = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Said in every request: what is not said, vLLM takes from the model's generation_config."""


class _Trouble(Exception):
    """An answer that is none; `again` if the same request may yet have one."""

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class Server:
    """A backend (see `grpo_core.rollout`): call it as `sampler.draw`, `sync` before that.

    `folder` must be at the same path on the server's machine. A request may take
    `timeout_s`; one that fails is repeated, with pauses that double, for `patience_s` from
    its first failure. Then, and at once where repeating cannot help, RolloutError.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        timeout_s: float = 300.0,
        patience_s: float = 120.0,
        say: Callable[[str], None] = print,
    ) -> None:
        self.url, self.folder, self.say = url.rstrip("/"), folder, say
        self.timeout_s, self.patience_s = timeout_s, patience_s
        self.version = 0
        """Counts the weights; 0: none were sent yet."""
        self.stale = False
        """Whether the server may have been restarted, and then has the weights it began with."""
        self.loading: asyncio.Lock  # of one event loop, as all of a call's requests
        self.told = False

    # --- the interface -----------------------------------------------------------------

    def sync(self, policy: Policy, *, main: bool = True) -> None:
        """Let the server draw from these weights. Of several processes all must call it,
        and all but one with `main` false: they only note the version.

        The folder of the weights before is removed.
        """
        self.version += 1
        if not main:
            return
        folder = self._weights(self.version)

        def write() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                save_weights(policy, folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

        self.folder.mkdir(parents=True, exist_ok=True)
        when_there_is_space(write, folder, self.say)
        self._run(self._load)
        for old in self.folder.glob("weights-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        generator: torch.Generator,
        on_finished: OnFinished = lambda n, completion: None,
    ) -> list[Completion]:
        """As `sampler.draw`: one request a prompt, `sampling.batch_size` completions at a time.

        A prompt's completions are whole when all of them are. `entropies` are empty: a
        server does not tell them. Each request has a seed of its own; vLLM promises the
        same completions for the same seed only where its arithmetic does not depend on
        what else is in its batch, which is seldom.
        """
        if not self.version:
            raise RolloutError("the server has not been given any weights: call sync first")
        seeds = torch.randint(2**31, (len(prompts),), generator=generator, device=generator.device)
        vocabulary = policy.model.get_input_embeddings().num_embeddings
        drawn: dict[int, Completion] = {}

        async def all_of_them(client: httpx2.AsyncClient) -> None:
            if sampling.temperature != 1 and not sampling.greedy:
                await self._patiently(client, self._check_logprobs)
            model = await self._patiently(client, _served_model)
            room = asyncio.Semaphore(max(1, sampling.batch_size // group_size))

            async def one(group: int, prompt: list[int], seed: int) -> tuple[int, list[Completion]]:
                # vLLM refuses several greedy completions of a prompt: they are all the same
                several = 1 if sampling.greedy else group_size
                request = {
                    "model": model,
                    "prompt": prompt,
                    "n": several,
                    "max_tokens": sampling.max_tokens,
                    "temperature": 0.0 if sampling.greedy else sampling.temperature,
                    **NEUTRAL,
                    "seed": seed,
                    "stop_token_ids": policy.eos_ids,
                    "logprobs": 0,  # of the drawn token alone
                    "return_token_ids": True,
                }

                async def attempt(client: httpx2.AsyncClient) -> list[Completion]:
                    answer = await _post(client, "/v1/completions", request)
                    return read_answer(answer, request, vocabulary)

                async with room:
                    found = await self._patiently(client, attempt)
                return group, found * (group_size // several)

            tasks = [
                asyncio.create_task(one(group, list(prompt), seed))
                for group, (prompt, seed) in enumerate(zip(prompts, seeds.tolist(), strict=True))
            ]
            try:
                for task in asyncio.as_completed(tasks):
                    group, completions = await task
                    for n, completion in enumerate(completions, group * group_size):
                        drawn[n] = completion
                        on_finished(n, completion)
            finally:
                for each in tasks:
                    each.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        self._run(all_of_them)
        return [drawn[n] for n in range(len(drawn))]

    # --- talking to the server -----------------------------------------------------------

    def _run(self, work: Callable[[httpx2.AsyncClient], Coroutine[Any, Any, None]]) -> None:
        async def with_client() -> None:
            self.loading = asyncio.Lock()
            self.told = False
            async with httpx2.AsyncClient(
                base_url=self.url,
                timeout=httpx2.Timeout(self.timeout_s),
                limits=httpx2.Limits(max_connections=None),
            ) as client:
                await work(client)

        asyncio.run(with_client())

    async def _load(self, client: httpx2.AsyncClient) -> None:
        await self._patiently(client, self._reload, fresh=False)
        self.stale = False

    async def _reload(self, client: httpx2.AsyncClient) -> None:
        weights = str(self._weights(self.version))
        call = {"method": "reload_weights", "kwargs": {"weights_path": weights}}
        await _post(client, "/collective_rpc", call | {"timeout": self.timeout_s})
        await _post(client, "/reset_prefix_cache", {})  # it holds what the old weights made

    async def _check_logprobs(self, client: httpx2.AsyncClient) -> None:
        """At another temperature than 1 vLLM's default log-probabilities are not of what
        was drawn from."""
        info = await _get(client, "/server_info?config_format=json")
        mode = info
        for key in ("vllm_config", "model_config", "logprobs_mode"):
            mode = mode.get(key) if isinstance(mode, dict) else None
        if mode is not None and "processed_logprobs" not in str(mode):
            raise _Trouble(
                f"it gives {mode}, without the temperature: start it with "
                "--logprobs-mode processed_logprobs",
                again=False,
            )

    async def _patiently(
        self,
        client: httpx2.AsyncClient,
        attempt: Callable[[httpx2.AsyncClient], Coroutine[Any, Any, T]],
        *,
        fresh: bool = True,
    ) -> T:
        """What `attempt` gives, made again while it fails and patience lasts.

        With `fresh`, weights are sent again first if the connection was lost since.
        """
        failed_at: float | None = None
        for count in itertools.count(1):
            try:
                if fresh:
                    async with self.loading:
                        if self.stale:
                            await self._reload(client)
                            self.stale = False
                return await attempt(client)
            except _Trouble as trouble:
                failed_at = failed_at or time.monotonic()
                pause = min(FIRST_PAUSE_S * 2 ** (count - 1), LONGEST_PAUSE_S)
                left = failed_at + self.patience_s - time.monotonic()
                if not trouble.again or pause > left:
                    tries = f" {count} times" if count > 1 else ""
                    raise RolloutError(
                        f"the vLLM server at {self.url} failed{tries}: {trouble}"
                    ) from None
                if isinstance(trouble, _Lost):
                    self.stale = True
                if not self.told:
                    self.told = True
                    self.say(f"the vLLM server at {self.url}: {trouble}; trying again")
                await asyncio.sleep(pause)
        raise AssertionError  # itertools.count does not end

    def _weights(self, version: int) -> Path:
        return self.folder.resolve() / f"weights-{version}"


class _Lost(_Trouble):
    """Nobody answered: the server may come back as another process."""


async def _get(client: httpx2.AsyncClient, path: str) -> Any:
    return await _answer(client, client.build_request("GET", path))


async def _post(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    return await _answer(client, client.build_request("POST", path, json=body))


async def _answer(client: httpx2.AsyncClient, request: httpx2.Request) -> Any:
    """The JSON of an answer (None of an empty one). Raises _Trouble when there is none."""
    path = request.url.path
    limit = client.timeout.read
    try:
        async with asyncio.timeout(limit):  # of the whole; httpx's is of the next byte
            response = await client.send(request)
    except (TimeoutError, httpx2.TimeoutException):
        text = f"no answer to {path} in {limit:g} s (rollout.timeout_s)"
        raise _Trouble(text) from None
    except httpx2.TransportError as error:
        raise _Lost(f"no answer to {path} ({type(error).__name__}: {error})") from None
    except httpx2.DecodingError as error:
        raise _Trouble(f"its answer to {path} cannot be decoded: {error}") from None
    if response.status_code == 404:
        hint = "" if path.startswith("/v1") else "; start it with VLLM_SERVER_DEV_MODE=1"
        raise _Trouble(f"it has no {path} (404: {_short(response.text)}){hint}", again=False)
    if response.status_code != 200:
        again = response.status_code >= 500 or response.status_code in (408, 429)
        text = f"{path} gave {response.status_code}: {_short(response.text)}"
        raise _Trouble(text, again=again)
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        raise _Trouble(f"its answer to {path} is no JSON: {_short(response.text)}") from None


async def _served_model(client: httpx2.AsyncClient) -> str:
    match await _get(client, "/v1/models"):
        case {"data": [{"id": str(name)}, *_]}:
            return name
        case other:
            raise _Trouble(f"/v1/models names no model: {_short(str(other))}")


def read_answer(answer: Any, request: dict[str, Any], vocabulary: int) -> list[Completion]:
    """The completions in an answer of /v1/completions, in the order of their index.

    Everything that learning relies on is checked; what does not fit raises, so that a
    group is either what was asked for or none.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _Trouble(f"an answer without choices: {_short(str(answer))}")
    if sorted(str(choice.get("index")) for choice in choices) != sorted(
        map(str, range(request["n"]))
    ):
        raise _Trouble(f"{len(choices)} choices, not the {request['n']} asked for, each once")
    return [
        _read_choice(choice, request, vocabulary)
        for choice in sorted(choices, key=lambda choice: int(choice["index"]))
    ]


def _read_choice(choice: dict[str, Any], request: dict[str, Any], vocabulary: int) -> Completion:
    ids, reason = choice.get("token_ids"), choice.get("finish_reason")
    read = choice.get("prompt_token_ids")
    logprobs = choice.get("logprobs")
    logps = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(ids, list) or not ids:
        raise _Trouble("a choice without token_ids: this vLLM does not know return_token_ids")
    if not all(type(token) is int and 0 <= token < vocabulary for token in ids):
        raise _Trouble(f"token ids outside of the model's vocabulary of {vocabulary}")
    if not isinstance(logps, list) or len(logps) != len(ids):
        raise _Trouble("a choice without a log-probability for each of its tokens")
    if not all(
        type(logp) in (float, int) and math.isfinite(logp) and logp < 0.01 for logp in logps
    ):
        raise _Trouble("log-probabilities that are none (not finite, or above 0)")
    if read is not None and read != request["prompt"]:
        raise _Trouble("a choice of another prompt than the one asked for")
    eos_ids, limit = request["stop_token_ids"], request["max_tokens"]
    if reason not in ("stop", "length") or len(ids) > limit:
        raise _Trouble(f"{len(ids)} tokens of at most {limit} that ended by {reason!r}")
    if any(token in eos_ids for token in ids[:-1]) or (reason == "stop") != (ids[-1] in eos_ids):
        raise _Trouble("tokens behind the end of a completion, or an end that is missing")
    return Completion(ids, [float(logp) for logp in logps], [], reason == "length")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:200] + " …"


# --- weights -----------------------------------------------------------------------------


def save_weights(policy: Policy, folder: Path) -> None:
    """The policy's weights as safetensors under the names the plain model has; low-rank
    adapters are added to the weights they adapt, on the way, not in the model."""
    if not hasattr(policy.model, "get_base_model"):
        policy.save(folder)
        return
    if hasattr(policy, "weights"):  # of `distributed.sharding`
        raise RolloutError(
            "low-rank adapters of a model that is spread over processes cannot be sent to a "
            "server; train them with DDP"
        )
    model = policy.model.get_base_model()
    weights: dict[str, Tensor] = {
        name.replace(".base_layer.", "."): value
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "get_delta_weight"):
                for adapter in module.active_adapters:
                    key = f"{name}.weight"
                    weights[key] = weights[key] + module.get_delta_weight(adapter)
    model.save_pretrained(folder, state_dict=weights)
