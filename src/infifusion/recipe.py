"""Every field of a recipe, with its documentation. A recipe names everything that a run does.

`Recipe.from_mapping` validates one YAML file; `Recipe.resolve` writes out what `each: true`
abbreviates and returns a `Plan`: plain lists of what each stage makes, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from infifusion.errors import RecipeError
from infifusion.registry import nearest
from infifusion.strict import Strict, override, read_yaml

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Parallel = Literal["ddp", "fsdp", "deepspeed"]
Quantization = Literal["4bit", "8bit"]
STAGES = (
    "respond",
    "choose",
    "prepare",
    "teach",
    "fuse",
    "distill",
    "merge",
    "evaluate",
    "report",
)
RESERVED = ("pivot",)
LONGEST_NAME = 200
"""Bytes of a name that becomes a folder; file systems take 255, some of which go to endings."""


class Model(Strict):
    """A pivot or a source: what `from_pretrained` needs."""

    model: str
    """Folder of a Hugging Face checkpoint, relative to the recipe file, or a hub name."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer, where it is not the model's own."""
    dtype: Dtype = "auto"
    """Arithmetic of the teacher pass; auto is bfloat16 on a GPU and float32 on a CPU."""
    chat_template: str | None = None
    """A Jinja chat template in place of the tokenizer's; the plain template where both lack."""
    attn_implementation: str | None = None
    """Passed to from_pretrained, e.g. sdpa, eager or flash_attention_2."""
    device_map: str | None = None
    """Passed to from_pretrained in the teacher pass, e.g. auto."""
    quantization: Quantization | None = None
    """Load the weights in 4 bits (NF4) or 8 through bitsandbytes: a source in the teacher pass, the
    pivot in runs with `lora`, whose adapters are then merged into the unquantised weights."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its author."""
    temperature: float | Literal["fit"] = 1.0
    """Of a source: its logits are divided by it before it teaches (top-K, entropy, bits per byte).
    fit: the one with the lowest cross-entropy on data.validation_share, which must be above 0. The
    answers of write_responses and the scores of the source itself are not touched by it."""

    @field_validator("temperature", mode="before")
    @classmethod
    def _above_zero(cls, value: Any) -> Any:
        try:
            fits = value == "fit" or 0 < float(value) < float("inf")
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError("expected a number above 0, or fit")
        return value


class DataFile(Strict):
    """One file or hub data set."""

    path: str
    """A local .jsonl, .json, .parquet or .csv file, relative to the recipe file, or a hub name."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    domain: str
    """Label of these examples in tables and plots."""
    limit: int | None = Field(default=None, ge=1)
    """Take at most this many examples, chosen by the recipe's seed."""


class DataSource(DataFile):
    """Training examples: prompts with their responses. Where neither prompt, response nor messages
    is given, the columns say the format: conversational, sharegpt, alpaca, prompt-completion."""

    prompt: str | None = None
    """Field that holds the prompt, or a template over fields such as 'Q: {question}\\nA:'; `prompt`
    where only response is given."""
    response: str | None = None
    """Field that holds the response, or a template over fields; `response` where only prompt is
    given."""
    messages: str | None = None
    """Field that holds a list of {role, content} or of ShareGPT's {from, value}; the last one, an
    assistant's, is the response. In place of prompt and response."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.messages is not None and (self.prompt is not None or self.response is not None):
            raise ValueError("give messages, or prompt and response, not both")
        return self


class Data(Strict):
    """What is learnt from, and what is kept apart."""

    train: list[DataSource] = Field(min_length=1)
    """Examples that the sources and the pivot see."""
    held_out: list[DataSource] = []
    """Examples scored in bits per byte and never trained on."""
    validation_share: float = Field(default=0.0, ge=0, le=0.5)
    """Share of `train`, per domain, kept out of training for choices such as tau0: validate.
    Responses that sources wrote (write_responses) are never among them."""
    max_length: int = Field(default=2048, ge=8)
    """Longest rendered conversation in tokens, for the pivot and every source. Longer examples
    are left out and counted, never cut."""
    plain_template: str = "{prompt}{response}"
    """How a conversation looks to a model whose tokenizer has no chat template; the end-of-text
    token follows. Must end in {response}."""
    decontaminate: list[DataSource] = []
    """Evaluation sets: training examples that share an n-gram with their prompt or response are
    left out and counted."""
    decontaminate_ngram: int = Field(default=13, ge=3)
    """Length in words of the n-grams compared."""

    @field_validator("plain_template")
    @classmethod
    def _ends_in_response(cls, value: str) -> str:
        if not value.endswith("{response}") or value.count("{prompt}") != 1:
            raise ValueError("expected '{prompt}', then '{response}' at the very end")
        return value


class PromptSource(DataFile):
    """Prompts without answers. Where neither prompt nor messages is given, the columns say the
    format: prompt-only, conversational, sharegpt, alpaca without its output."""

    prompt: str | None = None
    """Field that holds the prompt, or a template over fields such as 'Q: {question}\\nA:'."""
    messages: str | None = None
    """Field that holds a list of {role, content} or of ShareGPT's {from, value} that ends where the
    assistant is to answer. In place of prompt."""
    tests: str | None = None
    """Field, or template, with Python code that raises unless an answer is right; for the chooser
    unit_tests."""
    code: str | None = None
    """Field, or template, with the Python code that an answer continues; without it an answer
    (its last fenced block, where it has one) is a whole program. For the chooser unit_tests."""
    choose: str | None = None
    """A chooser for these prompts in place of write_responses.choose."""
    params: dict[str, Any] = {}
    """Its own parameters, where `choose` is given here."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.messages is not None and self.prompt is not None:
            raise ValueError("give messages or prompt, not both")
        return self


class WriteResponses(Strict):
    """Prompts without answers: every source writes one, and one of them is kept to train on."""

    prompts: list[PromptSource] = Field(min_length=1)
    """Where the prompts are."""
    sources: list[str] | None = None
    """Sources that answer; all of them by default. Ties go to the one named first."""
    choose: str = "entropy_per_byte"
    """A chooser (`infifusion list`), or module:function."""
    params: dict[str, Any] = {}
    """Its own parameters."""
    max_entropy: float | None = Field(default=None, gt=0)
    """Answers with a mean entropy above this (nats per byte) do not take part, and are counted."""
    unfinished: Literal["drop", "keep"] = "drop"
    """Answers that ran out of room before the source ended its turn: drop and count them, or let
    them take part (the pivot then learns to stop where they were cut)."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest answer in tokens of the source. Its window can make it shorter."""
    batch_size: int = Field(default=32, ge=1)
    """Prompts answered at once."""
    samples: int = Field(default=1, ge=1)
    """Answers of each source to each prompt; more than one needs a temperature above 0."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the most probable token (greedy); above 0, tokens are drawn by the recipe's seed."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the most probable tokens that hold this share; needs a temperature above 0."""
    shard_prompts: int = Field(default=256, ge=1)
    """Prompts per shard of answers: what an interruption can cost."""
    unsafe_code: bool = False
    """Run generated code without a sandbox where the kernel offers none."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = []
        if self.temperature == 0 and self.samples > 1:
            problems.append("samples above 1 are all the same at temperature 0; raise it")
        if self.temperature == 0 and self.top_p < 1:
            problems.append("top_p below 1 has no effect at temperature 0; raise it")
        for place, source in enumerate(self.prompts):
            if source.params and source.choose is None:
                problems.append(f"prompts.{place}.params: needs prompts.{place}.choose")
            chooser = source.choose or self.choose
            if chooser == "unit_tests" and source.tests is None:
                problems.append(f"prompts.{place}.tests: the chooser unit_tests needs this field")
        if problems:
            raise ValueError("; ".join(problems))
        return self


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
    teacher: Literal["cached", "online"] = "cached"
    """online: no teacher pass and no cache; the sources run beside the pivot while it trains. Saves
    the cache and the wait in a run of one epoch that is made once, costs a pass per epoch."""


class Lora(Strict):
    """Low-rank adapters through peft; the adapter is merged into the saved model."""

    r: int = Field(default=16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(default=32, gt=0)
    """Scale of the adapters: they are multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    target_modules: str | list[str] = "all-linear"
    """Modules that get adapters, by name; all-linear: every linear one but the head."""


class Distill(Strict):
    """One training run of the pivot."""

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
    written: bool = True
    """false: train without the answers that sources wrote (write_responses), on the given responses
    alone."""
    gold_weight: float = Field(default=0.1, ge=0, le=1)
    """lambda: weight of cross-entropy on the gold token; 1 - lambda goes to the loss."""
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
    loss_rows: int = Field(default=256, ge=1)
    """Positions that go through the language-model head at once in the loss. Its memory is about
    3 tensors of loss_rows x vocabulary in float32."""
    stop_at_rise: float | None = Field(default=2.0, gt=1)
    """Stop when the mean loss of 20 steps is this many times the lowest such mean so far, and at
    least 1 above it; null: never. May be changed in a run that has begun."""


class Merge(Strict):
    """One merge of distilled pivots."""

    method: str = "rsaf"
    """A merge method (`infifusion list`), or module:function."""
    models: list[str] = Field(min_length=1)
    """Names of runs in `distill`; the name of a run with `each` stands for all its members."""
    params: dict[str, Any] = {}
    """The method's own parameters; tau0: validate chooses RSAF's tau0 on the validation share."""
    dtype: Dtype | None = None
    """dtype of the written weights; the pivot's by default."""
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where the merge is calculated: cpu (compiled loops), cuda, or cuda:1 for the second GPU."""


class Evaluate(Strict):
    """What is scored, on what."""

    tasks: list[str] = []
    """Tasks (`infifusion list`). bits_per_byte over data.held_out is always computed."""
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
    compare: list[list[str]] = []
    """Pairs of models [a, b] to compare item by item; by default the pivot with every fused model,
    and SFT with every fused model."""
    unsafe_code: bool = False
    """Run generated code without a sandbox where the kernel offers none."""
    tasks_from: str | None = None
    """module:TABLE with further tasks, such as infifusion.demo.tasks:TASKS."""


class Recipe(Strict):
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

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        problems = list(_name_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def resolve(self) -> Plan:
        """The recipe with every `each` written out."""
        return Plan.of(self)


class FuseTarget(Strict):
    """One target to be fused: every field decided."""

    name: str
    sources: list[str]
    function: str
    params: dict[str, Any]
    gate: str
    pivot_as_source: bool
    keep: int
    alignment: str
    gold_path: bool
    teacher: str


class TrainingRun(Strict):
    """One training run: every field decided."""

    name: str
    group: str
    target: str | None
    loss: str
    params: dict[str, Any]
    gold_weight: float
    start: str
    lora: Lora | None
    parallel: str
    pack_tokens: int | None
    """Tokens of a pack; None without packing."""
    training: dict[str, Any]
    callbacks: list[str]
    loss_rows: int
    stop_at_rise: float | None
    domains: list[str] | None
    """Domains of the examples that it trains on; None for all."""
    written: bool


class MergeRun(Strict):
    """One merge: every field decided."""

    name: str
    method: str
    models: list[str]
    params: dict[str, Any]
    dtype: str | None
    device: str


class Plan(Strict):
    """What each stage makes, in order."""

    targets: list[FuseTarget]
    runs: list[TrainingRun]
    merges: list[MergeRun]
    scored: list[str]
    """Models that answer the tasks."""
    compared: list[tuple[str, str]]
    taught: list[str]
    """Whose beliefs are cached: sources, and `pivot` where a gate or pivot_as_source needs it."""

    @classmethod
    def of(cls, recipe: Recipe) -> Plan:
        """Write out `each`, defaults of `keep`, `models` and `compare`."""
        targets: list[FuseTarget] = []
        members: dict[str, list[str]] = {}
        for name, fuse in recipe.fuse.items():
            sources = fuse.sources if fuse.sources is not None else list(recipe.sources)
            parts = {f"{name}-{s}": [s] for s in sources} if fuse.each else {name: sources}
            members[name] = list(parts)
            for part, part_sources in parts.items():
                targets.append(
                    FuseTarget(
                        name=part,
                        sources=part_sources,
                        function=fuse.function,
                        params=fuse.params,
                        gate=fuse.gate,
                        alignment=fuse.alignment,
                        gold_path=fuse.gold_path,
                        teacher=fuse.teacher,
                        pivot_as_source=fuse.pivot_as_source,
                        keep=fuse.keep or 2 * recipe.teach.top_k,
                    )
                )
        taught_by = {target.name: target.sources for target in targets}
        runs: list[TrainingRun] = []
        group: dict[str, list[str]] = {}
        for name, distill in recipe.distill.items():
            parts = {name: distill.target}
            if distill.each and distill.target is not None:
                parts = {
                    name + target.removeprefix(distill.target): target
                    for target in members[distill.target]
                }
            group[name] = list(parts)
            previous = "pivot"
            for part, target in parts.items():
                runs.append(
                    TrainingRun(
                        name=part,
                        group=name,
                        target=target,
                        loss="cross_entropy" if target is None else distill.loss,
                        params={} if target is None else distill.params,
                        gold_weight=1.0 if target is None else distill.gold_weight,
                        start=previous if distill.start == "previous" else distill.start,
                        lora=distill.lora,
                        parallel=distill.parallel,
                        pack_tokens=recipe.data.max_length if distill.packing else None,
                        training={**recipe.training, **distill.training},
                        callbacks=recipe.callbacks,
                        loss_rows=distill.loss_rows,
                        stop_at_rise=distill.stop_at_rise,
                        domains=(
                            taught_by[target or ""] if distill.domains == "own" else distill.domains
                        ),
                        written=distill.written,
                    )
                )
                previous = part
        merges = [
            MergeRun(
                name=name,
                method=merge.method,
                models=[part for model in merge.models for part in group.get(model, [model])],
                params=merge.params,
                dtype=merge.dtype,
                device=merge.device,
            )
            for name, merge in recipe.merge.items()
        ]
        single = [run.name for run in runs if run.name == run.group]
        fused = [run.name for run in runs if run.name == run.group and run.target is not None]
        fused += list(recipe.merge)
        tuned = [run.name for run in runs if run.target is None]
        scored = recipe.evaluate.models or [
            "pivot",
            *(f"source:{source}" for source in recipe.sources),
            *single,
            *recipe.merge,
        ]
        compared = [(a, b) for a, b in recipe.evaluate.compare] or [
            *(("pivot", name) for name in [*tuned, *fused]),
            *((base, name) for base in tuned for name in fused),
        ]
        cached = [target for target in targets if target.teacher == "cached"]
        return cls(
            targets=targets,
            runs=runs,
            merges=merges,
            scored=scored,
            compared=[(a, b) for a, b in compared if a in scored and b in scored],
            taught=[s for s in recipe.sources if any(s in t.sources for t in cached)]
            + (["pivot"] if any(t.gate != "none" or t.pivot_as_source for t in cached) else []),
        )


def load_recipe(path: Path, assignments: Iterable[str] = ()) -> Recipe:
    """Read, override, validate; relative paths become absolute, from the recipe's folder."""
    values = override(read_yaml(path), list(assignments))
    recipe = Recipe.from_mapping(values, where=str(path))
    return anchor(recipe, path.parent.resolve())


def anchor(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every local path that exists under `folder` made absolute."""

    def place(text: str | None) -> str | None:
        if text is None or Path(text).is_absolute():
            return text
        candidate = folder / Path(text).expanduser()
        # A first part that is here means a folder, and a mistyped rest is not looked up on the hub.
        here = candidate.exists() or (folder / text.partition("/")[0]).is_dir()
        return str(candidate) if here or text.startswith((".", "~")) else text

    def place_model(model: Model) -> Model:
        return model.model_copy(
            update={"model": place(model.model), "tokenizer": place(model.tokenizer)}
        )

    def place_data(sources: Sequence[DataFile]) -> list[DataFile]:
        return [s.model_copy(update={"path": place(s.path)}) for s in sources]

    data = recipe.data.model_copy(
        update={
            "train": place_data(recipe.data.train),
            "held_out": place_data(recipe.data.held_out),
            "decontaminate": place_data(recipe.data.decontaminate),
        }
    )
    asked = recipe.write_responses
    if asked is not None:
        asked = asked.model_copy(update={"prompts": place_data(asked.prompts)})
    return recipe.model_copy(
        update={
            "write_responses": asked,
            "pivot": place_model(recipe.pivot),
            "sources": {name: place_model(model) for name, model in recipe.sources.items()},
            "data": data,
            "evaluate": recipe.evaluate.model_copy(update={"data": place(recipe.evaluate.data)}),
        }
    )


def as_json(config: Strict) -> dict[str, Any]:
    """A configuration as plain JSON values, for manifests."""
    return json.loads(config.model_dump_json(by_alias=True))


def as_written(config: Strict) -> dict[str, Any]:
    """The same without the fields that were left to their defaults: what a YAML file would say."""
    return json.loads(config.model_dump_json(by_alias=True, exclude_unset=True))


def _name_problems(recipe: Recipe) -> Iterable[str]:
    """Every cross-reference in the recipe that does not fit, as a sentence."""
    names = [*recipe.distill, *recipe.merge]
    for name in names:
        if name in RESERVED or names.count(name) > 1:
            yield f"'{name}' names two models; give each run and merge a name of its own"
    for name in [*names, *recipe.fuse, *recipe.sources]:
        if not _names_a_folder(name):
            yield (
                f"{name!r:.60} cannot name a folder; use at most {LONGEST_NAME} letters, digits, "
                "'-' and '_'"
            )
    asked = recipe.write_responses
    chosen_from = {f"fuse.{name}": fuse.sources for name, fuse in recipe.fuse.items()}
    chosen_from["write_responses"] = asked.sources if asked is not None else None
    for where, sources in chosen_from.items():
        for source in sources or []:
            if source not in recipe.sources:
                hint = nearest(source, recipe.sources)
                yield f"{where}.sources: there is no source '{source}'.{hint}"
    if asked is not None and asked.sources is not None and not asked.sources:
        yield "write_responses.sources: name a source, or leave it out for all of them"
    if asked is not None and len(set(asked.sources or [])) < len(asked.sources or []):
        yield "write_responses.sources: a source is named twice"
    for name, distill in recipe.distill.items():
        if distill.target is None:
            if "loss" in distill.model_fields_set and distill.loss != "cross_entropy":
                yield f"distill.{name}: the loss '{distill.loss}' needs a target"
            if distill.each:
                yield f"distill.{name}.each: needs a target that was made with each"
        elif distill.target not in recipe.fuse:
            hint = nearest(distill.target, recipe.fuse)
            yield f"distill.{name}.target: there is no fused target '{distill.target}'.{hint}"
        elif recipe.fuse[distill.target].each != distill.each:
            yield f"distill.{name}.each and fuse.{distill.target}.each must be the same"
        if distill.lora is not None and distill.parallel != "ddp":
            yield f"distill.{name}: lora needs parallel: ddp; found {distill.parallel}"
        if distill.lora is None and recipe.pivot.quantization is not None:
            yield (
                f"distill.{name}: all weights cannot be trained while pivot.quantization is "
                f"{recipe.pivot.quantization}; add lora, or remove quantization"
            )
        if distill.start == "previous" and not distill.each:
            yield f"distill.{name}.start: previous needs each: true"
        earlier = list(recipe.distill)[: list(recipe.distill).index(name)]
        earlier = [run for run in earlier if not recipe.distill[run].each]
        if distill.start not in ("pivot", "previous", *earlier):
            yield (
                f"distill.{name}.start: '{distill.start}' is not pivot, previous or an earlier run "
                f"({', '.join(earlier) or 'there is none'})"
            )
    for name, merge in recipe.merge.items():
        for model in merge.models:
            if model not in recipe.distill:
                hint = nearest(model, recipe.distill)
                yield f"merge.{name}.models: there is no run '{model}' in distill.{hint}"
        if merge.params.get("tau0") == "validate" and recipe.data.validation_share == 0:
            yield f"merge.{name}.params.tau0: validate needs data.validation_share above 0"
    known = {"pivot", *(f"source:{s}" for s in recipe.sources), *names}
    groups = {name for name, distill in recipe.distill.items() if distill.each}
    known -= groups
    known |= {
        f"{name}-{s}"
        for name in groups
        if recipe.distill[name].target in recipe.fuse
        for s in (recipe.fuse[recipe.distill[name].target or ""].sources or recipe.sources)
    }
    for model in [
        *(recipe.evaluate.models or []),
        *(m for p in recipe.evaluate.compare for m in p),
    ]:
        if model not in known:
            hint = nearest(model, known)
            yield f"evaluate: there is no model '{model}'.{hint} Known: {', '.join(sorted(known))}"
    if any(len(pair) != 2 for pair in recipe.evaluate.compare):
        yield "evaluate.compare: expected pairs [a, b]"
    for name, fuse in recipe.fuse.items():
        if fuse.gate == "domain" and fuse.teacher == "online":
            yield (
                f"fuse.{name}.gate: domain looks at all responses before any is taught, so it "
                "needs teacher: cached; or take gate: bits_per_byte"
            )
    yield from _temperature_problems(recipe)
    yield from _domain_problems(recipe)


def _names_a_folder(name: str) -> bool:
    """Not a path, not hidden, nothing that a terminal or a file system takes amiss."""
    fits = 0 < len(name.encode(errors="replace")) <= LONGEST_NAME and name.isprintable()
    return fits and not name.startswith(".") and not any(c in name for c in "/\\:")


def _temperature_problems(recipe: Recipe) -> Iterable[str]:
    """Temperatures that cannot be used, as sentences."""
    if recipe.pivot.temperature != 1:
        yield "pivot.temperature: only sources have one; remove it"
    fitted = [name for name, source in recipe.sources.items() if source.temperature == "fit"]
    if fitted and recipe.data.validation_share == 0:
        for name in fitted:
            yield f"sources.{name}.temperature: fit needs data.validation_share above 0"


def _domain_problems(recipe: Recipe) -> Iterable[str]:
    """Domains of runs that no training data has, as sentences."""
    asked = recipe.write_responses
    for name, distill in recipe.distill.items():
        if not distill.written and asked is None:
            yield f"distill.{name}.written: false needs write_responses; remove it"
    files: list[DataFile] = [*recipe.data.train, *(asked.prompts if asked is not None else [])]
    known = list(dict.fromkeys(file.domain for file in files))
    listed = f"Known: {', '.join(known)}."
    for name, distill in recipe.distill.items():
        where = f"distill.{name}.domains"
        if distill.domains == "own":
            if not distill.each:
                yield f"{where}: own needs each: true; name the domains instead. {listed}"
            elif distill.target in recipe.fuse:
                sources = recipe.fuse[distill.target].sources or list(recipe.sources)
                for source in [s for s in sources if s not in known]:
                    yield (
                        f"{where}: own needs a domain with the name of the source '{source}'."
                        f"{nearest(source, known)} {listed}"
                    )
        elif distill.domains is not None:
            if not distill.domains:
                yield f"{where}: name a domain, or leave it out for all. {listed}"
            for domain in [d for d in dict.fromkeys(distill.domains) if d not in known]:
                yield f"{where}: there is no domain '{domain}'.{nearest(domain, known)} {listed}"
            if len(set(distill.domains)) < len(distill.domains):
                yield f"{where}: a domain is named twice"


def require_stage(name: str) -> str:
    """The stage's name; RecipeError when there is none."""
    if name not in STAGES:
        raise RecipeError(
            f"There is no stage '{name}'.{nearest(name, STAGES)} Stages: {', '.join(STAGES)}."
        )
    return name
