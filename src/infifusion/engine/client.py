"""Many requests under way at several servers at once, answered one by one.

An event loop in a thread of its own talks to the servers; whoever asks gets answers as they come.
No more than `in_flight` requests a server, and no more than TOKENS_IN_FLIGHT tokens of text in all,
are asked and not yet taken: what waits in memory is bounded, however slow the one who asks is.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from infifusion.engine.server import Broke, NotThere, Server
from infifusion.errors import RunError
from infifusion.process.runtime import log

Result = TypeVar("Result")
TOKENS_IN_FLIGHT = 1 << 16
"""With 20 entries a token, 1.3 kB: 85 MB of answers."""
MOST_TRIES = 4
"""Of a request on which a server fails (status 500)."""
LOOK = 0.05  # seconds between looks for a free server


@dataclass(frozen=True)
class Call:
    """A request: number, for the one who asks; body, as the API has it; tokens of its text; name,
    for errors."""

    number: int
    body: dict[str, Any]
    tokens: int
    name: str


class Client:
    """The servers of one model. `check(server)` is called before a server is asked for the first
    time, and each time that it has been away: it may serve something else since."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        key: str | None,
        in_flight: int,
        patience: float,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """alive: raises where a server that we started has ended."""
        self.servers = [Server(url, key, patience) for url in urls]
        self.check: Callable[[Server], Awaitable[None]] | None = None
        self._in_flight, self._patience, self._alive = in_flight, patience, alive
        self._heard = time.monotonic()
        self._locks: dict[str, asyncio.Lock] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="infifusion-engine", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Drop all connections and end the thread."""
        if self._loop.is_closed():
            return
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something in the event loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def answers(self, calls: Iterable[Call]) -> Iterator[tuple[int, bytes]]:
        """Yield (number, answer) of every call, as they come. Calls are taken when there is room.

        Raises RunError where no server answers for `patience` seconds, or one fails on a request
        again and again; and what a server's refusal means (`server.refusal`).
        """
        calls = iter(calls)
        waiting: Call | None = next(calls, None)
        done: queue.SimpleQueue[Future[bytes]] = queue.SimpleQueue()
        running: dict[Future[bytes], Call] = {}
        tokens = 0
        self._heard = time.monotonic()
        try:
            while waiting is not None or running:
                while waiting is not None and (
                    not running
                    or (
                        len(running) < self._in_flight * len(self.servers)
                        and tokens + waiting.tokens <= TOKENS_IN_FLIGHT
                    )
                ):
                    future = asyncio.run_coroutine_threadsafe(self.answer(waiting), self._loop)
                    running[future] = waiting
                    tokens += waiting.tokens
                    future.add_done_callback(done.put)
                    waiting = next(calls, None)
                finished = done.get()
                call = running.pop(finished)
                tokens -= call.tokens
                yield call.number, finished.result()
        finally:
            for future in running:
                future.cancel()

    async def answer(self, call: Call) -> bytes:
        """One answer, from whichever server gives it."""
        tries = 0
        while True:
            server = self._free()
            if server is None:
                self._alive()
                await asyncio.sleep(LOOK)
                continue
            server.under_way += 1
            try:
                await self._look_at(server)
                content = await server.ask(f"{server.url}/completions", call.body)
            except NotThere as error:
                self._is_away(server, error)
                continue
            except Broke as error:
                server.answered()
                self._heard = time.monotonic()
                tries += 1
                if tries >= MOST_TRIES:
                    raise _broken(server, call.name, tries, error) from error
                await asyncio.sleep(LOOK * 4**tries)
                continue
            finally:
                server.under_way -= 1
            server.answered()
            self._heard = time.monotonic()
            return content

    async def first(
        self, work: Callable[[Server], Coroutine[Any, Any, Result]]
    ) -> tuple[Server, Result]:
        """Ask whichever server is there first, and wait until one is."""
        tries = 0
        while True:
            self._alive()
            if (server := self._free()) is not None:
                try:
                    return server, await work(server)
                except NotThere as error:
                    self._is_away(server, error)
                except Broke as error:
                    tries += 1
                    if tries >= MOST_TRIES:
                        raise _broken(server, "the text that tries it", tries, error) from error
            await asyncio.sleep(LOOK)

    def _is_away(self, server: Server, error: Exception) -> None:
        """Note it, say it once, and give up where nobody has been heard of for too long."""
        self._alive()
        if server.away():
            log.info("The server at %s is away (%s): waiting for it.", server.url, error)
        if time.monotonic() - self._heard > self._patience:
            urls = ", ".join(one.url for one in self.servers)
            raise RunError(
                f"No server has answered for {self._patience:.0f} seconds: {urls} ({error}). Start "
                "it, or mend engine.url, and run the same command again: what was received is kept "
                "and not asked for again. engine.patience is how long it is waited for."
            ) from error

    def _free(self) -> Server | None:
        """The least busy of those that are there and have room."""
        now = time.monotonic()
        able = [s for s in self.servers if s.not_before <= now and s.under_way < self._in_flight]
        return min(able, key=lambda s: s.under_way, default=None)

    async def _look_at(self, server: Server) -> None:
        if server.known or self.check is None:
            return
        async with self._locks.setdefault(server.url, asyncio.Lock()):
            if not server.known:
                await self.check(server)
                server.known = True

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for server in self.servers:
            await server.close()


def _broken(server: Server, name: str, tries: int, error: Broke) -> RunError:
    return RunError(
        f"The server at {server.url} fails on {name} each of {tries} times ({error}). Its own log "
        "says why; NaN in its logits is one reason (try --dtype bfloat16 or float32). What was "
        "received is kept."
    )
