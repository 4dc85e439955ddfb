"""What the plan repeats of the stages, which it may not import."""

from __future__ import annotations

from infifusion.estimate.costs import memory
from infifusion.estimate.costs import rows as estimate
from infifusion.stages import fuse, merge
from infifusion.teacher import bits, forward


def test_the_plans_constants_are_the_stages_own() -> None:
    assert memory.LOGIT_BYTES == forward.LOGIT_BYTES
    assert len(merge.TAU0_CANDIDATES) == estimate.TAU0_CANDIDATES
    assert memory.FUSE_CHUNK == fuse.CHUNK_EXAMPLES
    assert estimate.BITS_TOKENS == bits.BATCH_TOKENS
