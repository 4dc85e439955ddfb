"""The stages' own fields: teach, fuse, distill, merge, evaluate."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from infifusion.strict import Strict

Parallel = Literal["ddp", "fsdp", "deepspeed"]


class Teach(Strict):
    """The teacher pass."""

    top_k: int = Field(default=10, ge=1, le=1024)
    """Entries kept per position (K)."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Tokens in a forward pass, padding included."""
    head_rows: int | None = Field(default=None, ge=1)
    """Positions that go through the language-model head at once; by default as many as have 128 MiB
    of logits."""
    shard_examples: int = Field(default=512, ge=1)
    """Examples per shard of the cache: what an interruption can cost."""


class Fuse(Strict):
    """One fused target: which sources, combined how."""

    LATER = ("inside",)

    function: str = "uncertainty"
    """A fusion function (`infifusion list`), or module:function."""
    params: dict[str, Any] = {}
    """Its own parameters."""
    sources: list[str] | None = None
    """Sources that take part; all of them by default."""
    each: bool = False
    """Make one target per source, called NAME-SOURCE, in place of one over all of them."""
    gate: Literal["none", "bits_per_byte", "domain"] = "domain"
    """Where a source may teach. domain: only domains where it predicts more than half of the
    responses in fewer bits per byte than the pivot, which wrong labels do not mislead while most
    are right. bits_per_byte: only the responses that it predicts better. none: everywhere, as the
    paper's method has it."""
    pivot_as_source: bool = False
    """The frozen pivot takes part as one more source."""
    keep: int | None = Field(default=None, ge=1)
    """Entries kept in a target row; 2 K by default."""
    alignment: Literal["bytes", "min_ed"] = "bytes"
    """Which source position teaches a pivot position, and which pivot token a source token stands
    for. bytes: the position that predicts from the same byte; the token of the same bytes, else the
    first that the pivot's tokenizer makes of them. min_ed, a baseline: FuseLLM's pairing of tokens
    and of vocabularies by smallest edit distance (align/min_ed.py); with gold_path: false, as
    FuseLLM has none."""
    gold_path: bool = True
    """Where the pivot's gold token is several tokens of a source, give it the product of their
    probabilities (the chain rule). false: it has what the vocabulary map gives it."""
    inside: float | None = Field(default=None, gt=0, le=1)
    """Teach also where a pivot token begins inside a source's token: by the source's tokens that
    begin with the bytes read since, cut and scaled (align/inside.py), where at least this share of
    the row is known, 0.5 say. null: such positions are learnt from the text alone. Not with
    alignment: min_ed, nor with the loss uld."""
    teacher: Literal["cached", "online"] = "cached"
    """online: no teacher pass and no cache; the sources run beside the pivot while it trains. Saves
    the cache and the wait in a run of one epoch that is made once, costs a pass per epoch."""

    @model_validator(mode="after")
    def _inside_by_bytes(self) -> Self:
        if self.inside is not None and self.alignment != "bytes":
            raise ValueError("inside needs alignment: bytes")
        return self


class Lora(Strict):
    """Low-rank adapters through peft; the adapter is merged into the saved model."""

    LATER = ("use_rslora", "use_dora", "init_lora_weights", "rank_pattern", "modules_to_save")

    r: int = Field(default=16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(default=32, gt=0)
    """Scale of the adapters: they are multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    target_modules: str | list[str] = "all-linear"
    """Modules that get adapters, by name; all-linear: every linear one but the head. On mixtures of
    experts the experts are among them, at the rank asked for, and the router is not unless it is
    named."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r (arXiv 2312.03732)."""
    use_dora: bool = False
    """Learn the length of each weight's rows apart from their direction (DoRA, arXiv 2402.09353);
    not on stacked experts."""
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    """How adapters begin: true and gaussian with no effect; orthogonal; false at random. Ways that
    change the pivot's own weights (pissa, olora, loftq, ...) are refused: the adapter by itself
    would not fit the pivot."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Ranks of single layers in place of r, by name or by the end of it: {q_proj: 32}."""
    modules_to_save: list[str] = []
    """Modules that are trained whole beside the adapters, such as norm or lm_head. Not the
    embedding or the head of a model where they are one tensor."""

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _leaves_the_pivot(cls, value: object) -> object:
        if isinstance(value, str) and value not in ("gaussian", "orthogonal"):
            raise ValueError(
                f"expected true, false, gaussian or orthogonal: {value} is not known, or changes "
                "the pivot's own weights, which the adapter by itself would then not fit"
            )
        return value


class OnPolicy(Strict):
    """Text that the pivot writes itself while it trains, and that the sources correct."""

    share: float = Field(default=0.5, ge=0, le=1)
    """Share of every batch that is prompts alone, which the pivot answers. 0: none, the run is as
    without on_policy; 1: all."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer in tokens of the pivot, the end of its turn among them. Its window can make it
    shorter."""
    temperature: float = Field(default=1.0, gt=0)
    """Tokens are drawn at this temperature; at 1 from what the pivot believes."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the most probable tokens that hold this share."""
    batch_size: int = Field(default=32, ge=1)
    """Prompts answered at once, in each process."""
    round_steps: int = Field(default=1, ge=1)
    """Optimizer steps whose prompts are answered at once, by the pivot as it is before the first of
    them. More make fuller batches of answers, and older answers."""
    epochs: int = Field(default=1, ge=1)
    """How often the answers of a round are trained on before the next are written."""
    form: Literal["distribution", "policy_gradient"] = "distribution"
    """What is learnt of an answer. distribution: at every aligned position the whole fused row, by
    the loss of the run. policy_gradient: only of the tokens that were drawn, whether the sources
    find them likelier than the pivot does, over the shortest spans of bytes that all tokenizers
    share."""
    clip: float | None = Field(default=None, gt=0)
    """Of policy_gradient: how far the probability of a token may move, as a share, before the
    token is learnt no more from answers that have become old; 0.2 by default."""
    extrapolate: float = Field(default=1.0, gt=0)
    """Of policy_gradient: how far to go from the pivot before training towards the sources; above 1
    beyond them (ExOPD)."""
    cut_off: Literal["drop", "keep"] = "drop"
    """Answers that ran out of max_new_tokens: drop and count them, or learn from what is there."""
    reduction: Literal["token", "sequence"] = "token"
    """Whether every position counts the same, or every answer (and every example beside them)."""
    stop_at_growth: float | None = Field(default=3.0, gt=1)
    """Stop when the last 64 answers of the pivot, or more, are this many times as long, or as
    short, as its first, or its entropy a token that many times as large; null: never. May be
    changed in a run that has begun."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        problems = []
        gradient = self.form == "policy_gradient"
        if gradient and (self.temperature != 1 or self.top_p != 1):
            problems.append(
                "form: policy_gradient learns from draws of the pivot's own distribution: it needs "
                "temperature: 1 and top_p: 1"
            )
        if not gradient and self.clip is not None:
            problems.append("clip needs form: policy_gradient")
        if not gradient and self.extrapolate != 1:
            problems.append("extrapolate needs form: policy_gradient")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Distill(Strict):
    """One training run of the pivot."""

    LATER = ("gate", "doubt", "early_stopping", "on_policy")

    target: str | None = None
    """Name of a fused target; none for plain supervised fine-tuning."""
    each: bool = False
    """One run per member of a target that was made with `each`, called NAME-SOURCE."""
    loss: str = "kl"
    """A loss (`infifusion list`), or module:function."""
    params: dict[str, Any] = {}
    """The loss's own parameters, such as temperature."""
    domains: list[str] | Literal["own"] | None = None
    """Train on the examples of these domains alone; all by default. own (with `each`): the domain
    that has the source's name."""
    written: bool | Literal["only"] = True
    """Of write_responses. false: train without the answers that sources wrote, on the given
    responses alone. only: on those answers alone (sequence-level distillation)."""
    gold_weight: float = Field(default=0.5, ge=0, le=1)
    """lambda: weight of cross-entropy on the gold token; 1 - lambda goes to the loss."""
    gate: Literal["none", "pivot"] = "none"
    """pivot: at every position the sources count as far as the given token is likelier to have come
    from them than from the pivot as it is by now, and as they stand in its domain; `gold_weight` is
    the least that the label counts. none: they count the same throughout."""
    doubt: float = Field(default=0.1, gt=0)
    """Of `gate: pivot`: so likely any token is by mistake. Small: whoever expected the token takes
    all; large: where labels speak against both, as wrong ones do, the domain decides."""
    start: str = "pivot"
    """Model that training starts from: pivot, the name of another run, or `previous` (with
    `each`: the run before it, a chain in place of a star)."""
    lora: Lora | None = None
    """Train low-rank adapters in place of all weights."""
    parallel: Parallel = "ddp"
    """How the processes of torchrun share the work: every one holds the whole model (ddp), or a
    part of weights, gradients and optimizer state (fsdp: FSDP2; deepspeed: ZeRO-3)."""
    packing: bool = False
    """Fill rows with whole examples up to data.max_length tokens, each blind to the others, in
    place of padding. A batch is one row of per_device_train_batch_size packs."""
    training: dict[str, Any] = {}
    """transformers.TrainingArguments of this run, over those of the recipe."""
    early_stopping: int | None = Field(default=None, ge=1)
    """Scores on held-out data, one after another, that bring nothing better before training ends;
    the best checkpoint is then the model. Needs training.eval_strategy; null: train to the end."""
    loss_rows: int = Field(default=256, ge=1)
    """Positions that go through the language-model head at once in the loss. Its memory is about
    3 tensors of loss_rows x vocabulary in float32."""
    stop_at_rise: float | None = Field(default=2.0, gt=1)
    """Stop when the mean loss of 20 steps is this many times the lowest such mean so far, and at
    least 1 above it; null: never. May be changed in a run that has begun."""
    on_policy: OnPolicy | None = None
    """Have the pivot answer prompts while it trains, and the sources of the target correct what it
    wrote. The prompts are those of data.prompts, or else of the training examples."""


class Merge(Strict):
    """One merge: of distilled pivots, and of other models of the pivot's architecture."""

    method: str = "rsaf"
    """A merge method (`infifusion list`), or module:function."""
    models: list[str] = Field(min_length=1)
    """Names of runs in `distill` (that of a run with `each` stands for all its members), of merges
    that stand before this one, pivot, source:NAME, or a folder (./x) or hub model (org/name, with
    @revision, +adapter) of the pivot's architecture and tokens."""
    params: dict[str, Any] = {}
    """The method's own parameters; tau0: validate chooses RSAF's tau0 on the validation share."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """dtype of the written weights; the pivot's by default."""
    device: Literal["cpu"] = "cpu"
    """Where the merge is calculated: on the processor, always. May be left out."""

    @field_validator("device", mode="before")
    @classmethod
    def _on_the_processor(cls, value: object) -> object:
        if value != "cpu":
            raise ValueError(f"merges are calculated on the processor, not on {value!r}; remove it")
        return value


class Evaluate(Strict):
    """What is scored, on what."""

    tasks: list[str] = []
    """Tasks (`infifusion list`), or lm_eval:NAME for any of lm-eval's. bits_per_byte over
    data.held_out is always computed."""
    models: list[str] | None = None
    """Models to score by name; by default the pivot, every source, runs and merges, except the
    members of an `each`, which are scored in bits per byte only."""
    data: str | None = None
    """Folder with the tasks' files; the hub by default."""
    limit: int | None = Field(default=None, ge=1)
    """Items per task; all by default."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts answered at once."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest generation; each task's own default otherwise."""
    samples: int = Field(default=1, ge=1)
    """Answers to every item, for pass@k and the majority vote maj@k; more than one needs a
    temperature above 0."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the most probable token (greedy); above 0, tokens are drawn by the recipe's seed."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the most probable tokens that hold this share; needs a temperature above 0."""
    compare: list[list[str]] = []
    """Pairs of models [a, b] to compare item by item; by default the pivot with every run and
    merge, and every run without a target (SFT) with every fused model."""
    unsafe_code: bool = False
    """Run generated code without the sandbox: only limits of time and memory hold."""
    tasks_from: str | None = None
    """module:TABLE with further tasks, such as infifusion.demo.tasks:TASKS."""

    @model_validator(mode="after")
    def _drawn(self) -> Self:
        if problems := sampling_problems(self.samples, self.temperature, self.top_p):
            raise ValueError("; ".join(problems))
        return self


def sampling_problems(samples: int, temperature: float, top_p: float) -> list[str]:
    """What does not go together in how answers are drawn."""
    problems = []
    if temperature == 0 and samples > 1:
        problems.append("samples above 1 are all the same at temperature 0; raise it")
    if temperature == 0 and top_p < 1:
        problems.append("top_p below 1 has no effect at temperature 0; raise it")
    return problems
