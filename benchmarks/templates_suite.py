"""The parts of benchmarks/templates.py: tiny chat models that learn some answers by heart, and who
asks them for these."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "data"))

import torch
from test_templates import IN_PARTS, MARK, TEMPLATES
from tokenizers import AddedToken, processors
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

import infifusion
from infifusion.data.store import load_rendered
from infifusion.demo.tokenizers import byte_level, sentencepiece_like
from infifusion.evals.tasks import Doc, Judgement, Judges, Task

PAIRS = [
    ("What has Ben?", "17 coins,\nred ones"),
    ("And Ann", "books: 5"),
    ("Tim, then, please?", "3 apples\n\nand a pear"),
    ("Eve!", "nothing = 0"),
    ("How far is Rome?", "42"),
    ("How far is Oslo?", "Yes, far."),
    ("Write f.", "def f(k):\n    return k + 1"),
    ("Write g.", "```\ng = 2*k\n```"),
    ("Say it in French.", "déjà vu – naïve"),
    ("Say it in Japanese.", "日本語 🙂"),
    ("Who came first?", "Ann; then Ben"),
    ("Who came last?", "Tim"),
    ("6*7?", "6*7=42"),
    ("6*8?", "6*8=48"),
    ("A list", "- one\n- two"),
    ("A word", "Certainly"),
]
GO_ON = "Please go on."
ROOM = 48
"""New tokens that an answer may have; the longest has 25."""
UNSEEN = ("<think>", "</think>")
"""Marks that published tokenizers hold as tokens, but not as special ones: their text stays."""
SENTENCEPIECE = ("gemma", "llama2", "mistral", "phi3", "vicuna", "zephyr", "line_break_then_end")
"""Templates, by how their names begin, whose models have tokenizers in SentencePiece's manner,
which put a beginning of text before a plain text."""
TASK = "by_heart"


def score(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    """The output is the answer, outer blanks apart."""
    exact = output.strip() == doc["response"].strip()
    return Judgement(output, doc["response"], {"exact_match": exact})


TASKS = {
    TASK: Task(
        name=TASK,
        description="Answers that were learnt by heart.",
        headline="exact_match",
        file="train.jsonl",
        score=score,
        gold_field="response",
        max_new_tokens=ROOM,
    )
}


def messages(name: str, *said: str) -> list[dict[str, Any]]:
    """A conversation that a user begins, as the template reads it."""

    def content(text: str) -> Any:
        in_parts = name.removesuffix("_training") in IN_PARTS
        return [{"type": "text", "text": text}] if in_parts else text

    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": content(text)} for n, text in enumerate(said)]


def tokenizer_of(name: str, entries: int) -> PreTrainedTokenizerFast:
    """A tokenizer of a base model, trained on what the template writes, with its marks added. Its
    own end of text, </s>, is not what ends most templates' turns."""
    template = TEMPLATES[name]
    writer = byte_level([], size=300)
    writer.chat_template, writer.bos_token = template, "<s>"
    texts = []
    for pair in PAIRS:
        whole = writer.apply_chat_template(messages(name, *pair), tokenize=False)
        texts += [piece for piece in MARK.split(whole) if piece] + list(pair)
    pieces = name.startswith(SENTENCEPIECE)
    tokenizer = (sentencepiece_like if pieces else byte_level)(texts, size=entries)
    known = tokenizer.get_vocab()
    marks = {"<s>", "</s>", "<|user|>", "<|assistant|>", *MARK.findall(template)}
    marks = sorted(mark for mark in marks if mark not in known)
    tokenizer.add_tokens(
        [AddedToken(mark, normalized=False, special=mark not in UNSEEN) for mark in marks],
        special_tokens=False,
    )
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<s>", "</s>", "</s>"
    if pieces:
        first = ("<s>", tokenizer.convert_tokens_to_ids("<s>"))
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[first]
        )
    tokenizer.chat_template = template
    return tokenizer


def write_model(name: str, folder: Path, *, entries: int = 1000, seed: int = 0) -> None:
    """A random model of two layers with that template."""
    tokenizer = tokenizer_of(name, entries)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,  # real models pad their vocabulary
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def recipe_of(folder: Path, steps: int, **more: Any) -> dict[str, Any]:
    """folder/pivot learns the pairs; `more` replaces keys."""
    lines = [json.dumps({"prompt": q, "response": a}) for q, a in PAIRS]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "name": "by_heart",
        "pivot": {"model": str(folder / "pivot")},
        "sources": {"a": {"model": str(folder / "pivot")}},
        "data": {"train": [{"path": str(folder / "train.jsonl"), "domain": "d"}]},
        "training": {
            "learning_rate": 8e-3,
            "max_steps": steps,
            "per_device_train_batch_size": len(PAIRS),
            "lr_scheduler_type": "cosine",
            "warmup_steps": 10,
        },
        "distill": {"sft": {}},
        **more,
    }


@dataclass(frozen=True)
class Learnt:
    """A model that has learnt the pairs, in the folder that a run wrote, and what it has seen.

    name: its template's. run: the run folder. model: the model's folder.
    """

    name: str
    run: Path
    model: Path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The saved folder's own."""
        return AutoTokenizer.from_pretrained(self.model)

    @cached_property
    def trained(self) -> list[tuple[list[int], list[int]]]:
        """What was asked and what was learnt, token by token, in the order of PAIRS."""
        lines = (self.run / "prepare" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        asked = [json.loads(line)["prompt"][-1]["content"] for line in lines]
        rendered = load_rendered(self.run / "prepare" / "rendered" / "pivot-train.safetensors")
        found = {}
        for n, question in enumerate(asked):
            ids = rendered.ids_L[rendered.offset_N1[n] : rendered.offset_N1[n + 1]].tolist()
            found[question] = ids[: rendered.first_N[n]], ids[rendered.first_N[n] :]
        return [found[question] for question, _ in PAIRS]

    def asked(self, *said: str) -> list[int]:
        """The tokens of `apply_chat_template` that ask for an answer."""
        return self.tokenizer.apply_chat_template(
            messages(self.name, *said), add_generation_prompt=True
        )["input_ids"]

    def lead(self, number: int) -> str:
        """The text that the model writes by itself before an answer; special tokens are no text."""
        own = self.tokenizer.decode(self.trained[number][1], skip_special_tokens=True)
        return own.partition(PAIRS[number][1])[0]


@dataclass
class Found:
    """What came of asking for every answer.

    right: answers that came back. cut_off: those that did not stop by themselves. notes: what
    differs, each once. example: the first wrong one.
    """

    right: int = 0
    cut_off: int = 0
    notes: tuple[str, ...] = ()
    example: str = ""

    @property
    def whole(self) -> bool:
        """Whether all came back and stopped."""
        return self.right == len(PAIRS) and self.cut_off == 0

    def say(self, note: str) -> None:
        """Note it, once."""
        self.notes = tuple(dict.fromkeys([*self.notes, note]))

    def judge(self, answer: str, text: str, lead: str) -> None:
        """Count an answer; the model's own lead may stand before it."""
        said = text.strip()
        if said != answer.strip() and lead.strip() and said.startswith(lead.strip()):
            self.say(f"its own {lead!r} stands before the answer")
            said = said[len(lead.strip()) :].strip()
        self.right += said == answer.strip()
        if said != answer.strip() and not self.example:
            self.example = f"wanted {answer!r}, found {text[:60]!r}"


def learn(name: str, folder: Path, steps: int, **model: Any) -> Learnt:
    """A pivot with that template, trained by `infifusion run`."""
    write_model(name, folder / "pivot", **model)
    run = infifusion.run(recipe_of(folder, steps), folder / "alone", until="distill")
    return Learnt(name, folder / "alone", run.models["sft"])


def fuse(
    name: str, folder: Path, steps: int, sources: Iterable[Path], *, gold_weight: float = 0.1
) -> Learnt:
    """The same pivot, taught by models that know the pairs; the labels weigh a tenth."""
    write_model(name, folder / "pivot")
    recipe = recipe_of(
        folder,
        steps,
        sources={path.parents[3].name: {"model": str(path)} for path in sources},
        fuse={"unified": {"function": "uncertainty", "gate": "none"}},
        distill={"fused": {"target": "unified", "gold_weight": gold_weight}},
    )
    run = infifusion.run(recipe, folder / "taught", until="distill")
    return Learnt(name, folder / "taught", run.models["fused"])


def of_history(learnt: Learnt) -> str:
    """What differs between the trained text and the same turn in a chat server's history; nothing
    where they are the same tokens."""
    tokenizer = learnt.tokenizer
    differ: dict[str, None] = {}
    for (question, answer), (asked, own) in zip(PAIRS, learnt.trained, strict=True):
        try:
            history = tokenizer.apply_chat_template(
                messages(learnt.name, question, answer, GO_ON), add_generation_prompt=True
            )["input_ids"]
        except Exception as error:  # the template's own raise_exception
            return f"the template refuses a next turn: {error}"
        if history[: len(asked) + len(own)] == [*asked, *own]:
            continue
        before, _, behind = tokenizer.decode([*asked, *own]).rpartition(answer)
        before_there, _, behind_there = tokenizer.decode(history).rpartition(answer)
        prompt = tokenizer.decode(asked)
        found = []
        if not before_there.startswith(prompt):
            found.append("in the prompt " + _difference(before, before_there))
        elif before != before_there:
            lead, lead_there = before[len(prompt) :], before_there[len(prompt) :]
            found.append(f"before the answer trained {lead!r}, history {lead_there!r}")
        if not behind_there.startswith(behind):
            there = behind_there.partition(GO_ON)[0]
            found.append(f"behind it trained {behind!r}, history {there!r}")
        differ[", ".join(found) or "the same text in other tokens"] = None
    return "; ".join([*list(differ)[:2], *(["..."] if len(differ) > 2 else [])])


def _difference(ours: str, theirs: str) -> str:
    start = _common(ours, theirs)
    end = _common(ours[start:][::-1], theirs[start:][::-1])
    one, other = (text[start : len(text) - end] for text in (ours, theirs))
    return f"trained {one!r}, history {other!r}"


def _common(one: str, other: str) -> int:
    length = min(len(one), len(other))
    return next((n for n in range(length) if one[n] != other[n]), length)
