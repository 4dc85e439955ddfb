"""Is it the model that the recipe means? Nothing is taken on trust.

A server is asked what it serves, for the tokens of some texts, and twice for the log-probabilities
of one: before anything is scored, of each address, and again whenever it has been away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from infifusion.engine.parse import scored
from infifusion.engine.requests import scoring
from infifusion.engine.server import Server
from infifusion.errors import CheckpointError, InfiFusionError, RecipeError, TokenizerError
from infifusion.process.runtime import log

TEXTS = (
    "The capital of France is Paris, and that of Japan is Tokyo.",
    "Hello  world\n\n x",
    "  two  blanks\tand a tab\r\n",
    "12345 + 67 = 12412; 3.14159, 1e-9, 0x7f, 1,000,000",
    "naïve café – Übergröße, señor, façade",
    "日本語のテキストと、中文文本。",
    "Привет, мир! Как дела?",
    "مرحبا بالعالم",
    "हिन्दी में एक वाक्य",
    "🙂🎉👩‍👩‍👧 emoji",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "for (int i = 0; i < n; ++i) { sum += x[i] * y[i]; }",
    "\\frac{1}{2} \\cdot \\boxed{42} $x^2 + y^2 = z^2$",
    '{"name": "value", "list": [1, 2, 3], "nested": {"a": null}}',
    "<b>bold</b> &amp; <!-- comment -->",
    "I'm you're they'll WE'VE don't",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "UPPER lower MiXeD snake_case camelCase kebab-case",
    "\u200bzero width\u00a0no-break\ufeff",
    "https://example.org/a/b?c=d#e user@example.org",
)
SAME = 0.1
"""Nats, on the mean of the differences of the log-probabilities of a text: batches and rounding to
bfloat16 make 0.01 to 0.03 of it."""
SHOWN = 40  # characters of a text in a message


@dataclass(frozen=True)
class Expected:
    """What a server is to be: entries in the model's head, its tokenizer (a text to ids, without
    special tokens of its own), its special tokens, tokens that its longest text has, entries that
    are asked for at a position and that are needed."""

    vocabulary: int
    encode: Callable[[str], list[int]]
    special: Sequence[str] = ()
    longest: int = 0
    entries: int = 20
    least: int = 1


@dataclass(frozen=True)
class Served:
    """What a server was found to be: the model's name there, most tokens of a text, its version,
    entries that it gives, the log-probabilities of the tokens of the first of the TEXTS."""

    serves: str
    max_model_len: int | None
    version: str
    entries: int
    log_probabilities: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """For a file beside what it made; without the server's address."""
        return {"kind": "vllm", **asdict(self), "log_probabilities": [*self.log_probabilities]}


async def look(server: Server, name: str | None, expected: Expected) -> Served:
    """What a server serves under this name (the only one where None).

    Raises RecipeError, TokenizerError or CheckpointError with what differs from what is expected;
    NotThere where it does not answer.
    """
    model = await _model(server, name)
    longest = model.get("max_model_len")
    served = Served(
        serves=str(model["id"]),
        max_model_len=longest if isinstance(longest, int) else None,
        version=await _version(server),
        entries=expected.entries,
        log_probabilities=(),
    )
    await _compare_tokens(server, served.serves, expected)
    if served.max_model_len is not None and expected.longest >= served.max_model_len:
        raise RecipeError(
            f"The server at {server.url} takes at most {served.max_model_len} tokens, one of them "
            f"to be written, and the longest text has {expected.longest}. Start it with "
            f"--max-model-len {expected.longest + 1}, or lower data.max_length."
        )
    first = await _entries(server, served, expected)
    served = replace(served, entries=first)
    twice = [await _log_probabilities(server, served, expected) for _ in range(2)]
    if (apart := _apart(*twice)) > SAME:
        raise CheckpointError(
            f"The server at {server.url} gives the same text other log-probabilities the second "
            f"time (by {apart:.2f} nats a token): it cannot be relied on."
        )
    return replace(served, log_probabilities=twice[0])


def differences(one: Served, other: Served) -> str | None:
    """What differs between two servers, or one server before and after, as words; None where they
    serve the same."""
    if one.serves != other.serves:
        return f"it serves {other.serves}, not {one.serves}"
    if one.entries != other.entries:
        return f"it gives {other.entries} entries at a position, not {one.entries}"
    apart = _apart(one.log_probabilities, other.log_probabilities)
    if apart > SAME:
        return (
            f"its log-probabilities of one text differ by {apart:.2f} nats a token: other weights"
        )
    return None


def served_from(values: dict[str, Any]) -> Served:
    """What `Served.as_json` gave."""
    kept = {key: values[key] for key in ("serves", "max_model_len", "version", "entries")}
    return Served(**kept, log_probabilities=tuple(values["log_probabilities"]))


async def _model(server: Server, name: str | None) -> dict[str, Any]:
    listed = _json(server, await server.ask(f"{server.url}/models"), "its list of models")
    models = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list) or not all(isinstance(m, dict) and "id" in m for m in models):
        raise _no_vllm(server, "its list of models")
    names = [str(model["id"]) for model in models]
    if name is None and len(models) == 1:
        return models[0]
    for model in models:
        if model["id"] == name:
            return model
    wanted = "one model" if name is None else name
    raise RecipeError(
        f"The server at {server.url} serves {', '.join(names) or 'nothing'}; expected {wanted}. "
        "Give the name of the one that is meant as engine.serves."
    )


async def _version(server: Server) -> str:
    try:
        found = _json(server, await server.ask(f"{server.root}/version"), "its version")
    except InfiFusionError:
        return "unknown"
    return str(found.get("version", "unknown")) if isinstance(found, dict) else "unknown"


async def _compare_tokens(server: Server, model: str, expected: Expected) -> None:
    for text in (*TEXTS, *expected.special):
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        answer = _json(server, await server.ask(f"{server.root}/tokenize", body), "its tokens")
        found = answer.get("tokens") if isinstance(answer, dict) else None
        own = expected.encode(text)
        if found != own:
            raise TokenizerError(
                f"The server at {server.url} has another tokenizer than the one here: of "
                f"{text[:SHOWN]!r} it makes {found}, not {own}. Let it serve the model whose "
                "folder `model` names, or give that model's tokenizer as `tokenizer`."
            )


async def _entries(server: Server, served: Served, expected: Expected) -> int:
    """How many entries it gives at a position: as many as are wanted, or as it allows."""
    body = scoring(served.serves, _probe_ids(expected), expected.entries)
    try:
        await server.ask(f"{server.url}/completions", body)
        return expected.entries
    except RecipeError as error:
        most = re.search(r"max allowed: (\d+)", str(error))
        if most is None:
            raise
    allowed = int(most[1])
    if allowed < expected.least:
        raise RecipeError(
            f"The server at {server.url} gives at most {allowed} entries at a position, and "
            f"{expected.least} are needed (teach.top_k). Start it with --max-logprobs "
            f"{expected.entries}, or lower teach.top_k."
        )
    log.info(
        "The server at %s gives at most %d entries at a position, not %d: entropies are estimated "
        "from fewer (--max-logprobs %d mends that).",
        *(server.url, allowed, expected.entries, expected.entries),
    )
    return allowed


async def _log_probabilities(
    server: Server, served: Served, expected: Expected
) -> tuple[float, ...]:
    ids = _probe_ids(expected)
    content = await server.ask(
        f"{server.url}/completions", scoring(served.serves, ids, served.entries)
    )
    found = scored(
        content,
        ids,
        1,
        entries=served.entries,
        vocabulary=expected.vocabulary,
        name="the text that tries it",
    )
    return tuple(round(float(value), 4) for value in found.gold_R)


def _probe_ids(expected: Expected) -> list[int]:
    return expected.encode(TEXTS[0])


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    if len(one) != len(other):
        return float("inf")
    return float(np.abs(np.subtract(one, other)).mean()) if one else 0.0


def _json(server: Server, content: bytes, what: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise _no_vllm(server, what) from None


def _no_vllm(server: Server, what: str) -> RecipeError:
    return RecipeError(
        f"The server at {server.url} does not give {what} as vLLM does (tried with 0.32). Expected "
        "the address of vLLM's OpenAI-compatible API, which ends in /v1."
    )
