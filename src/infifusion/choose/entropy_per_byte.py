"""The answer of the least uncertain source: lowest entropy per byte of its own answer."""

from __future__ import annotations

from collections.abc import Sequence

from infifusion.choose.candidates import Candidate, Choice, Judges, surest
from infifusion.strict import Strict
from infifusion.types import Prompt


class Params(Strict):
    """`entropy_per_byte` has no parameters; write_responses.max_entropy sets a threshold."""


def entropy_per_byte(
    prompt: Prompt, candidates: Sequence[Candidate], params: Params, judges: Judges
) -> Choice:
    """argmin_s of H_s / bytes_s, the first one on ties.

    H_s = sum over the positions of source s's answer of its full-vocabulary entropy (nats), the
    end of the turn apart; bytes_s = the answer's length in UTF-8. Per byte, not per token: a finer
    tokenizer spreads the same uncertainty over more positions. Ours. A source that is sure where
    it is wrong wins wrongly; `agreement` and `unit_tests` look at more.
    """
    return Choice(surest(candidates, range(len(candidates))), "", (None,) * len(candidates))
