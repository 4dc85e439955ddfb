"""What an estimate is made from, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infifusion.estimate.costs import memory
from infifusion.estimate.costs.lengths import Lengths
from infifusion.estimate.costs.rates import Rates
from infifusion.estimate.costs.schedule import Schedule, schedule_of
from infifusion.estimate.costs.shapes import Shape
from infifusion.estimate.costs.work import Work
from infifusion.recipe import Recipe, Resolved, TrainingRun

PIVOT = "pivot"  # stages.folders.PIVOT
SPREAD = frozenset({"teach", "fuse", "distill", "evaluate"})
"""Stages in which all processes take part (stages/run.py); in the others the first one works."""


@dataclass(frozen=True)
class Facts:
    """One model, as far as its costs go.

    parameters are counted in its weights (`counted`) or computed from its config. stored: bytes of
    a parameter on disk; tensors: how many; header: bytes of the weight files' headers. Of its
    tokenizer: entries, bytes of the files, identity (equal for equal ones).
    """

    shape: Shape
    parameters: int
    counted: bool
    stored: float
    tensors: int
    header: int
    entries: int
    tokenizer: int
    identity: str


@dataclass(frozen=True)
class TaskFacts:
    """One task: items, tokens of a prompt, and the longest generation in tokens."""

    name: str
    items: int
    prompt: float
    new: float


@dataclass(frozen=True)
class Hardware:
    """Where the run is to go. memory: bytes per device, None where unknown; link: bytes per second
    between devices; threads: of a merge."""

    name: str
    count: int
    nodes: int
    memory: float | None
    link: float
    base: float
    rates: Rates
    threads: int

    @property
    def devices(self) -> int:
        """All of them."""
        return self.count * self.nodes

    @property
    def on_cpu(self) -> bool:
        """Whether there is no accelerator."""
        return self.name == "cpu"


@dataclass(frozen=True)
class Row:
    """The costs of one thing: FLOPs of all devices together, lasting bytes on disk, bytes that are
    written and removed again, peak memory per device, seconds on the wall. work: one process's,
    from which the seconds follow."""

    stage: str
    name: str
    tokens: float
    flops: float
    bytes: float
    scratch: float
    memory: float
    seconds: float
    work: Work


@dataclass(frozen=True)
class Case:
    """Everything that an estimate is made from. domain_shares: how many examples of each domain an
    epoch goes over, as a share of all; needed where a run trains on some domains, or data sets have
    weights."""

    recipe: Recipe
    models: Mapping[str, Facts]
    lengths: Mapping[tuple[str, str], Lengths]
    tasks: Sequence[TaskFacts]
    hardware: Hardware
    domain_shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def resolved(self) -> Resolved:
        """The recipe with every `each` written out."""
        return self.recipe.resolve()

    def train(self, name: str) -> Lengths:
        """The training examples as one model's tokens."""
        return self.lengths[name, "train"]

    def trained(self, name: str, run: TrainingRun) -> Lengths:
        """The examples of a run as one model's tokens. Of some domains: their share of all, taken
        to be as long as all."""
        if run.domains is None and not self.domain_shares:
            return self.train(name)
        domains = self.domain_shares if run.domains is None else run.domains
        return self.train(name).share(sum(self.domain_shares[d] for d in domains))

    def place(self, stage: str, name: str = PIVOT, *, half: bool | None = None) -> memory.Place:
        """Where a stage runs the model of this name, in its own arithmetic or as half says."""
        devices = self.hardware.devices if stage in SPREAD else 1
        width = 2 if (self.in_half(name) if half is None else half) else 4
        return memory.Place(self.hardware.base, width, self.hardware.on_cpu, devices)

    def in_half(self, name: str) -> bool:
        """Whether a model runs in half precision; `auto` is float32 on a CPU here, where what else
        it stands for has been decided (estimate.plan)."""
        model = self.recipe.pivot if name == PIVOT else self.recipe.sources[name]
        if model.dtype == "auto":
            return not self.hardware.on_cpu
        return model.dtype != "float32"

    def in_engine(self, name: str) -> bool:
        """Whether a server runs a model where it is not trained: neither its time nor its memory is
        of this process."""
        model = self.recipe.pivot if name == PIVOT else self.recipe.sources[name]
        return model.engine is not None

    def trains_in_half(self, run: TrainingRun) -> bool:
        """Whether a run's products are in half precision."""
        return not self.hardware.on_cpu or bool(run.training.get("bf16"))

    def rated(self, work: Work, *, half: bool) -> Work:
        """The work at the rates of its arithmetic; those of an accelerator are of half precision
        as they are."""
        return work.in_half() if half and self.hardware.on_cpu else work

    def row(
        self,
        stage: str,
        name: str,
        work: Work,
        *,
        tokens: float = 0,
        bytes: float = 0,
        scratch: float = 0,
        memory: float = 0,
    ) -> Row:
        """A row of some work; its examples are spread over the devices where the stage does so."""
        shared = work.shared(self.hardware.devices if stage in SPREAD else 1)
        seconds = self.hardware.rates.seconds(shared)
        return Row(stage, name, tokens, work.all_flops, bytes, scratch, memory, seconds, shared)


def schedule(case: Case, run: TrainingRun) -> Schedule:
    """Steps of a run on the hardware."""
    return schedule_of(
        run.training,
        examples=case.trained(run.of, run).examples,
        devices=case.place("distill").devices,
        sharded=run.parallel != "ddp",
    )
