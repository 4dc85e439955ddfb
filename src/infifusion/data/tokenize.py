"""Rendered conversations as token ids with byte positions, for one tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from infifusion.data.render import Conversation
from infifusion.data.tokenizers import encode, end_of_text, leading_ids
from infifusion.errors import TokenizerError
from infifusion.types import Rendered, in_response, lengths

# ids and text of one conversation -> byte at which each token starts, and the text's length.
ByteStarts = Callable[[list[int], str], NDArray[np.int64]]
NOTHING = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Tokenized:
    """One conversation's tokens, up to and including the one at which generation stops.

    ids: int32. first: index of the first token that the model has to write by itself. starts: for
    that token and all after it the byte of the response at which it starts: negative for what
    stands before the response (the lead, or a token that begins there and reaches into the
    response), the length of the response for every token of the end of the turn. straddles: a
    token covers both the last bytes of the prompt and the first of the response. control: the
    first token of the response that is a special one (an end of turn, a role), which text must not
    hold, or None. private: tokens, from `first` on, that this model's template alone writes
    (types.Rendered.private_R); None where there are none. unreasoned: the template leaves out the
    reasoning that the response begins with. Arrays, because all of a data set are in memory at
    once.
    """

    ids: NDArray[np.int32]
    first: int
    starts: NDArray[np.int32]
    straddles: bool
    control: int | None
    private: NDArray[np.bool_] | None = None
    unreasoned: bool = False


@dataclass(frozen=True)
class Ends:
    """Where a model's turn ends.

    stops: ids at which generation stops, by the model's generation config and its tokenizer.
    marks: ids of added tokens that stand for themselves in text, by which a template can mark the
    end of a turn.
    """

    stops: frozenset[int]
    marks: frozenset[int]

    def way(self, ids: Sequence[int]) -> list[int] | None:
        """Of the tokens behind a response those up to the first at which generation stops; else up
        to the first mark of the template. None where there is neither."""
        for wanted in (self.stops, self.marks):
            for place, token in enumerate(ids):
                if token in wanted:
                    return list(ids[: place + 1])
        return None


def ends_of(tokenizer: PreTrainedTokenizerBase, stops: Iterable[int] = ()) -> Ends:
    """The stops of the tokenizer, and `stops`, which the model's generation config has besides."""
    own = tokenizer.eos_token_id
    added = tokenizer.added_tokens_decoder.items()
    return Ends(
        stops=frozenset({*stops, *([own] if isinstance(own, int) else [])}),
        marks=frozenset(id for id, token in added if token.content.strip()),
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Conversation],
    byte_starts: ByteStarts,
    *,
    templated: bool,
    names: list[str],
    ends: Ends | None = None,
) -> list[Tokenized]:
    """Tokenize whole conversations and find the response tokens by their bytes.

    `byte_starts` (align.byte_spans) tiles the text. templated says that a chat template wrote the
    text: nothing is put before it, and its prompt has the tokens that are asked, those of
    `apply_chat_template`. The turn ends with the tokens behind the response up to the first at
    which generation stops (`Ends.way`), of the text itself or of one that goes on with a user's
    turn; where there is none, with the tokenizer's end of text. Raises TokenizerError naming the
    example whose text is not tiled.
    """
    before = [] if templated else leading_ids(tokenizer)
    ends = ends or ends_of(tokenizer)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    all_ids = encode(tokenizer, [one.text for one in conversations])
    asked = encode(tokenizer, [one.text[: one.asked] for one in conversations]) if templated else []
    done = []
    for number, (conversation, ids, name) in enumerate(
        zip(conversations, all_ids, names, strict=True)
    ):
        try:
            if templated and ids[: len(asked[number])] != asked[number]:
                ids = _joined(tokenizer, conversation, asked[number], byte_starts)
            starts = byte_starts(ids, conversation.text)
        except TokenizerError as error:
            raise TokenizerError(f"{tokenizer.name_or_path}, {name}: {error}") from None
        # The first token that is not asked, or reaches beyond it; the first behind the response.
        first = int(np.searchsorted(starts[:-1], conversation.prompt))
        if templated:
            first = len(asked[number])
        elif starts[first] > conversation.prompt:
            first -= 1
        last = int(np.searchsorted(starts[:-1], conversation.end))
        if last <= first or (not before and first <= 0):
            raise TokenizerError(
                f"{tokenizer.name_or_path}, {name}: "
                + ("the response has no token" if last <= first else "nothing precedes its answer")
                + ". Use a prompt or template that ends where a token ends, for instance in a new "
                "line."
            )
        way = ends.way(ids[last:])
        if way is None and conversation.next_turn:
            way = ends.way(encode(tokenizer, [conversation.next_turn])[0])
        if way is None:
            way = [end_of_text(tokenizer, tokenizer.name_or_path)]
        start, private = _in_response(conversation, starts[first : last + 1])
        if private is not None:
            private = np.append(private, [conversation.own_end] * len(way))
        begin = int(np.searchsorted(starts[:-1], conversation.start))
        done.append(
            Tokenized(
                ids=np.array([*before, *ids[:last], *way], dtype=np.int32),
                first=len(before) + first,
                starts=np.append(start, [conversation.length] * len(way)).astype(np.int32),
                straddles=int(starts[begin]) > conversation.start,
                control=_control(conversation, ids[begin:last], starts[begin:], special),
                private=private,
                unreasoned=conversation.unreasoned,
            )
        )
    return done


def _in_response(
    conversation: Conversation, start_R1: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """(the byte of the response at which each token starts, whether it is private), for the tokens
    that start at these bytes of the text; the last byte is where the last one ends.

    Where the model writes the response in its own way, a token that lies in a shared run starts
    where the run says; those between two runs are private, and are spread over the bytes of the
    response between them, in order.
    """
    start_R, end_R = start_R1[:-1], start_R1[1:]
    if conversation.shared is None:
        return start_R - (conversation.start - conversation.lead), None
    length = conversation.length
    edges = [
        (conversation.start, 0),
        *(
            edge
            for run in conversation.shared
            for edge in ((run.own, run.common), (run.own + run.size, run.common + run.size))
        ),
        (max(conversation.end, int(end_R[-1])), length),
    ]
    own, common = np.array(edges).T
    place_R = np.floor(np.interp(start_R, own, common)).astype(np.int64)
    # Where two edges meet at one byte of the text, a token starts at the latter.
    latter = dict(edges)
    place_R = np.array([latter.get(int(at), p) for at, p in zip(start_R, place_R, strict=True)])
    place_R = np.minimum(place_R, length - 1)
    shared_R = np.zeros(len(start_R), np.bool_)
    for run in conversation.shared:
        shared_R |= (start_R >= run.own) & (end_R <= run.own + run.size)
    early_R = start_R < conversation.start
    place_R = np.where(early_R, start_R - conversation.start, place_R)
    return place_R, ~shared_R & ~early_R


def _control(
    conversation: Conversation, ids: list[int], start_R: NDArray[np.int64], special: set[int]
) -> int | None:
    """The first special token in the response's own text; those that a template writes around a
    call are no part of it."""
    if special.isdisjoint(ids):
        return None
    runs = conversation.shared
    for token, start in zip(ids, start_R, strict=False):
        if token in special and (
            runs is None or any(run.own <= start < run.own + run.size for run in runs)
        ):
            return token
    return None


ANCHORS = ("", "\n", "a", ".")


def _joined(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    asked: list[int],
    byte_starts: ByteStarts,
) -> list[int]:
    """The tokens of the prompt as it is asked, and then those of what follows: where a token of the
    whole text would melt the two together, generation could not write it.

    What follows is tokenized behind some other text, since a tokenizer may treat the begin of a
    text in its own way. Raises TokenizerError where the bytes do not come out.
    """
    rest = conversation.text[conversation.asked :]
    for anchor in ANCHORS:
        ids = encode(tokenizer, [anchor + rest])[0]
        with contextlib.suppress(TokenizerError):
            starts = byte_starts(ids, anchor + rest).tolist()
            if len(anchor) in starts:
                joined = asked + ids[starts.index(len(anchor)) :]
                byte_starts(joined, conversation.text)
                return joined
    raise TokenizerError("the tokens of the prompt and those of the response do not join")


def as_rendered(tokenized: list[Tokenized]) -> Rendered:
    """Lay the examples end to end."""
    lengths = [len(one.ids) for one in tokenized]
    rows = [len(one.starts) for one in tokenized]
    private = None
    if any(one.private is not None and one.private.any() for one in tokenized):
        parts = (
            np.zeros(len(o.starts), bool) if o.private is None else o.private for o in tokenized
        )
        private = np.concatenate(list(parts))
    return Rendered(
        ids_L=np.concatenate([NOTHING, *(one.ids for one in tokenized)]),
        offset_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        first_N=np.asarray([one.first for one in tokenized], dtype=np.int32),
        start_R=np.concatenate([NOTHING, *(one.starts for one in tokenized)]),
        row_N1=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64),
        private_R=private,
    )


def take(rendered: Rendered, numbers: NDArray[np.int64]) -> Rendered:
    """These examples alone, in this order."""

    def gather(values: NDArray, bound_N1: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int64]]:
        parts = [values[bound_N1[n] : bound_N1[n + 1]] for n in numbers]
        bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return np.concatenate(parts), bounds

    ids_L, offset_N1 = gather(rendered.ids_L, rendered.offset_N1)
    start_R, row_N1 = gather(rendered.start_R, rendered.row_N1)
    private_R = rendered.private_R
    if private_R is not None:
        private_R, _ = gather(private_R, rendered.row_N1)
    return Rendered(ids_L, offset_N1, rendered.first_N[numbers], start_R, row_N1, private_R)


def end_of_turn(rendered: Rendered) -> tuple[int, ...]:
    """The tokens that end every response, the last of which stops generation: the longest way of
    all examples (a response whose last bytes melt into it has less). The ends of turns that call
    functions count where there is no other."""
    end_R = rendered.start_R == lengths(rendered.start_R, rendered.row_N1)
    ends_N = np.add.reduceat(end_R.astype(np.int64), rendered.row_N1[:-1])
    after_N = rendered.offset_N1[1:]
    own_N = np.zeros(len(after_N), np.bool_)
    if rendered.private_R is not None:
        own_N = rendered.private_R[rendered.row_N1[1:] - 1]
    ways = {
        tuple(rendered.ids_L[after - ends : after].tolist())
        for after, ends, own in zip(after_N, ends_N, own_N, strict=True)
        if not own or own_N.all()
    }
    return max(ways, key=lambda way: (len(way), way), default=())


def without_end(
    value_R: NDArray[np.float32], start_R: NDArray[np.int32], row_N1: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sums over each response alone, its lead and the end of the turn apart: [N]."""
    summed_R = np.where(in_response(start_R, row_N1), value_R, 0).astype(np.float64)
    return np.add.reduceat(summed_R, row_N1[:-1])


def gold_ids(rendered: Rendered) -> NDArray[np.int32]:
    """The token of each response row: [R]. A response is a run of ids, so that no index of all
    rows, twice as long as they are, has to be made."""
    begin_N = rendered.offset_N1[:-1] + rendered.first_N
    end_N = begin_N + np.diff(rendered.row_N1)
    runs = zip(begin_N.tolist(), end_N.tolist(), strict=True)
    return np.concatenate([NOTHING, *(rendered.ids_L[begin:end] for begin, end in runs)])
