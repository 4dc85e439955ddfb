"""Training and held-out data, and prompts that sources answer."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from infifusion.recipe.steps import sampling_problems
from infifusion.strict import Strict


class DataFile(Strict):
    """One file or hub data set."""

    LATER = ("streaming",)

    path: str
    """A local .jsonl, .json, .parquet, .csv or .tsv file (all but Parquet also as .gz, .bz2, .zst
    or .xz), a pattern such as data/*.jsonl, or a folder that save_to_disk of datasets wrote,
    relative to the recipe file; or a hub name."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set, or of a folder of datasets."""
    streaming: bool = False
    """Read a hub data set as a stream, without storing it: `limit` examples (which must be given)
    drawn from a buffer of 10,000."""
    domain: str
    """Label of these examples: gate: domain, a run's domains, tables and plots go by it."""
    limit: int | None = Field(default=None, ge=1)
    """Take at most this many examples, chosen by the recipe's seed."""

    @model_validator(mode="after")
    def _streams_so_many(self) -> Self:
        if self.streaming and self.limit is None:
            raise ValueError("streaming needs limit: how many examples to take of the stream")
        return self


class DataSource(DataFile):
    """Training examples: prompts with their responses. Where neither prompt, response nor messages
    is given, the columns say the format: prompt-response, conversational, sharegpt, alpaca,
    prompt-completion, conversational prompt-completion."""

    LATER = (*DataFile.LATER, "train_on", "weight")

    prompt: str | None = None
    """Field that holds the prompt, or a template over fields such as 'Q: {question}\\nA:'; `prompt`
    where only response is given."""
    response: str | None = None
    """Field that holds the response, or a template over fields; `response` where only prompt is
    given."""
    messages: str | None = None
    """Field that holds a list of {role, content} or of ShareGPT's {from, value}; the last one, an
    assistant's, is the response. In place of prompt and response. Functions that may be called are
    read from the field `tools` beside it."""
    train_on: Literal["last", "all"] = "last"
    """Which of the assistant's turns of a conversation are learnt: the last one, or all, each from
    the prompt that would be asked for it. Turns with `weight: 0` are not learnt."""

    weight: float = Field(default=1.0, gt=0, le=100)
    """How often an epoch goes over these examples of data.train: 2 twice, 0.5 over half of them,
    drawn by the seed. Teacher passes and targets do not depend on it."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.messages is not None and (self.prompt is not None or self.response is not None):
            raise ValueError("give messages, or prompt and response, not both")
        return self


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


class Data(Strict):
    """What is learnt from, and what is kept apart."""

    LATER = ("prompts",)

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
    left out and counted, and so are prompts of data.prompts."""
    decontaminate_ngram: int = Field(default=13, ge=3)
    """Length in words of the n-grams compared."""

    prompts: list[PromptSource] = []
    """Prompts without answers, which the pivot answers in runs with on_policy."""

    @model_validator(mode="after")
    def _weights_are_of_training(self) -> Self:
        for part, sources in (("held_out", self.held_out), ("decontaminate", self.decontaminate)):
            if any(source.weight != 1 for source in sources):
                raise ValueError(f"{part}: only examples that are trained on have a weight")
        return self

    @field_validator("prompts")
    @classmethod
    def _prompts_alone(cls, value: list[PromptSource]) -> list[PromptSource]:
        for place, source in enumerate(value):
            for key in ("tests", "code", "choose", "params"):
                if key in source.model_fields_set:
                    raise ValueError(
                        f"{place}.{key}: only the prompts of write_responses have it; remove it"
                    )
        return value

    @field_validator("plain_template")
    @classmethod
    def _ends_in_response(cls, value: str) -> str:
        if not value.endswith("{response}") or value.count("{prompt}") != 1:
            raise ValueError("expected '{prompt}', then '{response}' at the very end")
        return value


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
    """Run generated code without the sandbox: only limits of time and memory hold."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = sampling_problems(self.samples, self.temperature, self.top_p)
        for place, source in enumerate(self.prompts):
            if source.params and source.choose is None:
                problems.append(f"prompts.{place}.params: needs prompts.{place}.choose")
            chooser = source.choose or self.choose
            if chooser == "unit_tests" and source.tests is None:
                problems.append(f"prompts.{place}.tests: the chooser unit_tests needs this field")
        if problems:
            raise ValueError("; ".join(problems))
        return self
