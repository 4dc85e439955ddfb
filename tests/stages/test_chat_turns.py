"""A chat model that learns some answers by heart gives them back through `generate`, with what the
saved folder says and nothing else, and stops by itself; `evaluate` sees the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import infifusion

USER = "{% for m in messages %}{% if m.role == 'user' %}"
TEMPLATES = {
    # A base model's tokenizer: generation knows its old end of text alone.
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # A line break between the answer and the token that stops.
    "deepseek_coder": (
        USER + "### Instruction:\n{{ m.content }}\n{% else %}### Response:\n{{ m.content }}\n"
        "<|EOT|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    # A blank that melts into the first word of the answer.
    "llama2": USER + "[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} <eos>{% endif %}"
    "{% endfor %}",
    # Reasoning that the prompt opens and the history leaves out.
    "thinking": (
        USER + "<|user|>{{ m.content }}{% else %}<|assistant|>{{ m.content }}<eos>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    ),
}
MARKS = ["<|im_start|>", "<|im_end|>", "<|EOT|>", "<|user|>", "<|assistant|>"]
PAIRS = [
    ("What has Ben?", "17 coins,\nred ones"),
    ("And Ann", "books: 5"),
    ("Tim, then, please?", "3 apples\n\nand a pear"),
    ("Eve!", "nothing = 0"),
]
ROOM = 40


def pivot(folder: Path, template: str, *, plain: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer(330, [f"{q} {a}" for q, a in PAIRS] * 4)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    if not plain:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    tiny_model("llama", len(tokenizer), 0).save_pretrained(folder)
    return tokenizer


def trained(folder: Path, **data: object) -> Path:
    """The folder of the pivot after it has learnt the pairs."""
    write_jsonl(folder / "train.jsonl", [{"prompt": q, "response": a} for q, a in PAIRS])
    recipe = {
        "name": "turns",
        "pivot": {"model": str(folder / "pivot")},
        "sources": {"a": {"model": str(folder / "pivot")}},
        "data": {"train": [{"path": str(folder / "train.jsonl"), "domain": "d"}], **data},
        "training": {
            "learning_rate": 8e-3,
            "max_steps": 160,
            "per_device_train_batch_size": 4,
            "lr_scheduler_type": "cosine",
        },
        "distill": {"sft": {}},
    }
    return infifusion.run(recipe, folder / "out", until="distill").models["sft"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_was_learnt_comes_back_through_generate_and_stops(name: str, tmp_path: Path) -> None:
    pivot(tmp_path / "pivot", TEMPLATES[name])
    made = trained(tmp_path)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(made),
        AutoTokenizer.from_pretrained(made),
    )
    for question, answer in PAIRS:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
        )["input_ids"]
        with torch.inference_mode():
            row = model.generate(asked, max_new_tokens=ROOM, do_sample=False)[0]
        written = row[asked.shape[1] :]
        assert len(written) < ROOM, "cut off"
        text = tokenizer.decode(written, skip_special_tokens=True)
        assert text.removeprefix("</think>\n\n").strip() == answer


def test_the_first_word_after_a_blank_is_learnt_with_a_plain_template(tmp_path: Path) -> None:
    """Its token begins with the blank that ends the prompt."""
    pivot(tmp_path / "pivot", "", plain=True)
    made = trained(tmp_path, plain_template="Q: {prompt}\nA: {response}")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(made),
        AutoTokenizer.from_pretrained(made),
    )
    for question, answer in PAIRS:
        asked = tokenizer(f"Q: {question}\nA:", return_tensors="pt").input_ids
        with torch.inference_mode():
            row = model.generate(asked, max_new_tokens=ROOM, do_sample=False)[0]
        assert tokenizer.decode(row[asked.shape[1] :], skip_special_tokens=True) == f" {answer}"
