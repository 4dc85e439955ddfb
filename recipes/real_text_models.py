"""Make the models of recipes/real_text.yaml: three small specialists and a weak pivot.

    .venv/bin/python recipes/real_text_models.py [--data ../shared] [--out runs/real_text_models]

Each source is trained from scratch on the train file of its domain mixed with a little of the
others, with a real tokenizer and an architecture of its own. Reads GSM8K train, MATH train 4500
and MBPP from DATA/data and tokenizers from DATA/tokenizers; skips what is finished. About 10
minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from infifusion.data.examples import read_examples
from infifusion.data.tokenize import as_rendered
from infifusion.data.tokenizers import load_tokenizer
from infifusion.process.runtime import log, quiet_libraries, set_up_logging
from infifusion.recipe import DataSource, Model
from infifusion.stages.rendering import tokenize_examples
from infifusion.store.artifacts import State, close_stage, open_stage
from infifusion.train.job import Job
from infifusion.train.run import train

# The same fields and templates as in recipes/real_text.yaml.
DATA = {
    "gsm8k": ("gsm8k_train.jsonl", "Question: {question}\nAnswer:", " {answer}"),
    "math": ("math_train4500.jsonl", "Problem:\n{problem}\n\nSolution:", " {solution}"),
    "code": ("mbpp.jsonl", "# {text}\n", "code"),
}
MAX_LENGTH = 512


@dataclass(frozen=True)
class Settings:
    """One model; counts are training examples per domain."""

    kind: str
    tokenizer: str
    width: int
    layers: int
    counts: dict[str, int]
    steps: int


MODELS = {
    "gsm8k": Settings(
        "llama", "mistral_v1", 128, 3, {"gsm8k": 7473, "math": 600, "code": 150}, 900
    ),
    "math": Settings("gpt2", "gpt2", 128, 3, {"gsm8k": 600, "math": 4500, "code": 150}, 600),
    "code": Settings("qwen2", "qwen", 64, 3, {"gsm8k": 150, "math": 100, "code": 974}, 500),
    "pivot": Settings("llama", "mistral_v1", 112, 3, {"gsm8k": 700, "math": 400, "code": 200}, 120),
}


def config_of(settings: Settings, vocabulary: int, end: int):
    """The architecture; weights start wider than the libraries' 0.02, which suits larger widths."""
    if settings.kind == "gpt2":
        return GPT2Config(
            vocab_size=vocabulary,
            n_embd=settings.width,
            n_layer=settings.layers,
            n_head=4,
            n_positions=1024,
            initializer_range=0.05,
            bos_token_id=end,
            eos_token_id=end,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    make = LlamaConfig if settings.kind == "llama" else Qwen2Config
    return make(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=end,
    )


def make(name: str, data: Path, out: Path) -> None:
    """Train one model from scratch into out/name/model."""
    torch.set_num_threads(1)
    set_up_logging()
    quiet_libraries()
    settings = MODELS[name]
    if open_stage(out / name, {"settings": str(settings)}) is State.DONE:
        return
    tokenizer_folder = data / "tokenizers" / settings.tokenizer
    tokenizer = load_tokenizer(str(tokenizer_folder))
    examples = []
    for domain, count in settings.counts.items():
        file, prompt, response = DATA[domain]
        path = str(data / "data" / file)
        source = DataSource(path=path, domain=domain, prompt=prompt, response=response, limit=count)
        # The pivot draws its few examples by another seed than the sources.
        examples += read_examples(source, seed=1 if name == "pivot" else 0)[0]
    start = out / name / "start"
    tokenizer.save_pretrained(start)
    torch.manual_seed(0)
    config = config_of(settings, len(tokenizer), tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(start)
    tokenized = tokenize_examples(
        Model(model=str(start)),
        examples,
        plain_template="{prompt}{response}",
        title=f"tokenize {name}",
    )
    tokenized = [one for one in tokenized if len(one.ids) <= MAX_LENGTH]
    history = train(
        Job(
            title=f"train {name}",
            model=str(start),
            tokenizer=tokenizer,
            rendered=as_rendered(tokenized),
            target=None,
            loss=None,
            gold_weight=1.0,
            loss_rows=512,
            training={
                "max_steps": settings.steps,
                "per_device_train_batch_size": 8,
                "learning_rate": 2e-3,
                "warmup_steps": 20,
                "weight_decay": 0.01,
                "adam_beta2": 0.98,
                "logging_steps": 50,
            },
            lora=None,
            seed=0,
        ),
        out / name,
        name_of=lambda n: examples[n].id,
    )
    shutil.rmtree(start)
    seconds = history.pop("seconds")
    files = list((out / name / "model").iterdir())
    close_stage(
        out / name, {"settings": str(settings)}, counts=history, seconds=seconds, files=files
    )
    log.info("%s: %d parameters, %.0f s", name, history["parameters"], seconds)


def main() -> None:
    """Make all four, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("runs/real_text_models"))
    options = parser.parse_args()
    if not (options.data / "tokenizers").is_dir():
        parser.error(f"{options.data} holds no data/ and tokenizers/; name their folder by --data")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as pool:
        for job in [pool.submit(make, name, options.data, options.out) for name in MODELS]:
            job.result()
    log.info("Next: infifusion run recipes/real_text.yaml")
    print("Next: .venv/bin/infifusion run recipes/real_text.yaml")


if __name__ == "__main__":
    main()
