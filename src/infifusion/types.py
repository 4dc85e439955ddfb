"""What stages hand to one another.

Names of arrays end in their axes: N examples, B batch, T pivot positions (of all examples of a
chunk, end to end), U source positions (likewise), S sources, K kept entries of a distribution, R
rows that a loss is taken over; docs/notation.md has all letters and words.
A *position* is named by the token it predicts: the row of a response token holds what a model
believed just before that token. The last row of an example predicts the end of the turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


class Message(TypedDict):
    """One turn of a conversation, by the names that chat templates read.

    reasoning_content: what an assistant thought before it answered. tool_calls: the functions that
    it calls, as [{"type": "function", "function": {"name": str, "arguments": dict}, "id": str}].
    tool_call_id, name: of a tool's result, which call it answers and which function it is of.
    """

    role: str
    content: str
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


@dataclass(frozen=True)
class Example:
    """One training conversation: what is asked, and the response that is learnt.

    written_by:   the source that wrote the response; None where the data gave it.
    confirmed_by: the source whose kept answer is the response that the data gave; None otherwise.
    tools:  JSON schemas of the functions that may be called, as chat templates take them.
    answer: the assistant's turn, where it is more than a text: it calls functions, or its reasoning
            is kept apart. Each model's template writes such a turn in its own way; `response` is
            then its common form (data.turns.written), whose bytes positions are counted in.
    place:  where the data has it (file, line, number), for errors; not kept on disk.
    data_set: which entry of data.train it comes from; kept apart from it.
    """

    id: str
    domain: str
    prompt: tuple[Message, ...]
    response: str
    written_by: str | None = None
    confirmed_by: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    answer: Message | None = None
    place: str = field(default="", compare=False)
    data_set: int | None = field(default=None, compare=False)

    @property
    def called(self) -> str:
        """Its id, and where the data has it."""
        return f"{self.id} ({self.place})" if self.place else self.id


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for its answer.

    part:  which entry of write_responses.prompts it comes from.
    tests: Python that raises unless an answer is right; None where there is none.
    code:  Python that an answer continues; None where an answer stands alone.
    """

    id: str
    domain: str
    messages: tuple[Message, ...]
    part: int
    tests: str | None
    code: str | None


@dataclass(frozen=True)
class Written:
    """What one source answered to one prompt.

    prompt:   the prompt's id.
    sample:   0, 1, ... where a source answers several times.
    tokens:   how many the source generated, the end of its turn apart.
    finished: whether it ended its turn by itself.
    entropy:  nats per byte: its full-vocabulary entropy, summed over the positions of the answer
              (the end of the turn apart), over the answer's UTF-8 bytes. None where there is a
              fault.
    fault:    why the answer cannot be used at all: `empty` (nothing but blanks), `no_room` (it or
              its prompt does not fit the source's window), `unreadable` (the source's own tokenizer
              or chat template cannot give it back), or None.
    """

    prompt: str
    sample: int
    response: str
    tokens: int
    finished: bool
    entropy: float | None
    fault: str | None


@dataclass(frozen=True)
class Rendered:
    """Every example as one tokenizer sees it, flat, end to end.

    ids_L:      int32, token ids of all examples, L tokens in all.
    offset_N1:  int64, example n owns ids_L[offset_N1[n] : offset_N1[n + 1]].
    first_N:    int32, index inside the example of the first token that the model writes by itself.
                The row of that token is predicted from the token before it; the last token of the
                example is the one at which generation stops.
    start_R:    int32, per token that the model writes (rows of all examples, end to end): the byte
                of the response at which it starts. Negative for what stands before the response
                (a blank, the name of a channel: the lead). The tokens that end the turn start at
                the length of the response in bytes.
    row_N1:     int64, example n owns start_R[row_N1[n] : row_N1[n + 1]].
    private_R:  bool, tokens of text that this model's template alone writes (the marks around the
                call of a function): learnt, and aligned with no other model's. None where there are
                no such tokens.
    """

    ids_L: NDArray[np.int32]
    offset_N1: NDArray[np.int64]
    first_N: NDArray[np.int32]
    start_R: NDArray[np.int32]
    row_N1: NDArray[np.int64]
    private_R: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.first_N)


def lengths(start_R: NDArray[np.int32], row_N1: NDArray[np.int64]) -> NDArray[np.int32]:
    """Bytes of the response that each row belongs to: [R]."""
    rows_N = np.diff(row_N1)
    return np.repeat(start_R[row_N1[1:][rows_N > 0] - 1], rows_N[rows_N > 0])


def in_response(start_R: NDArray[np.int32], row_N1: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows of the response itself, without its lead and the end of the turn: [R]. A token that
    begins in the lead and reaches into the response is one of them."""
    end_R = np.append(start_R[1:], 0)  # of the last row of an example meaningless, and not needed
    return (end_R > 0) & (start_R < lengths(start_R, row_N1))


@dataclass(frozen=True)
class Beliefs:
    """What one source believed at each of its U response positions, flat over examples.

    ids_UK:      int32, its K most probable token ids, most probable first.
    logprob_UK:  float16 (as it is cached) or float32, their log-probabilities (nats).
    gold_U:      float32, log-probability of the token that is there.
    entropy_U:   float32, entropy over the full vocabulary (nats).
    lse_U:       float32, log-sum-exp of the logits.
    mean_U, std_U: float32, mean and population standard deviation of the logits over the full
                 vocabulary.
    """

    ids_UK: NDArray[np.int32]
    logprob_UK: NDArray[np.float16] | NDArray[np.float32]
    gold_U: NDArray[np.float32]
    entropy_U: NDArray[np.float32]
    lse_U: NDArray[np.float32]
    mean_U: NDArray[np.float32]
    std_U: NDArray[np.float32]


@dataclass(frozen=True)
class Aligned:
    """S sources' beliefs at the T positions of the pivot, in the pivot's vocabulary.

    ids_STK:     int32, pivot ids; -1 in unused places. An id stands at most once in a row.
    prob_STK:    float32, their probabilities; 0 in unused places. With tail_ST each aligned row
                 sums to 1.
    tail_ST:     float32, the probability of everything else.
    aligned_ST:  bool, whether the source has a position that is aligned with this one.
    entropy_ST:  float32, the source's own full-vocabulary entropy (nats), before alignment.
    top_ST:      float32, the source's own largest probability, before alignment.
    zscore_STK:  float32, the source's K largest logits, standardised over its full vocabulary,
                 descending: (logit - mean) / std. None where no loss reads them.
    bits_SN:     float32, bits per byte of the source on the response of each example.
    evidence:    forgetting -> float32 [S, T], the sum of the source's gold log-probabilities
                 (nats) over its tokens that end at or before the position's byte, each discounted
                 by forgetting^(age in bytes).
    example_T:   int64, which example a position belongs to.
    """

    ids_STK: NDArray[np.int32]
    prob_STK: NDArray[np.float32]
    tail_ST: NDArray[np.float32]
    aligned_ST: NDArray[np.bool_]
    entropy_ST: NDArray[np.float32]
    top_ST: NDArray[np.float32]
    zscore_STK: NDArray[np.float32] | None
    bits_SN: NDArray[np.float32]
    evidence: Callable[[float], NDArray[np.float32]]
    example_T: NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """What the pivot is to believe at its T positions.

    ids_TK:     int32, pivot ids; -1 in unused places, which come last.
    prob_TK:    float32, their probabilities, descending; the rest to 1 is the tail.
    weight_ST:  float32, what each source contributed; columns sum to 1, or to 0 where no source
                teaches: those positions train on the gold token alone.
    zscore_TK:  float32, the sources' standardised top logits, mixed with the same weights. None
                where no loss reads them.
    """

    ids_TK: NDArray[np.int32]
    prob_TK: NDArray[np.float32]
    weight_ST: NDArray[np.float32]
    zscore_TK: NDArray[np.float32] | None

    @cached_property
    def taught_T(self) -> NDArray[np.bool_]:
        """bool, where any source teaches; made once."""
        return self.weight_ST.sum(axis=0) > 0


@dataclass(frozen=True)
class SparseTarget:
    """The rows of a target that a loss is taken over: what R positions of a batch are to believe.

    ids_RK:     int64, -1 in unused places. K = 0 where a run trains on the gold tokens alone.
    prob_RK:    float32, probabilities of those ids; what is missing to 1 is the tail.
    zscore_RK:  float32, standardised top logits of the sources, descending; None unless the loss
                reads them.
    gold_R:     int64, the token that is there.
    taught_R:   bool, whether any source teaches there; None where a loss is called by itself.
    domain_R:   int64, the number of the example's domain; None where nothing is told by domain.
    normalised: the logits that come with this target are log-probabilities already, as the trainer
                hands them out; at temperature 1 no loss need go over the vocabulary again.

    The rest is there where a batch holds text that the pivot wrote itself:
    own_R:      bool, positions of such text; their gold token, the pivot's own, is not learnt.
    scale_R:    float32, what each position counts for; None where all count the same.
    advantage_R, before_R: float32, of the policy gradient (losses/policy_gradient.py): how much
                likelier the sources find the token than the pivot did, and the log-probability that
                the pivot gave it when it wrote it.
    """

    ids_RK: torch.Tensor
    prob_RK: torch.Tensor
    zscore_RK: torch.Tensor | None
    gold_R: torch.Tensor
    taught_R: torch.Tensor | None = None
    domain_R: torch.Tensor | None = None
    normalised: bool = False
    own_R: torch.Tensor | None = None
    scale_R: torch.Tensor | None = None
    advantage_R: torch.Tensor | None = None
    before_R: torch.Tensor | None = None

    def part(self, rows: slice) -> SparseTarget:
        """Some of the rows."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "normalised"}
        return replace(
            self, **{name: None if t is None else t[rows] for name, t in tensors.items()}
        )
