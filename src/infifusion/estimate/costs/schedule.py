"""What a recipe's `training:` says about steps, saves and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infifusion.estimate.costs.shapes import Shape
from infifusion.recipe import Lora

# Where the recipe is silent: train.arguments.DEFAULTS (tests/plan compares them).
DEFAULTS = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "save_steps": 500,
    "warmup_steps": 0.03,
    "logging_steps": 10,
}

# Bytes of optimizer state per trained parameter; AdamW's two float32 moments where not named.
STATE_BYTES = {
    "sgd": 0.0,
    "adafactor": 0.1,  # a row and a column per matrix
    "adamw_8bit": 2.0,
    "adamw_bnb_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
}
ADAM_BYTES = 8.0

RECOMPUTED = ("gradient", "activation")
"""The two names that transformers has for the same setting."""
FEWEST_STEPS = 30
"""Below this a run hardly learns: 16 steps on 240 examples showed no effect on real models."""
MOST_WARMUP = 1 / 3
"""Of the steps: with more the learning rate is at its height for a moment, or never."""
GOOD_WARMUP = 0.1


@dataclass(frozen=True)
class Schedule:
    """Steps of one run on some devices.

    passes: how often the run goes through the training examples. saves: checkpoints written.
    recompute: gradient checkpointing. sharded: weights and states are split over the devices.
    """

    steps: int
    batch: int
    accumulation: int
    passes: float
    saves: int
    recompute: bool
    sharded: bool
    state_bytes: float


def schedule_of(
    training: Mapping[str, Any], *, examples: int, devices: int, sharded: bool = False
) -> Schedule:
    """As transformers.Trainer counts: every process takes `batch` examples per micro-batch."""
    values = {**DEFAULTS, **training}
    batch = int(values["per_device_train_batch_size"])
    accumulation = int(values.get("gradient_accumulation_steps", 1))
    per_step = batch * accumulation * devices
    limit = int(values.get("max_steps", -1))
    per_epoch = max(1, math.ceil(examples / per_step))
    steps = limit if limit > 0 else math.ceil(per_epoch * float(values["num_train_epochs"]))
    every, strategy = values["save_steps"], str(values.get("save_strategy", "steps"))
    saves = {"no": 0, "epoch": math.ceil(steps / per_epoch)}.get(
        strategy, math.ceil(steps / max(1, int(every))) if every >= 1 else math.ceil(1 / every)
    )
    return Schedule(
        steps=steps,
        batch=batch,
        accumulation=accumulation,
        passes=steps / per_epoch,
        saves=saves,
        recompute=any(bool(values.get(f"{what}_checkpointing")) for what in RECOMPUTED),
        sharded=sharded,
        state_bytes=STATE_BYTES.get(str(values.get("optim")), ADAM_BYTES),
    )


def advice(training: Mapping[str, Any], schedule: Schedule, *, examples: int) -> list[str]:
    """What keeps a run from learning, or from showing it, as sentences with what to write."""
    values = {**DEFAULTS, **training}
    steps = schedule.steps
    per_step = schedule.batch * schedule.accumulation
    found = []
    if steps < FEWEST_STEPS:
        limit = int(values.get("max_steps", -1))
        if limit > 0:
            change = f"max_steps: {FEWEST_STEPS} or more"
        else:
            epochs = math.ceil(FEWEST_STEPS / max(1, math.ceil(examples / per_step)))
            fewer = max(1, int(examples * float(values["num_train_epochs"])) // FEWEST_STEPS)
            change = f"num_train_epochs: {epochs}"
            if fewer < per_step:
                change = (
                    f"smaller steps (per_device_train_batch_size x gradient_accumulation_steps = "
                    f"{fewer} in place of {per_step}), {change}, or give more examples"
                )
        found.append(
            f"only {steps} optimizer step{'' if steps == 1 else 's'} on {examples:,} examples: "
            f"it will hardly learn. Write {change}"
        )
    warmup = float(values["warmup_steps"])
    if values.get("lr_scheduler_type") == "constant":
        warmup = 0.0
    share = warmup if warmup < 1 else warmup / max(1, steps)
    if share > MOST_WARMUP:
        highest = "never reaches its value" if share > 1 else "is reached late"
        most = f" (at most {100 / share:.0f} % of it)" if share > 1 else ""
        found.append(
            f"warmup_steps: {values['warmup_steps']} is {100 * share:.0f} % of {steps} steps: the "
            f"learning rate {highest}{most}. Write a share, warmup_steps: {GOOD_WARMUP}"
        )
    every = float(values["logging_steps"])
    if "logging_steps" in training and every > max(1, steps / 10) and every >= 1:
        found.append(
            f"logging_steps: {values['logging_steps']} leaves {int(steps / every)} points of the "
            f"loss curve of {steps} steps; {logging_steps(steps, every)} is taken"
        )
    return found


def logging_steps(steps: int, asked: float) -> int:
    """Steps between two points of a loss curve: as asked, but a tenth of all at most."""
    every = asked if asked >= 1 else math.ceil(steps * asked)
    return max(1, min(int(every), steps // 10))


def lora_parameters(shape: Shape, lora: Lora) -> int:
    """Parameters of the adapters: r (in + out) for each matrix that has one (train/adapters.py).

    The two first matrices of an expert are one stacked tensor; the router has none unless it is
    named.
    """
    hidden = shape.hidden
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    # What each name stands for in a layer: in + out, over all matrices that it means.
    sides = {"q_proj": hidden + q, "k_proj": hidden + kv, "v_proj": hidden + kv}
    sides["o_proj"] = q + hidden
    narrow = shape.shared if shape.experts else shape.inner
    if narrow:
        sides |= dict.fromkeys(_feed_forward(shape), hidden + narrow)
    everything = dict(sides)
    if shape.experts:
        both, down = hidden + 2 * shape.inner, shape.inner + hidden
        stacked = {"gate_up_proj": shape.experts * both, "down_proj": shape.experts * down}
        everything |= {"gate_up_proj": stacked["gate_up_proj"]}
        everything["down_proj"] = sides.get("down_proj", 0) + stacked["down_proj"]
        if shape.shared:
            everything["shared_expert_gate"] = 0  # a router
        everything |= dict.fromkeys(("gate", "router"), 0)
        named = {**everything, "w2": stacked["down_proj"]}
        named |= dict.fromkeys(("gate", "router"), hidden + shape.experts)
        # Named by the halves of the stacked tensor: counted once, with the first of them.
        for first, second in (("gate_proj", "up_proj"), ("w1", "w3")):
            named[first] = sides.get(first, 0) + stacked["gate_up_proj"]
            named[second] = sides.get(second, 0)
    else:
        named = everything
    wanted = lora.target_modules
    chosen = [] if isinstance(wanted, str) else [name for name in wanted if name in named]
    table = named if chosen else everything
    return shape.layers * sum(
        lora.rank_pattern.get(name, lora.r) * table[name] for name in chosen or everything
    )


def _feed_forward(shape: Shape) -> tuple[str, ...]:
    return ("gate_proj", "up_proj", "down_proj") if shape.gated else ("up_proj", "down_proj")
