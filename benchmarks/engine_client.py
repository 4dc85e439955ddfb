"""What the client of an engine does in a second, and its memory; the server answers at once.

    .venv/bin/python benchmarks/engine_client.py [--positions 1000000] [--json FILE]

A process of its own answers every request with the same prepared bytes: texts of 512 tokens with
20 entries a token, in the form of vLLM 0.32. Counted are positions by the client's own CPU time
(one core), and the peak of resident memory over that before. Prints a table; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import socketserver
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np

from infifusion.engine.beliefs import believed
from infifusion.engine.client import Client
from infifusion.engine.engine import Remote
from infifusion.engine.probe import Served
from infifusion.types import Rendered

VOCABULARY, TOKENS, ENTRIES, SHARD = 150_000, 512, 20, 512


def prepared() -> tuple[list[int], bytes]:
    """A text and the answer about it."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, TOKENS).tolist()
    rows: list[dict | None] = [None]
    for token in ids[1:]:
        logits = np.sort(rng.normal(scale=3, size=ENTRIES))[::-1]
        values = logits - np.log(np.exp(logits).sum() * 1.2)
        others = rng.choice(VOCABULARY, ENTRIES, replace=False).tolist()
        row = {str(token): {"logprob": -12.345678901, "rank": 1234, "decoded_token": " word"}}
        for rank, (one, value) in enumerate(zip(others, values, strict=True), 1):
            if one != token:
                row[str(one)] = {
                    "logprob": float(value), "rank": rank, "decoded_token": " word",
                }  # fmt: skip
        rows.append(row)
    choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": rows}
    return ids, json.dumps({"choices": [choice]}).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers at once."""

    protocol_version = "HTTP/1.1"
    content = b""

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        """The prepared bytes."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)


class Server(socketserver.ThreadingTCPServer):
    """With room for many connections."""

    allow_reuse_address, daemon_threads, request_queue_size = True, True, 256


def serve(content: bytes, port) -> None:  # type: ignore[no-untyped-def]
    Handler.content = content
    with Server(("127.0.0.1", 0), Handler) as server:
        port.send(server.server_address[1])
        server.serve_forever()


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--positions", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    ids, content = prepared()
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(content, theirs), daemon=True)
    process.start()
    client = Client([f"http://127.0.0.1:{mine.recv()}/v1"], key=None, in_flight=64, patience=30)
    examples = given.positions // (TOKENS - 1)
    data = Rendered(
        ids_L=np.tile(np.asarray(ids, np.int32), examples),
        offset_N1=np.arange(examples + 1, dtype=np.int64) * TOKENS,
        first_N=np.ones(examples, np.int32),
        start_R=np.zeros(examples * (TOKENS - 1), np.int32),
        row_N1=np.arange(examples + 1, dtype=np.int64) * (TOKENS - 1),
    )
    remote = Remote(client, Served("m", None, "0.32.0", ENTRIES, ()), VOCABULARY)
    names = [str(n) for n in range(examples)]
    ranges = [(n, min(n + SHARD, examples)) for n in range(0, examples, SHARD)]
    list(believed(remote, data, [(0, 1)], top_k=10, names=names))  # tables, first connections
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    found = sum(
        len(beliefs.gold_U)
        for _, beliefs, _ in believed(remote, data, ranges, top_k=10, names=names)
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {
        "positions": found,
        "per_second_of_cpu": round(found / cpu),
        "per_second": round(found / wall),
        "peak_bytes": peak() - before,
        "bytes_of_an_answer": len(content),
    }
    client.close()
    process.kill()
    for key, value in result.items():
        print(f"{key:20} {value:>14,}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
