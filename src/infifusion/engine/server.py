"""One server: a request there, its answer back, and what an answer means that is none.

Three kinds of failure. `NotThere`: nobody answers, or the server says that it cannot now; another
server may, or the same one later. `Broke`: the server failed on this one request; it is asked again
a few times. Everything else is an error whose sentence says what to do.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from infifusion.errors import CheckpointError, InfiFusionError, RecipeError, RunError

if TYPE_CHECKING:
    import aiohttp

CONNECT = 20.0
"""Seconds for a connection to be made."""
LATER = {408, 425, 429, 502, 503, 504}
"""Statuses that say: not now."""
LONGEST_SAID = 400  # characters of a server's own words in a message
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0


class NotThere(Exception):
    """Nobody answers, or not now."""


class Broke(Exception):
    """The server failed on this request."""


class Server:
    """The address of a server and how it does; used from the event loop alone."""

    def __init__(self, url: str, key: str | None, patience: float) -> None:
        self.url, self._key, self._patience = url, key, patience
        self.under_way = 0
        self.not_before = 0.0
        self.known = False
        """Whether what it serves has been looked at since it was last away."""
        self._gone, self._pause = False, FIRST_PAUSE
        self._session: aiohttp.ClientSession | None = None

    @property
    def root(self) -> str:
        """Its address without /v1: vLLM's own paths, such as /tokenize, lie there."""
        return self.url.removesuffix("/v1")

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """What it answers: GET without a body, else POST.

        Raises NotThere, Broke, or an error for the user. Redirects are not followed: the key goes
        to the address of the recipe alone.
        """
        import aiohttp

        if self._session is None:
            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT, sock_read=self._patience
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=limits,
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            )
        try:
            async with self._session.request(
                "GET" if body is None else "POST", path, json=body, allow_redirects=False
            ) as reply:
                status, content = reply.status, await reply.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise NotThere(str(error) or type(error).__name__) from error
        if status == 200:
            return content
        raise self._refused(status, content)

    def away(self) -> bool:
        """It did not answer: it is left in peace for a while, longer each time. Returns whether
        that is news."""
        now = time.monotonic()
        if now >= self.not_before:  # many requests notice at once
            self.not_before = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self.known, news = False, not self._gone
        self._gone = True
        return news

    def answered(self) -> None:
        """It did."""
        self._pause, self.not_before, self._gone = FIRST_PAUSE, 0.0, False

    async def close(self) -> None:
        """Drop its connections."""
        if self._session is not None:
            await self._session.close()

    def _refused(self, status: int, content: bytes) -> Exception:
        said = said_by(content)
        if status in LATER:
            return NotThere(f"status {status}: {said}")
        if status >= 500:
            return Broke(f"status {status}: {said}")
        return refusal(self.url, status, said)


def refusal(url: str, status: int, said: str) -> InfiFusionError:
    """The sentence for a status that will be the same next time."""
    if status in (401, 403):
        return RecipeError(
            f"The server at {url} does not accept the key (status {status}). Put its key into an "
            "environment variable, and name that as engine.api_key_from."
        )
    if 300 <= status < 400:
        return RecipeError(
            f"{url} leads elsewhere (status {status}). Give the server's own address."
        )
    if status == 404:
        return RecipeError(
            f"The server at {url} does not know what it is asked for (status 404: {said}). "
            "Expected vLLM's OpenAI-compatible API, whose address ends in /v1, and the name of a "
            "model that it serves (engine.serves)."
        )
    if "max_logprobs" in said or "prompt logprobs of" in said:
        return RecipeError(
            f"The server at {url} gives fewer entries than are asked for: {said}. Start it with "
            "--max-logprobs 20 (or what engine.logprobs says)."
        )
    if "maximum context length" in said or "input tokens" in said or "longer than" in said:
        return RecipeError(
            f"The server at {url} takes no text as long as this: {said}. Start it with a larger "
            "--max-model-len, or lower data.max_length; it needs room for one token more."
        )
    if "out of vocabulary" in said:
        return CheckpointError(
            f"The server at {url} does not know a token: {said}. Its model is not the one whose "
            "tokenizer lies here."
        )
    return RunError(
        f"The server at {url} refuses a request (status {status}: {said}). Expected vLLM's "
        "completions with prompt_logprobs; tried with vLLM 0.32."
    )


def said_by(content: bytes) -> str:
    """A server's own words about an error, in one line."""
    try:
        value = json.loads(content)
        inner = value.get("error", value) if isinstance(value, dict) else value
        text = (
            inner.get("message", inner.get("detail", inner)) if isinstance(inner, dict) else inner
        )
    except ValueError:
        text = content.decode(errors="replace")
    words = " ".join(str(text).split())
    return words if len(words) <= LONGEST_SAID else f"{words[:LONGEST_SAID]} ..."
