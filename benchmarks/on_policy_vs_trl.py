"""Samples per second of on-policy training, beside TRL's DistillationTrainer.

    python benchmarks/on_policy_vs_trl.py [--model FOLDER] [--steps 6] [--batch 8] [--new 64]
        [--rounds 3] [--json benchmarks/out/on_policy_vs_trl.json]

One model is pivot and source (TRL: student and teacher), so both share a vocabulary, which TRL
needs; without --model a tiny pair is made. Same prompts, same batch, answers of at most --new
tokens at temperature 1, reverse KL, AdamW, float32, the same number of threads. Ours keeps K = 10
entries a position and reduces the full vocabulary to them; TRL compares full rows. The two run in
processes of their own, turn and turn about; seconds are those of all steps but the first, by a
callback of the trainer. Then the parts of ours alone: writing the answers, the two passes over
them, and training on as many given examples of the same length.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WORDS = "red blue green one two three coins apples buys sells gives takes left more"


def prompts(count: int) -> list[str]:
    """Different ones, of like length."""
    words = WORDS.split()
    return [
        f"Question {n}: " + " ".join(words[(n * 7 + k * 3) % len(words)] for k in range(12)) + "\n"
        for n in range(count)
    ]


def tiny(folder: Path) -> Path:
    """A Llama of two layers with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(prompts(500), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        eos_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def timed() -> Any:
    """A callback that notes when steps end."""
    from transformers import TrainerCallback

    class Ends(TrainerCallback):
        times: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.times.append(time.perf_counter())

    return Ends()


def training(batch: int, steps: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": steps,
        "save_strategy": "no",
        "report_to": "none",
    }


def by_trl(model: Path, steps: int, batch: int, new: int) -> list[float]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DistillationConfig, DistillationTrainer

    with tempfile.TemporaryDirectory() as out:
        settings = DistillationConfig(
            output_dir=out,
            **training(batch, steps),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            max_completion_length=new,
            temperature=1.0,
            beta=1.0,
            disable_tqdm=True,
        )
        ends = timed()
        trainer = DistillationTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
            teacher_model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": prompts(steps * batch)}),
            processing_class=AutoTokenizer.from_pretrained(model),
            callbacks=[ends],
        )
        trainer.train()
    return ends.times


def recipe_of(model: Path, folder: Path, steps: int, batch: int, new: int) -> dict[str, Any]:
    lines = [{"prompt": text, "response": "one two"} for text in prompts(steps * batch)]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    one = {"model": str(model), "dtype": "float32", "chat_template": None}
    return {
        "name": "own",
        "pivot": one,
        "sources": {"itself": one},
        "data": {"train": [{"path": str(path), "domain": "all"}], "max_length": 1024},
        "fuse": {"one": {"gate": "none", "teacher": "online"}},
        "training": training(batch, steps),
        "distill": {
            "own": {
                "target": "one",
                "loss": "reverse_kl",
                "on_policy": {
                    "share": 1,
                    "max_new_tokens": new,
                    "batch_size": batch,
                    "cut_off": "keep",
                    "stop_at_growth": None,
                },
            }
        },
    }


def by_us(model: Path, steps: int, batch: int, new: int) -> list[float]:
    from infifusion.process.runtime import quiet_libraries
    from infifusion.recipe import Recipe
    from infifusion.stages import distill as stage
    from infifusion.stages.prepare import prepare
    from infifusion.store.folders import RunFolder

    quiet_libraries()
    ends = timed()
    stage.find_callbacks = lambda names: [("ends", lambda: ends)]  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as place:
        values = recipe_of(model, Path(place), steps, batch, new)
        recipe, folder = Recipe.from_mapping(values, where="here"), RunFolder(Path(place) / "run")
        prepare(recipe, folder)
        stage.distill(recipe, folder, recipe.resolve().runs[0])
        sheets = [json.loads(p.read_text()) for p in folder.root.rglob("round-*.json")]
        learnt = sum(sheet["figures"]["learnt"] for sheet in sheets)
        print(f"learnt {learnt} of {steps * batch} answers", file=sys.stderr)
    return ends.times


def parts(model: Path, steps: int, batch: int, new: int) -> dict[str, float]:
    """Seconds a step of each part alone."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from infifusion.losses.reverse_kl import Params, reverse_kl
    from infifusion.teacher.batching import answers, way_of
    from infifusion.teacher.forward import believe, make_teacher
    from infifusion.teacher.rows import Draw, Row
    from infifusion.train.batches import Collator, Conversations
    from infifusion.train.chunked import with_position_loss
    from infifusion.types import Rendered, Target

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    asked = [tokenizer(text).input_ids for text in prompts(steps * batch)]
    way_of(loaded)
    seconds = dict.fromkeys(("generation", "scoring", "training"), 0.0)
    teacher = make_teacher(loaded, top_k=10, batch_tokens=8192, head_rows=None)
    trained = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    def loss(log: torch.Tensor, rows: Any) -> torch.Tensor:
        return reverse_kl(log, rows, Params())

    trained = with_position_loss(trained, loss, gold_weight=0.0, loss_rows=256)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-6)
    for step in range(steps):
        some = asked[step * batch : (step + 1) * batch]
        began = time.perf_counter()
        rows = [Row(n, ids, new, str(n), Draw(1.0, 1.0, n)) for n, ids in enumerate(some)]
        done = sorted(answers(loaded, rows, ends=[0], at_once=batch), key=lambda row: row.number)
        wrote = time.perf_counter()
        length = [len(row.prompt) + len(row.ids) for row in done]
        count = [len(row.ids) for row in done]
        rendered = Rendered(
            np.concatenate([row.prompt + row.ids for row in done]).astype(np.int32),
            np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
            np.array([len(row.prompt) for row in done], np.int32),
            np.concatenate([np.arange(n) for n in count]).astype(np.int32),
            np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        )
        scoring = time.perf_counter()
        names = [str(n) for n in range(batch)]
        beliefs = believe(teacher, rendered, 0, batch, names=names)
        believe(teacher, rendered, 0, batch, names=names)
        scored = time.perf_counter()
        positions = len(beliefs.gold_U)
        target = Target(
            beliefs.ids_UK,
            np.exp(beliefs.logprob_UK.astype(np.float32)),
            np.ones((1, positions), np.float32),
            None,
        )
        data = Conversations(rendered)
        batched = Collator(rendered, target)([data[n] for n in range(batch)])
        out = trained(**batched)
        (out["loss"] / positions).backward()
        optimizer.step()
        optimizer.zero_grad()
        ended = time.perf_counter()
        if step:
            seconds["generation"] += (wrote - began) / (steps - 1)
            seconds["scoring"] += (scored - scoring) / (steps - 1)
            seconds["training"] += (ended - scored) / (steps - 1)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/on_policy_vs_trl.json"))
    parser.add_argument("--one", choices=["ours", "trl", "parts"], help="measure this one here")
    asked = parser.parse_args()
    sizes = (asked.steps, asked.batch, asked.new)
    if asked.one:
        if asked.one == "parts":
            print(json.dumps(parts(asked.model, *sizes)))
            return
        times = (by_us if asked.one == "ours" else by_trl)(asked.model, *sizes)
        print(json.dumps((times[-1] - times[0]) / (len(times) - 1)))
        return
    with tempfile.TemporaryDirectory() as place:
        model = asked.model or tiny(Path(place))

        def measured(kind: str) -> Any:
            words = ["--model", str(model), "--one", kind]
            for name, value in zip(("--steps", "--batch", "--new"), sizes, strict=True):
                words += [name, str(value)]
            run = [sys.executable, __file__, *words]
            done = subprocess.run(run, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{kind}: {done.stderr[-3000:]}")
            print(f"{kind}: {done.stdout.strip()} {done.stderr.strip()[-60:]}", file=sys.stderr)
            return json.loads(done.stdout.strip().splitlines()[-1])

        found: dict[str, list[Any]] = {"ours": [], "trl": [], "parts": []}
        for _ in range(asked.rounds):
            for kind, values in found.items():
                values.append(measured(kind))
    ours, theirs = (statistics.median(found[kind]) for kind in ("ours", "trl"))
    alone = statistics.median(sum(one.values()) for one in found["parts"])
    result = {
        "model": str(asked.model or "tiny"),
        **dict(zip(("steps", "batch", "new"), sizes, strict=True)),
        "seconds_a_step": {**found},
        "samples_per_second": {"ours": asked.batch / ours, "trl": asked.batch / theirs},
        "times_trl": theirs / ours,
        "times_parts_alone": ours / alone,
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
