"""What each stage has to do, in units that a device has a rate for.

FLOPs of matrix products are counted apart, by kind and width, since narrow products run slower on
a CPU. Everything else is counted in the units of the table UNITS; rates.Rates holds the seconds
that each takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from infifusion.estimate.costs.lengths import Batches, Lengths
from infifusion.estimate.costs.schedule import Schedule
from infifusion.estimate.costs.shapes import Shape

# Unit: (seconds of one core of this project's test machine, a 2.5 GHz AMD EPYC with torch 2.13, by
# `infifusion plan --calibrate`; what it is). 0.05 and 0.2 stand where that found nothing;
# merge_number is that of commands/merge_models.py, decode_logit two passes over memory.
UNITS: dict[str, tuple[float, str]] = {
    "start": (5.2, "once per process: the interpreter, and importing the stages"),
    "run": (0.075, "once per run: checks, waiting, the report"),
    "prepare": (0.0099, "once: reading, splitting and writing the examples"),
    "prepare_token": (1.3e-06, "a token rendered, tokenized, placed by bytes and written"),
    "tokenizer_entry": (6.6e-06, "a vocabulary entry of a tokenizer that is loaded"),
    "teach_first": (0.05, "once: what the first teacher pass imports"),
    "teach": (0.094, "once per pass: building the model, opening and closing files"),
    "forward_call": (0.0011, "a batch through a model, without gradient"),
    "forward_layer": (0.00049, "a layer called, without gradient: its operations' start-up"),
    "forward_element": (1.1e-09, "a number that elementwise operations write, without gradient"),
    "teach_logit": (9.7e-09, "a logit reduced: log-sum-exp, top K, moments, entropy"),
    "fuse": (0.015, "once per target"),
    "fuse_position": (2.4e-06, "a pivot position aligned with and mixed from one source"),
    "map_entry": (1.4e-06, "a source token that is looked for in the pivot's vocabulary"),
    "distill_first": (0.05, "once: what the first training run imports"),
    "distill": (0.45, "once per run: model, trainer and files"),
    "train_call": (0.002, "a micro-batch: collator, trainer loop, loss"),
    "train_layer": (0.0014, "a layer called forward and backward"),
    "train_element": (
        3.4e-09,
        "a number kept by a layer: written forward, read and written backward",
    ),
    "gold_logit": (2.5e-09, "a logit of the cross-entropy, forward and backward"),
    "loss_logit": (3.5e-09, "a logit of the distillation loss on top of it"),
    "parameter_step": (1.1e-09, "a trained parameter in one step: gradient, clipping, optimizer"),
    "merge": (0.2, "once per merge"),
    "merge_number": (4e-09, "a parameter of one merged model, read and combined"),
    "evaluate": (0.023, "once per model: bits per byte"),
    "tasks_first": (0.17, "once: what the first task imports"),
    "tasks": (0.16, "once per model with tasks"),
    "task_item": (0.0048, "an item judged"),
    "decode_call": (0.004, "a step of generation, whatever the batch"),
    "decode_layer": (0.00039, "a layer called in a generation step"),
    "decode_logit": (2e-09, "a logit of a generation step"),
    "decode_byte": (3e-11, "a byte of weights read in a generation step"),
    "load_byte": (1.0e-9, "a byte of weights read from disk into memory"),
    "write_byte": (1.0e-9, "a byte written to disk"),
    "hash_byte": (5.2e-10, "a byte hashed"),
}
# Done once however many processes share a stage.
PER_PROCESS = frozenset(
    {"start", "run", "prepare", "teach_first", "teach", "fuse", "distill_first", "distill", "merge"}
) | {"evaluate", "tasks_first", "tasks", "tokenizer_entry", "load_byte", "map_entry"}

HALF = "-half"
"""Ends the kind of a product in half precision."""
Kind = tuple[str, int]


@dataclass(frozen=True)
class Work:
    """FLOPs by (kind, width) and counts of UNITS. kind: forward, train or decode, or one of
    these in half precision."""

    flops: Mapping[Kind, float] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Work) -> Work:
        flops, units = Counter(self.flops), Counter(self.units)
        flops.update(other.flops)
        units.update(other.units)
        return Work(dict(flops), dict(units))

    @property
    def all_flops(self) -> float:
        """Of every kind together."""
        return sum(self.flops.values())

    def shared(self, processes: int) -> Work:
        """One process's part where the examples are spread over several."""
        return Work(
            {kind: count / processes for kind, count in self.flops.items()},
            {
                unit: count if unit in PER_PROCESS else count / processes
                for unit, count in self.units.items()
            },
        )

    def in_half(self) -> Work:
        """The same with products in half precision."""
        flops = {(kind.removesuffix(HALF) + HALF, w): n for (kind, w), n in self.flops.items()}
        return Work(flops, self.units)

    def times(self, count: float) -> Work:
        """The same, `count` times over."""
        return Work(
            {kind: count * value for kind, value in self.flops.items()},
            {unit: count * value for unit, value in self.units.items()},
        )


def forward_work(shape: Shape, lengths: Lengths, batches: Batches) -> Work:
    """A pass of a model over some examples: all tokens through the body, response rows through the
    head, their logits reduced."""
    flops = shape.body_flops(batches.tokens, batches.token_context)
    flops += shape.head_flops(lengths.positions)
    return Work(
        {("forward", shape.hidden): flops},
        {
            "forward_call": batches.calls,
            "forward_layer": batches.calls * shape.layers,
            "forward_element": batches.tokens * shape.layers * shape.elements,
            "teach_logit": lengths.positions * shape.vocabulary,
        },
    )


def teach_work(
    shape: Shape,
    lengths: Lengths,
    *,
    batch_tokens: int,
    shard_examples: int,
    load_bytes: float,
    cache_bytes: float,
) -> Work:
    """One teacher pass, its cache written, read again for the counts, and hashed."""
    batches = lengths.by_length(shard_examples, batch_tokens)
    fixed = {"teach": 1, "load_byte": load_bytes}
    files = {"write_byte": cache_bytes, "hash_byte": cache_bytes}
    return forward_work(shape, lengths, batches) + Work({}, {**fixed, **files})


def train_work(
    shape: Shape,
    lengths: Lengths,
    schedule: Schedule,
    *,
    devices: int,
    distils: bool,
    parameters: float,
    trainable: float,
    load_bytes: float,
    model_bytes: float,
    state_bytes: float,
) -> Work:
    """One device's part of a training run.

    FLOPs: backward is twice forward (gradients of inputs and of weights), or once with adapters
    alone (weights have none). Gradient checkpointing runs the body's forward once more.
    """
    micro = schedule.steps * schedule.accumulation
    batches = lengths.at_random(micro * schedule.batch, schedule.batch)
    share = micro * schedule.batch / max(lengths.examples, 1)
    rows = lengths.positions * share
    backward = 2.0 if trainable >= parameters else 1.0
    body = shape.body_flops(batches.tokens, batches.token_context)
    factor = 1 + backward + (1.0 if schedule.recompute else 0.0)
    flops = factor * body + (1 + backward) * shape.head_flops(rows)
    logits = rows * shape.vocabulary
    # A checkpoint is written by every save; what is trained is in it as float32.
    written = schedule.saves * state_bytes / devices + model_bytes
    return Work(
        {("train", shape.hidden): flops},
        {
            "distill": 1,
            "load_byte": load_bytes,
            "train_call": micro,
            "train_layer": micro * shape.layers,
            "train_element": batches.tokens
            * shape.layers
            * shape.elements
            * (1.4 if schedule.recompute else 1.0),
            "gold_logit": logits,
            "loss_logit": logits if distils else 0,
            "parameter_step": schedule.steps * trainable,
            "write_byte": written,
            "hash_byte": model_bytes,
        },
    )


def decode_work(
    shape: Shape, *, items: int, prompt: float, new: float, batch: int, weight_bytes: float
) -> Work:
    """Greedy answers to `items` prompts, `new` tokens each, `batch` at a time."""
    calls = -(-items // batch)
    steps = calls * new
    prefill = shape.body_flops(items * prompt, items * prompt**2) + shape.head_flops(items)
    context = prompt + new / 2
    one = shape.body_flops(1, context) + shape.head_flops(1)
    return Work(
        {("forward", shape.hidden): prefill, ("decode", shape.hidden): items * new * one},
        {
            "tasks": 1,
            "task_item": items,
            "forward_call": calls,
            "forward_layer": calls * shape.layers,
            "decode_layer": steps * shape.layers,
            "forward_element": items * (prompt + new) * shape.layers * shape.elements,
            "decode_call": steps,
            "decode_logit": items * new * shape.vocabulary,
            "decode_byte": steps * weight_bytes,
        },
    )
