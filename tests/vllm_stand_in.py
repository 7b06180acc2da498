"""A process that speaks vLLM's HTTP and draws with the built-in sampler, from weights of its own.

    python tests/vllm_stand_in.py MODEL [--port 8000]

The routes and fields that `grpo_core.rollout.vllm` uses, answered as vLLM does in development
mode; requests that wait are drawn together. `POST /misbehave {"how": …, "times": n}` spoils the
next n answers (see `Spoiled`). Left out: everything else of vLLM, and its arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from grpo_core.policy import Policy, load_model, load_policy
from grpo_core.rollout import Completion, Sampling, draw

REQUIRED = {
    "model", "prompt", "n", "max_tokens", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "stop_token_ids",
    "logprobs", "return_token_ids",
}  # fmt: skip
"""Of a request: what is left out, vLLM takes from defaults that are not those of training."""


def choice_of(index: int, completion: Completion, prompt: list[int]) -> dict[str, Any]:
    return {
        "index": index,
        "text": "",
        "finish_reason": "length" if completion.truncated else "stop",
        "token_ids": completion.ids,
        "prompt_token_ids": prompt,
        "logprobs": {
            "tokens": [f"token_id:{token}" for token in completion.ids],
            "token_logprobs": completion.logps,
        },
    }


class StandIn:
    """The server, on a thread of this process; `with StandIn(model) as server: server.url`."""

    def __init__(self, model: Path | str, port: int = 0, *, processed: bool = True) -> None:
        self.model, self.processed = str(model), processed
        self.policy = self.first = load_policy(self.model, Path())
        self.loaded: list[str] = []
        """Folders of weights, in the order in which they were loaded."""
        self.asked: list[dict[str, Any]] = []
        """Bodies of /v1/completions."""
        self.spoil: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.waiting: queue.Queue[tuple[dict[str, Any], queue.Queue[Any]] | None] = queue.Queue()
        handler = type("Bound", (Handler,), {"stand_in": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # clients that do not wait are no news
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        threading.Thread(target=self.draw_waiting, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.put(None)
        self.http.shutdown()
        self.http.server_close()

    def misbehave(self, how: str, times: int = 1, **details: Any) -> None:
        self.spoil += [{"how": how, **details}] * times

    def load(self, folder: str) -> None:
        with self.lock:
            self.policy = Policy(load_model(folder, Path()), self.policy.tokenizer)
            self.loaded.append(folder)

    def restart(self) -> None:
        """As after a crash: the weights are those that the server began with."""
        with self.lock:
            self.policy = self.first

    def draw_waiting(self) -> None:
        """Draw for all requests that wait with the same settings, in one batch."""
        while (first := self.waiting.get()) is not None:
            time.sleep(0.02)  # they come together
            batch, rest = [first], []
            while not self.waiting.empty():
                following = self.waiting.get()
                if following is None:
                    return
                (batch if self.same(first[0], following[0]) else rest).append(following)
            for each in rest:
                self.waiting.put(each)
            request = first[0]
            how = Sampling(
                request["max_tokens"],
                request["temperature"] or 1.0,
                greedy=request["temperature"] == 0,
            )
            generator = torch.Generator().manual_seed(request["seed"])
            with self.lock:
                drawn = draw(
                    self.policy, [body["prompt"] for body, _ in batch], request["n"], how, generator
                )
            for number, (_, answer) in enumerate(batch):
                answer.put(drawn[number * request["n"] : (number + 1) * request["n"]])

    @staticmethod
    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return all(one[key] == other[key] for key in ("n", "max_tokens", "temperature"))


def spoil_choices(how: str, choices: list[dict[str, Any]]) -> None:
    """Make an answer that is whole, and wrong."""
    first = choices[0]
    match how:
        case "few":
            choices.pop()
        case "twice":
            choices[-1]["index"] = 0
        case "no logprobs":
            first["logprobs"] = None
        case "short logprobs":
            first["logprobs"]["token_logprobs"] = first["logprobs"]["token_logprobs"][1:]
        case "nan":
            first["logprobs"]["token_logprobs"][0] = float("nan")
        case "null":
            first["logprobs"]["token_logprobs"][0] = None
        case "positive":
            first["logprobs"]["token_logprobs"][0] = 3.0
        case "vocabulary":
            first["token_ids"][0] = 10**6
        case "negative":
            first["token_ids"][0] = -1
        case "text":
            first["token_ids"] = ["token_id:5"] * len(first["token_ids"])
        case "no ids":
            first["token_ids"] = None
        case "empty":
            first["token_ids"] = []
        case "long":
            first["token_ids"] = first["token_ids"] * 100
            first["logprobs"]["token_logprobs"] = first["logprobs"]["token_logprobs"] * 100
        case "abort":
            first["finish_reason"] = "abort"
        case "stop without end":
            first["finish_reason"] = "stop"
            first["token_ids"][-1] = 7
        case "other prompt":
            first["prompt_token_ids"] = [1, 2, 3]
        case _:
            raise ValueError(how)


class Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/health":
                self.answer(200, b"")
            case "/v1/models":
                self.json({"object": "list", "data": [{"id": self.stand_in.model}]})
            case "/server_info":
                mode = "processed_logprobs" if self.stand_in.processed else "raw_logprobs"
                self.json({"vllm_config": {"model_config": {"logprobs_mode": mode}}})
            case _:
                self.json({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        routes: dict[str, Callable[[dict[str, Any]], None]] = {
            "/v1/completions": self.complete,
            "/collective_rpc": self.reload,
            "/reset_prefix_cache": lambda body: self.answer(200, b""),
            "/misbehave": self.misbehave,
        }
        route = routes.get(self.path)
        if route is None:
            self.json({"detail": "Not Found"}, 404)
        elif self.path == "/misbehave" or not self.spoiled(body):
            route(body)

    def misbehave(self, body: dict[str, Any]) -> None:
        self.stand_in.misbehave(**body)
        self.answer(200, b"")

    def reload(self, body: dict[str, Any]) -> None:
        if body["method"] != "reload_weights":
            return self.json({"error": f"no method {body['method']}"}, 500)
        folder = body["kwargs"]["weights_path"]
        if not Path(folder).is_dir():
            return self.json({"error": f"no such folder: {folder}"}, 500)
        self.stand_in.load(folder)
        self.json({"results": [None]})

    def complete(self, body: dict[str, Any], how: str | None = None) -> None:
        missing = REQUIRED - set(body)
        if missing or body["model"] != self.stand_in.model:
            return self.json({"error": {"message": f"missing: {missing}"}}, 400)
        if body["temperature"] == 0 and body["n"] > 1:
            return self.json({"error": {"message": "n must be 1 when using greedy sampling"}}, 400)
        self.stand_in.asked.append(body)
        drawn: queue.Queue[list[Completion]] = queue.Queue()
        self.stand_in.waiting.put((body, drawn))
        choices = [choice_of(i, c, body["prompt"]) for i, c in enumerate(drawn.get())]
        if how is not None:
            spoil_choices(how, choices)
        choices.reverse()  # their order means nothing
        self.json({"id": "cmpl-1", "object": "text_completion", "choices": choices})

    def spoiled(self, body: dict[str, Any]) -> bool:
        """Spoil this answer, if one is to be spoilt; whether it was answered."""
        wanted = [s for s in self.stand_in.spoil if s.get("path", "/v1/completions") == self.path]
        if not wanted:
            return False
        spoil = wanted[0]
        self.stand_in.spoil.remove(spoil)
        match spoil["how"]:
            case "status":
                self.json({"error": {"message": "out of memory"}}, spoil["code"])
            case "hang":
                time.sleep(spoil["seconds"])
                return False
            case "drop" | "restart" as how:
                if how == "restart":
                    self.stand_in.restart()
                self.close_connection = True
                self.connection.close()
            case "die":
                os._exit(1)
            case "half":
                self.answer(200, b'{"choices": [{"index": 0, "tok')
            case "cut off":  # the connection ends before the answer does
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
            case "page":
                self.answer(200, b"<html>502 Bad Gateway</html>")
            case "list":
                self.json([1, 2])
            case "no choices":
                self.json({"choices": None})
            case how:
                self.complete(body, how)
        return True

    def json(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode())

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with StandIn(options.model, options.port) as server:
        print(server.url, flush=True)
        threading.Event().wait()
