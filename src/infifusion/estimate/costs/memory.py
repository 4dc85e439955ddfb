"""Peak memory of each stage, per process.

On an accelerator: bytes of its own memory. On a CPU: anonymous memory and weights, without the
pages of files that are merely mapped (the cache, the targets), which the system can take back.
Units: bytes. Counted from teacher/forward.py, train/chunked.py and train/run.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from infifusion.estimate.costs.disk import cache_row
from infifusion.estimate.costs.lengths import Lengths
from infifusion.estimate.costs.schedule import Schedule
from infifusion.estimate.costs.shapes import Shape

# Copies of a float32 [rows, V] chunk that exist at once: (on an accelerator, on a CPU).
# On an accelerator by the code. teach: the head's output times its scale, and one more inside
# log-sum-exp or for the entropy. gold: logits, log-softmax, its gradient. loss: the log-softmax of
# both terms, and two gradients on the way back.
# On a CPU glibc's heap, which keeps what is freed (runtime.keep_freed_memory), does not find all of
# it again: measured by growing chunks of V = 32,000 of a model with nothing else (docs/log.md).
TEACH_COPIES = (3, 2)
GOLD_COPIES = (3, 9)
LOSS_COPIES = (5, 8)
# Gradients of a [V, D] matrix on the way to its sum: of one chunk, or of a tied embedding.
HEAD_GRADIENTS = 1
# A Python integer in a list: eight bytes of pointer, 28 of object, padded to 32.
LISTED = 40
# Numbers alive at once in a layer without gradient: the residual, q, k, v, and the feed-forward
# part's two or three wide arrays.
FORWARD_ALIVE_HIDDEN, FORWARD_ALIVE_INNER = 6, 3
# Examples that are fused at once (stages/fuse.py), and bytes alive per position, source and kept
# entry: ids, probabilities and standardised logits, and the sorted copies and keys of two of them.
FUSE_CHUNK, FUSE_ENTRY = 128, 100
LOGIT_BYTES = 128 << 20  # teacher/forward.py
# A thread of a merge of three or four models (merge/engine/planner.py).
MERGE_THREAD = 15e6
# What a CUDA context and the libraries' workspaces take on an accelerator.
CONTEXT = 0.8e9


@dataclass(frozen=True)
class Place:
    """Where a stage runs. base: memory of a process before any model is loaded (bytes).
    width: bytes of a number in a pass: 4 in float32, 2 in half precision. on_cpu: data lies there
    too."""

    base: float
    width: float
    on_cpu: bool
    devices: int


def forward_memory(
    place: Place,
    shape: Shape,
    lengths: Lengths,
    *,
    parameters: float,
    batch_tokens: int,
    top_k: int,
    shard_examples: int,
    head_rows: int | None = None,
) -> float:
    """A pass without gradient that keeps a cache row per position of a shard. head_rows: positions
    that go through the head at once; None is what teacher/forward.py takes."""
    tokens = max(batch_tokens, lengths.longest)
    alive = FORWARD_ALIVE_HIDDEN * shape.hidden + FORWARD_ALIVE_INNER * shape.inner
    rows = min(head_rows or max(1, LOGIT_BYTES // (4 * shape.vocabulary)), tokens)
    logits = TEACH_COPIES[place.on_cpu] * 4 * rows * shape.vocabulary
    weights = place.width * parameters
    shard = min(shard_examples, lengths.examples) / max(lengths.examples, 1)
    row = cache_row(top_k, shape.vocabulary)
    kept = row * lengths.positions * shard if place.on_cpu else 0
    data = 4 * (lengths.tokens + lengths.positions) if place.on_cpu else 0
    return place.base + weights + place.width * tokens * alive + logits + kept + data


def train_memory(
    place: Place,
    shape: Shape,
    lengths: Lengths,
    schedule: Schedule,
    *,
    parameters: float,
    trainable: float,
    loss_rows: int,
    distils: bool,
    saved_width: float,
) -> float:
    """Float32 weights, gradients and optimizer state, what the layers keep, a chunk of logits.

    Peaks in the backward pass of the loss: nothing of the layers has been given back by then.
    Autocast keeps bfloat16 copies of the weights, and DDP a second copy of the gradients. At the
    end the weights are cast to the dtype of the checkpoint.
    """
    parts = place.devices if schedule.sharded else 1
    # Sharded weights are gathered layer by layer; two layers are whole at once.
    gathered = 8 * shape.matrices + 8 * shape.embedding if parts > 1 else 0
    held = (4 * parameters + (4 + schedule.state_bytes) * trainable) / parts + gathered
    if place.width < 4:
        held += 2 * parameters / parts
    if place.devices > 1 and parts == 1:
        held += 4 * trainable
    tokens = schedule.batch * lengths.longest
    kept = shape.elements + (shape.heads * shape.head_size)
    layers = 1 if schedule.recompute else shape.layers
    activations = place.width * tokens * (kept * layers + shape.hidden * shape.layers)
    rows = min(loss_rows, schedule.batch * lengths.rows_of_longest)
    copies = (LOSS_COPIES if distils else GOLD_COPIES)[place.on_cpu]
    logits = 4 * copies * rows * shape.vocabulary
    head = 4 * HEAD_GRADIENTS * shape.embedding if trainable >= parameters else 0
    data = 4 * (lengths.tokens + lengths.positions) if place.on_cpu else 0
    working = activations + logits + head
    saving = saved_width * parameters if saved_width < 4 else 0
    return place.base + held + max(working, saving) + data


def decode_memory(
    place: Place, shape: Shape, *, parameters: float, batch: int, prompt: float, new: float
) -> float:
    """Weights, the key-value cache of a batch, its prompts on their way through a layer; on a CPU
    in bfloat16 the layers a second time, in the processor's order (teacher/packed.py)."""
    alive = FORWARD_ALIVE_HIDDEN * shape.hidden + FORWARD_ALIVE_INNER * shape.inner
    cache = place.width * batch * (prompt + new) * shape.cache_per_token
    last = TEACH_COPIES[place.on_cpu] * 4 * batch * shape.vocabulary
    weights = place.width * parameters
    if place.on_cpu and place.width == 2:
        weights += 2 * (shape.layers * shape.plain + shape.embedding)
    return place.base + weights + cache + place.width * batch * prompt * alive + last


def prepare_memory(place: Place, lengths: list[Lengths]) -> float:
    """The examples of a split as every model's tokens, in Python lists, all at once."""
    return place.base + LISTED * sum(one.tokens + one.positions for one in lengths)


def fuse_memory(place: Place, lengths: list[Lengths], *, sources: int, top_k: int) -> float:
    """All renderings, and a chunk of examples at work; lengths: the pivot's last."""
    data = sum(4 * (one.tokens + one.positions) for one in lengths)
    pivot = lengths[-1]
    chunk = pivot.positions * min(1.0, FUSE_CHUNK / max(pivot.examples, 1))
    return place.base + data + FUSE_ENTRY * chunk * sources * top_k


def merge_memory(place: Place, threads: int) -> float:
    """Blocks at work; weights are mapped."""
    return place.base + threads * MERGE_THREAD
