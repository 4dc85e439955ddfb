"""A small server that answers as vLLM's does, and fails in every way that one can.

In a test: `with StandIn(brain, tokenizer, **faults) as server:`. As a command, with a bigram model
of seed 0: `python standin.py --model FOLDER --host HOST --port PORT`.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

Brain = Callable[[list[int]], np.ndarray]
"""Token ids to the log-probabilities of the next token behind each: [T, V]."""


def bigrams(vocabulary: int, seed: int = 0) -> Brain:
    """A model that looks at the last token alone."""
    logits_VV = np.random.default_rng(seed).normal(scale=3, size=(vocabulary, vocabulary))
    table_VV = logits_VV - np.log(np.exp(logits_VV).sum(axis=1, keepdims=True))
    return lambda ids: table_VV[ids]


class StandIn:
    """Faults, which can be changed while it runs:

    slow: seconds before each answer. die_after: scored texts after which connections are dropped
    (`alive` set to True brings it back; so does back_after, in seconds). broken: what is wrong with
    answers: nan, null, impossible, fewer, entries, status500, other_form, no_list, ungold, mass;
    short. noise: of log-probabilities. seen: prompts of all scoring requests.
    """

    def __init__(self, brain: Brain, tokenizer: Tokenizer, **faults: Any) -> None:
        self.brain, self.tokenizer = brain, tokenizer
        self.name, self.key, self.version = "the-model", None, "0.32.0"
        self.max_logprobs, self.max_model_len = 20, 4096
        self.slow, self.die_after, self.alive = 0.0, None, True
        self.back_after: float | None = None
        self.on_return: Callable[[], None] = lambda: None
        self.broken: set[str] = set()
        self.noise = 0.0
        self.seen: list[tuple[int, ...]] = []
        self.bodies: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.port = 0
        vars(self).update(faults)

    def __enter__(self) -> StandIn:
        outer = self

        class Handler(_Handler):
            standin = outer

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.alive = False
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def come_back(self) -> None:
        """As after a restart."""
        self.on_return()
        self.alive = True

    # What it says

    def models(self) -> dict[str, Any]:
        one = {"id": self.name, "root": self.name, "max_model_len": self.max_model_len}
        return {"object": "list", "data": [one]}

    def tokens(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self.tokenizer.encode(body["prompt"], add_special_tokens=False).ids
        return {"count": len(ids), "tokens": ids, "max_model_len": self.max_model_len}

    def completion(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        ids = list(body["prompt"])
        if body["model"] != self.name:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if len(ids) + 1 > self.max_model_len:
            return _error(
                400, f"This model's maximum context length is {self.max_model_len} tokens."
            )
        entries = body.get("prompt_logprobs")
        if entries is not None and entries > self.max_logprobs:
            said = f"Requested prompt logprobs of {entries}, which is greater than max allowed: "
            return _error(400, said + str(self.max_logprobs))
        if entries is None:
            return 200, self._written(ids, body)
        return 200, {"choices": [{"index": 0, **self._scored(ids, entries)}]}

    def _scored(self, ids: list[int], entries: int) -> dict[str, Any]:
        log_TV = self.brain(ids)
        if self.noise:
            log_TV = log_TV + np.random.default_rng().normal(scale=self.noise, size=log_TV.shape)
            log_TV -= np.log(np.exp(log_TV).sum(axis=1, keepdims=True))
        rows: list[Any] = [None]
        for t, token in enumerate(ids[1:]):
            order = np.argsort(-log_TV[t], kind="stable")[:entries].tolist()
            row = {}
            for rank, one in [(None, token), *enumerate(order, 1)]:
                value = float(log_TV[t, one])
                row[str(one)] = {"logprob": value, "rank": rank, "decoded_token": '"x": {'}
            rows.append(row)
        if "nan" in self.broken:
            next(iter(rows[-1].values()))["logprob"] = float("nan")
        if "null" in self.broken:
            next(iter(rows[-1].values()))["logprob"] = None
        if "impossible" in self.broken:
            next(iter(rows[-1].values()))["logprob"] = -9999.0
        if "fewer" in self.broken:
            rows = rows[:-1]
        if "entries" in self.broken and entries:
            rows[-1].popitem()
            rows[-1].popitem()
        if "other_form" in self.broken:
            rows[-1] = [1, 2]
        if "ungold" in self.broken:
            rows[-1] = {
                str(one + 1): value for one, value in ((int(k), v) for k, v in rows[-1].items())
            }
        if "mass" in self.broken:
            rows[-1] = {key: {**value, "logprob": 3.0} for key, value in rows[-1].items()}
        return {} if "no_list" in self.broken else {"prompt_logprobs": rows}

    def _written(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        written: list[int] = []
        rng = np.random.default_rng(body["seed"])
        why, stop = "length", None
        room = min(body["max_tokens"], self.max_model_len - len(ids))
        if "short" in self.broken:
            room = min(room, 1)
        while len(written) < room:
            log_V = self.brain(ids + written)[-1]
            if body["temperature"] > 0:
                prob_V = np.exp(log_V / body["temperature"])
                written.append(int(rng.choice(len(prob_V), p=prob_V / prob_V.sum())))
            else:
                written.append(int(log_V.argmax()))
            if written[-1] in body["stop_token_ids"]:
                why, stop = "stop", written[-1]
                break
            text = self.tokenizer.decode(written, skip_special_tokens=False)
            found = next((one for one in body["stop"] if one in text), None)
            if found is not None:
                why, stop = "stop", found
                break
        choice = {"index": 0, "token_ids": written, "finish_reason": why, "stop_reason": stop}
        return {"choices": [choice]}


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "code": status}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    standin: StandIn

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if self._gone() or self._locked():
            return
        if self.path.endswith("/models"):
            self._say(200, self.standin.models())
        elif self.path == "/version":
            self._say(200, {"version": self.standin.version})
        else:
            self._say(*_error(404, "Not Found"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._gone() or self._locked():
            return
        one = self.standin
        if self.path == "/tokenize":
            self._say(200, one.tokens(body))
            return
        with one.lock:
            one.at_once += 1
            one.most_at_once = max(one.most_at_once, one.at_once)
        try:
            time.sleep(one.slow)
            if "status500" in one.broken:
                self._say(*_error(500, "Out of range float values are not JSON compliant"))
                return
            status, value = one.completion(body)
        finally:
            with one.lock:
                one.at_once -= 1
        with one.lock:
            one.bodies.append(body)
            dies = one.die_after is not None and len(one.seen) >= one.die_after
            if dies:
                one.alive, one.die_after = False, None
                if one.back_after is not None:
                    threading.Timer(one.back_after, one.come_back).start()
            elif "prompt_logprobs" in body and status == 200:
                one.seen.append(tuple(body["prompt"]))
        if not self._gone():
            self._say(status, value)

    def _gone(self) -> bool:
        if self.standin.alive:
            return False
        self.close_connection = True
        return True

    def _locked(self) -> bool:
        self.standin.headers.append(dict(self.headers))
        key = self.standin.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._say(401, {"error": "Unauthorized"})
        return True

    def _say(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """A server of a bigram model, until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--pids", type=Path)
    parser.add_argument("--tensor-parallel-size")
    given = parser.parse_args()
    if given.pids:
        given.pids.write_text(str(os.getpid()))
    if given.die:
        raise SystemExit("RuntimeError: no GPU has room for the model")
    tokenizer = Tokenizer.from_file(str(Path(given.model) / "tokenizer.json"))
    config = json.loads((Path(given.model) / "config.json").read_text())
    brain = bigrams(config["vocab_size"])
    key = os.environ.get("VLLM_API_KEY")
    with StandIn(brain, tokenizer, port=given.port, name=given.model, key=key):
        threading.Event().wait()


if __name__ == "__main__":
    main()
