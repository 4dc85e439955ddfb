"""A model in a server, ready to be asked: the one door to this folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from infifusion.engine.client import Call, Client
from infifusion.engine.parse import Scored, scored, written
from infifusion.engine.probe import Expected, Served, differences, look
from infifusion.engine.requests import scoring, writing
from infifusion.engine.server import Broke, NotThere, Server
from infifusion.engine.started import Started, started
from infifusion.errors import ArtifactError, CheckpointError, RecipeError
from infifusion.process.runtime import log
from infifusion.recipe import Model


@dataclass(frozen=True)
class Ask:
    """A text whose tokens from `first` on are asked about. number: for the caller; name: for
    errors."""

    number: int
    ids: Sequence[int]
    first: int
    name: str


@dataclass(frozen=True)
class Prompt:
    """A prompt that waits for at most `room` tokens. stops: texts that end the answer."""

    number: int
    ids: Sequence[int]
    room: int
    name: str
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()


class Remote:
    """A model in one server or several. `open_engine` makes it."""

    def __init__(self, client: Client, served: Served, vocabulary: int) -> None:
        self.served, self.vocabulary = served, vocabulary
        self._client = client

    @property
    def longest_prompt(self) -> int | None:
        """Most tokens of a prompt that leaves room for one more; None where the server says
        nothing of it."""
        return None if self.served.max_model_len is None else self.served.max_model_len - 1

    def scores(
        self, asked: Iterable[Ask], *, entries: int | None = None
    ) -> Iterator[tuple[Ask, Scored]]:
        """What it says of the tokens of each text, as the answers come. entries: at a position; as
        many as it gives where None."""
        kept = self.served.entries if entries is None else entries
        under_way: dict[int, Ask] = {}

        def calls() -> Iterator[Call]:
            for one in asked:
                under_way[one.number] = one
                body = scoring(self.served.serves, one.ids, kept)
                yield Call(one.number, body, len(one.ids), one.name)

        for number, content in self._client.answers(calls()):
            one = under_way.pop(number)
            ids = np.asarray(one.ids).tolist()
            yield (
                one,
                scored(
                    content,
                    ids,
                    one.first,
                    entries=kept,
                    vocabulary=self.vocabulary,
                    name=one.name,
                ),
            )

    def answers(
        self, prompts: Iterable[Prompt], *, ends: Sequence[int]
    ) -> Iterator[tuple[Prompt, list[int], bool]]:
        """(prompt, the tokens of its answer with the one that ended it, whether a stop did), as the
        answers come."""
        under_way: dict[int, Prompt] = {}

        def calls() -> Iterator[Call]:
            for one in prompts:
                under_way[one.number] = one
                body = writing(
                    self.served.serves,
                    one.ids,
                    room=one.room,
                    ends=ends,
                    stops=one.stops,
                    temperature=one.temperature,
                    top_p=one.top_p,
                    seed=one.seed,
                )
                yield Call(one.number, body, len(one.ids) + one.room, one.name)

        for number, content in self._client.answers(calls()):
            one = under_way.pop(number)
            text = written(content, room=one.room, ends=ends, name=one.name)
            yield one, text.ids, text.by_string


@contextlib.contextmanager
def open_engine(
    model: Model, expected: Expected, *, where: str, kept: Served | None = None
) -> Iterator[Remote]:
    """The model in its engine, looked at and ready; what was started is stopped at the end.

    where: the model's key in the recipe, for errors. kept: what served the part of the work that is
    done: ArtifactError where the engine serves something else now. Raises what `probe.look` does,
    and RunError where no server comes.
    """
    engine = model.engine
    assert engine is not None
    require_library()
    key = None
    if engine.api_key_from is not None:
        key = os.environ.get(engine.api_key_from)
        if not key:
            raise RecipeError(
                f"{where}.engine.api_key_from: the environment variable {engine.api_key_from} is "
                "not set. Put the server's key into it."
            )
    if kept is not None:
        expected = replace(expected, entries=kept.entries)
    with contextlib.ExitStack() as stack:
        process: Started | None = None
        urls = engine.urls
        if engine.command is not None:
            process = stack.enter_context(started(engine, model.model))
            urls, key = [process.url], process.key
        client = Client(
            urls,
            key=key,
            in_flight=engine.in_flight,
            patience=engine.patience,
            alive=(lambda: None) if process is None else process.require_alive,
        )
        stack.callback(client.close)
        name = engine.serves
        first, served = client.run(client.first(lambda server: look(server, name, expected)))
        if kept is not None and (differs := differences(kept, served)):
            raise ArtifactError(
                f"{where}: what is there so far was made with another engine: {differs}. Let the "
                "engine serve what it did, or run again with --redo to make it all anew."
            )
        first.known = True

        async def check(server: Server) -> None:
            wanted = replace(expected, entries=served.entries)
            found = await look(server, served.serves, wanted)
            if differs := differences(served, found):
                raise CheckpointError(
                    f"The server at {server.url} is not what {first.url} was: {differs}. What was "
                    "received is kept. Let it serve the same, and run again."
                )

        client.check = check
        client.run(_look_at_others(client, check))
        log.info("engine: %s serves %s (vLLM %s)", where, served.serves, served.version)
        yield Remote(client, served, expected.vocabulary)


async def _look_at_others(client: Client, check: Callable[[Server], Awaitable[None]]) -> None:
    for server in client.servers:
        if server.known:
            continue
        try:
            await check(server)
            server.known = True
        except (NotThere, Broke) as error:
            server.away()
            log.info("The server at %s is away (%s): the others go on.", server.url, error)


def require_library() -> None:
    """RecipeError where the HTTP library is missing."""
    if importlib.util.find_spec("aiohttp") is None:
        raise RecipeError(
            "engine: asking a server takes the package aiohttp, which is not installed. Run "
            "`pip install 'infifusion[vllm]'`."
        )
