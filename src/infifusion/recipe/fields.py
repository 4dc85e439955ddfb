"""The sections of a recipe, each field with its documentation."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from infifusion.recipe.data import Data, WriteResponses
from infifusion.recipe.models import Model
from infifusion.recipe.steps import Distill, Evaluate, Fuse, Merge, Teach
from infifusion.strict import Strict

LONGEST_NAME = 200
"""Bytes of a name that becomes a folder; file systems take 255, some of which go to endings."""


class Fields(Strict):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)
    """Name of the run; its folder is runs/NAME by default."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides every random choice of the run."""
    pivot: Model
    """The model that is trained."""
    sources: dict[str, Model] = Field(min_length=1)
    """The models learnt from, by name."""
    data: Data
    """What is learnt from, and what is kept apart."""
    write_responses: WriteResponses | None = None
    """Answers of the sources to prompts without answers, as further training examples."""
    teach: Teach = Teach()
    """The teacher pass."""
    fuse: dict[str, Fuse] = {}
    """Fused targets by name."""
    training: dict[str, Any] = {}
    """transformers.TrainingArguments for every run in `distill`. report_to: tensorboard (written to
    distill/RUN/logs), wandb, trackio, ... or a list of them; none by default."""
    callbacks: list[str] = []
    """Callbacks of every run in `distill`: transformers.TrainerCallback classes, or functions that
    return one, as module:name."""
    distill: dict[str, Distill] = {}
    """Training runs by name."""
    merge: dict[str, Merge] = {}
    """Merges by name."""
    evaluate: Evaluate = Evaluate()
    """What is scored, on what."""
