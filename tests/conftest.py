"""Tiny models, tokenizers and data that tests make themselves; nothing is downloaded."""

from __future__ import annotations

import json
import os
import signal

# Before the imports below: huggingface_hub and tokenizers read these once.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

torch.set_num_threads(1)
# A shell that starts the tests in the background has Ctrl-C ignored, by all they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared"

TEXTS = [
    "Ben has 5 coins and buys 2 more. How many coins?\n5+2=7 #### 7",
    "Find t such that 5t + 2 = 12.\nt = 10/5 = 2. \\boxed{2}",
    'def f(k):\n    """Add one."""\n    return k + 1',
    "naïve café – 日本語 🙂 \t tabs  and   blanks\r\n",
] * 4


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests leave the user's cache alone."""
    os.environ["INFIFUSION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and tokenizers; skips where it is absent."""
    if not (SHARED / "tokenizers").is_dir():
        pytest.skip(f"{SHARED} is not here: real tokenizers and data are not part of the project")
    return SHARED


def byte_level_tokenizer(size: int, texts: list[str] = TEXTS) -> PreTrainedTokenizerFast:
    """A ByteLevel BPE tokenizer, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def sentencepiece_tokenizer(size: int, texts: list[str] = TEXTS) -> PreTrainedTokenizerFast:
    """A BPE tokenizer in the manner of SentencePiece: dummy prefix, byte fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - 256, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([text for text in texts if text.isascii()], trainer)
    values = json.loads(tokenizer.to_str())
    vocabulary = values["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    tokenizer = Tokenizer.from_str(json.dumps(values))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )


def tiny_model(kind: str, vocabulary: int, seed: int) -> AutoModelForCausalLM:
    """A random causal language model of a few thousand parameters."""
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 0,
        "tie_word_embeddings": kind == "llama",
    }
    torch.manual_seed(seed)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary, n_embd=24, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0
        )
    else:
        config = (LlamaConfig if kind == "llama" else Qwen2Config)(**shape)
    return AutoModelForCausalLM.from_config(config)


def learn(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[tuple[str, str]],
    steps: int = 150,
) -> None:
    """Train until the model knows each response, and its end, by heart."""
    rows, labels = [], []
    for prompt, response in pairs:
        asked = tokenizer(prompt).input_ids
        whole = tokenizer(prompt + response).input_ids
        said = [*whole[len(asked) :], tokenizer.eos_token_id]
        rows.append(asked + said)
        labels.append([-100] * len(asked) + said)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    wanted = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
    model.eval()  # no dropout: it is to know them for certain
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pivot, three sources (each its own architecture and tokenizer) and data.

    pivot/ and a/ b/ c/ are model folders; train.jsonl and held_out.jsonl hold prompt, response.
    """
    folder = tmp_path_factory.mktemp("suite")
    tokenizers = {
        "pivot": ("llama", byte_level_tokenizer(320)),
        "a": ("llama", byte_level_tokenizer(300, TEXTS[:1])),
        "b": ("gpt2", sentencepiece_tokenizer(330)),
        "c": ("qwen2", byte_level_tokenizer(290, TEXTS[2:3])),
    }
    for seed, (name, (kind, tokenizer)) in enumerate(tokenizers.items()):
        tokenizer.save_pretrained(folder / name)
        # Real models pad their vocabulary beyond the tokenizer's.
        tiny_model(kind, len(tokenizer) + 5, seed).save_pretrained(folder / name)
    write_jsonl(folder / "train.jsonl", [arithmetic(n) for n in range(40)])
    write_jsonl(folder / "held_out.jsonl", [arithmetic(n) for n in range(40, 52)])
    return folder


def arithmetic(n: int) -> dict[str, str]:
    """The n-th of some distinct little problems."""
    a, b = n % 7 + 1, n // 7 + 2
    return {"prompt": f"Ben has {a} coins, buys {b} (é🙂).\n", "response": f"{a}+{b}={a + b} coins"}


def write_jsonl(path: Path, records: list[dict]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., dict]:
    """Makes the values of a small, complete recipe over a suite; keywords replace whole keys."""

    def make(suite: Path, **changes: object) -> dict:
        values = {
            "name": "tiny",
            "pivot": {"model": str(suite / "pivot")},
            "sources": {name: {"model": str(suite / name)} for name in "abc"},
            "data": {
                "train": [{"path": str(suite / "train.jsonl"), "domain": "sums"}],
                "held_out": [{"path": str(suite / "held_out.jsonl"), "domain": "sums"}],
                "max_length": 128,
                "validation_share": 0.1,
            },
            "teach": {"top_k": 5, "shard_examples": 16},
            "fuse": {
                "unified": {"function": "uncertainty", "gate": "none"},
                "pair": {"function": "mean", "each": True, "gate": "bits_per_byte"},
            },
            "training": {
                "learning_rate": 1e-3,
                "max_steps": 4,
                "per_device_train_batch_size": 4,
                "logging_steps": 1,
            },
            "distill": {
                "sft": {},
                "unified": {"target": "unified", "gold_weight": 0.1},
                "pair": {"target": "pair", "each": True},
            },
            "merge": {"pairwise": {"method": "rsaf", "models": ["pair"]}},
        }
        return {**values, **changes}

    return make


def lives(pid: int) -> bool:
    """Whether a process is there, and no corpse that nobody has looked at yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
