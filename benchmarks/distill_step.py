"""One distillation step against plain cross-entropy and dense KD; a whole run against TRL's GKD.

    .venv/bin/python benchmarks/distill_step.py [--json FILE] [--repeats 5] [--skip-gkd]
        [--positions 4096] [--vocabulary 152000] [--hidden 64] [--loss-rows 256]

Step: a Llama of 2 layers with random weights, 8 examples, one response position for every token but
the first of each; forward and backward, no optimizer. `plain` is transformers'
model(labels=...).loss; `dense` the usual KD code: all logits, the top-K targets scattered over the
vocabulary; `ours` the step of `distill`. Each case runs in a process of its own. Memory is the
highest resident size during one step with glibc's own settings, over that before it, less the
hidden states; `dense` runs on a quarter of the positions and its figure is multiplied by 4 (all of
it is tensors of [positions, vocabulary], more than many machines have). Time is the median of
further steps in other processes (three of each, in turn) that keep freed memory, as `distill` does,
on the wall and as CPU time, which other work on the machine disturbs less; at a quarter of the
positions for all three, because kept memory is fragmented and `plain` would take 20 GB at 4096.

Run: examples per second over three epochs, from model folders and text to a saved model. Ours is
`infifusion run --until distill`, teacher pass included; TRL's GKDTrainer (lmbda 0, needs trl 1.16)
runs the teacher in every step, on the same tokens in batches of the same size, with jsd, float32,
freed memory kept too. Imports are not counted. Prints markdown tables; --json writes the figures.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

K, EPOCHS, BATCH = 10, 3, 4
STEP_CASES = ("plain", "dense", "ours")
PART, ROUNDS = 4, 3


def main() -> None:
    """Run everything, each case in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=152_000)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--loss-rows", type=int, default=256)
    parser.add_argument("--loss", default="kl")
    parser.add_argument("--examples", type=int, default=32, help="of the whole run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run-repeats", type=int, default=3)
    parser.add_argument("--skip-gkd", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help="internal: run one case and print its figures")
    parser.add_argument("--folder", type=Path, help="internal: models and data of the whole run")
    options = parser.parse_args()
    if options.case is not None:
        kind, _, name = options.case.partition(":")
        work = {"memory": step_memory, "time": step_time, "run": whole_run}[kind]
        print(json.dumps(work(name, options)))
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # both sides on the CPU
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    with_gkd = not options.skip_gkd and importlib.util.find_spec("trl") is not None
    if with_gkd:
        versions["trl"] = importlib.metadata.version("trl")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{os.cpu_count()} cores, {threads} threads, {versions}\n")
    figures = {"versions": versions, "step": step_table(options)}
    if with_gkd:
        figures["run"] = run_table(options)
    else:
        print(
            "\nTRL's GKD: skipped" + ("" if options.skip_gkd else ", because trl is not installed")
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Figure by figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def case(name: str, options: argparse.Namespace, folder: Path | None = None) -> dict[str, float]:
    """The figures of one case, from a process of its own."""
    command = [sys.executable, __file__, "--case", name]
    for field in ("positions", "vocabulary", "hidden", "loss_rows", "loss", "examples", "repeats"):
        command += [f"--{field.replace('_', '-')}", str(getattr(options, field))]
    command += ["--folder", str(folder)] if folder else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def step_table(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Memory and time of one step, case by case."""
    found = {name: case(f"memory:{name}", options) for name in STEP_CASES}
    rounds = [{name: case(f"time:{name}", options) for name in STEP_CASES} for _ in range(ROUNDS)]
    for name, row in found.items():  # in turn, so that a busy minute of the machine hits all
        row |= medians([one[name] for one in rounds])
    shape = f"V = {options.vocabulary:,}, T = {options.positions:,}, H = {options.hidden}"
    print(f"One step, {shape} (time: T / {PART}), {options.loss}, loss_rows {options.loss_rows}\n")
    print("| step | extra memory, MB | of dense | seconds | times plain | CPU s | times plain |")
    print("|---|---|---|---|---|---|---|")
    for name, row in found.items():
        memory, seconds, cpu = row["extra_mb"], row["seconds"], row["cpu_seconds"]
        print(
            f"| {name} | {memory:,.0f} | 1/{found['dense']['extra_mb'] / memory:.1f} | "
            f"{seconds:.2f} | {seconds / found['plain']['seconds']:.2f} | "
            f"{cpu:.2f} | {cpu / found['plain']['cpu_seconds']:.2f} |"
        )
    return found


def run_table(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Examples per second of whole runs, in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder, options)
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
        for n in range(options.run_repeats):
            for side, done in runs.items():
                done.append(case(f"run:{side}", options, folder / f"{side}-{n}"))
    found = {side: medians(done) for side, done in runs.items()}
    print(
        f"\nWhole run, {options.examples} examples, {EPOCHS} epochs, batches of {BATCH}, "
        f"V = {options.vocabulary:,} (medians of {options.run_repeats})\n"
    )
    print("| run | seconds | examples/s | ratio | CPU s | ratio |\n|---|---|---|---|---|---|")
    for side, row in found.items():
        row["examples_per_second"] = options.examples * EPOCHS / row["seconds"]
        ratio, cpu_ratio = (found["trl"][key] / row[key] for key in ("seconds", "cpu_seconds"))
        print(
            f"| {side} | {row['seconds']:.1f} | {row['examples_per_second']:.2f} | {ratio:.1f} | "
            f"{row['cpu_seconds']:.1f} | {cpu_ratio:.1f} |"
        )
    return found


# ---- one step ----


def make_step(name: str, options: argparse.Namespace):
    """A function that does one step on so many positions, with its model and data in place."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(llama(options, LlamaConfig))
    vocabulary = options.vocabulary

    def batch(positions: int) -> dict[str, torch.Tensor]:
        examples = 8
        length = positions // examples + 1  # the first token is the prompt
        ids_BL = torch.randint(vocabulary, (examples, length))
        target = torch.randn(examples * (length - 1), K + 1).softmax(1)
        predicts_BL = torch.ones(examples, length, dtype=torch.bool)
        predicts_BL[:, -1] = False
        return {
            "input_ids": ids_BL,
            "attention_mask": torch.ones_like(ids_BL),
            "predicts_BL": predicts_BL,
            "gold_R": ids_BL[:, 1:].flatten(),
            "taught_R": torch.ones(len(target), dtype=torch.bool),
            "ids_RK": torch.randint(vocabulary // K, (len(target), K))
            + torch.arange(K) * (vocabulary // K),  # ten different ids a row
            "prob_RK": target[:, :K].contiguous(),
            "zscore_RK": torch.randn(len(target), K).sort(dim=1, descending=True).values,
        }

    if name == "ours":
        model = ours(model, options)

    def step(data: dict[str, torch.Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        inputs = {"input_ids": data["input_ids"], "attention_mask": data["attention_mask"]}
        if name == "plain":
            loss = model(**inputs, labels=data["input_ids"]).loss
        elif name == "dense":
            loss = dense_objective(model(**inputs).logits[data["predicts_BL"]], data)
        else:
            loss = model(**data)["loss"] / len(data["gold_R"])
        loss.backward()

    return step, batch


def llama(options: argparse.Namespace, config):
    """Two layers, a head of its own; the vocabulary is nearly all of it."""
    return config(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=2 * options.hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
    )


def ours(model, options: argparse.Namespace):
    """The step of `distill`."""
    from infifusion.losses import LOSSES, PARAMS
    from infifusion.train.chunked import with_position_loss

    function, params = LOSSES[options.loss], PARAMS[options.loss]()

    def loss(log_CV, rows):
        return function(log_CV, rows, params)

    return with_position_loss(model, loss, gold_weight=0.1, loss_rows=options.loss_rows)


def dense_objective(logits_RV, data):
    """0.1 CE + 0.9 KL, the target over the whole vocabulary, as one writes it by hand."""
    from torch.nn import functional

    log_RV = functional.log_softmax(logits_RV.float(), dim=-1)
    del logits_RV
    target_RV = log_RV.new_zeros(log_RV.shape).scatter_(1, data["ids_RK"], data["prob_RK"])
    kl = functional.kl_div(log_RV, target_RV, reduction="sum")
    ce = functional.nll_loss(log_RV, data["gold_R"], reduction="sum")
    return (0.1 * ce + 0.9 * kl) / len(log_RV)


def step_memory(name: str, options: argparse.Namespace) -> dict[str, float]:
    """MB by which one step's highest resident size is over the state before it."""
    step, batch = make_step(name, options)
    step(batch(16))  # libraries, threads and their buffers
    part = PART if name == "dense" else 1
    data = batch(options.positions // part)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = resident("VmRSS")
    step(data)
    hidden = options.positions // part * options.hidden * 4
    return {"extra_mb": part * (resident("VmHWM") - before - hidden) / 1e6}


def step_time(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step, after one."""
    from infifusion.process.runtime import keep_freed_memory

    keep_freed_memory()
    step, batch = make_step(name, options)
    data = batch(options.positions // PART)
    step(data)
    times = []
    for _ in range(options.repeats):
        started = time.perf_counter(), time.process_time()
        step(data)
        times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    seconds, cpu_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def resident(field: str) -> int:
    """Bytes, from /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(field + ":")[2].split()[0]) * 1024


# ---- a whole run ----


def texts(count: int) -> list[dict[str, str]]:
    """Little sums, about 110 tokens each with the tokenizer made here."""
    found = []
    for n in range(count):
        sums = [f"{n + k} plus {3 * k + n % 7} is {4 * k + n + n % 7}" for k in range(10)]
        found.append({"prompt": f"Add up, list {n}.\n", "response": "; ".join(sums) + "."})
    return found


def make_models(folder: Path, options: argparse.Namespace) -> None:
    """student/ and teacher/ of one vocabulary, and train.jsonl."""
    import torch
    from bpe import byte_level_bpe
    from transformers import AutoModelForCausalLM, LlamaConfig

    records = texts(options.examples)
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    text = [record["prompt"] + record["response"] for record in records]
    tokenizer = byte_level_bpe(text, 400, pad_token="<eos>")
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(llama(options, LlamaConfig)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def whole_run(side: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one run of ours or of TRL's, after imports."""
    import torch  # noqa: F401

    from infifusion.process.runtime import keep_freed_memory

    keep_freed_memory()
    root = options.folder.parent
    prepared = our_run(root, options.folder) if side == "ours" else trl_run(root, options.folder)
    started = time.perf_counter(), time.process_time()
    prepared()
    return {
        "seconds": time.perf_counter() - started[0],
        "cpu_seconds": time.process_time() - started[1],
    }


def our_run(root: Path, out: Path):
    """`infifusion run --until distill`."""
    from infifusion.recipe import Recipe
    from infifusion.stages.run import run_recipe

    recipe_file = out.with_suffix(".yaml")
    recipe_file.write_text("")
    values = {
        "name": "gkd",
        "pivot": {"model": str(root / "student")},
        "sources": {"teacher": {"model": str(root / "teacher")}},
        "data": {"train": [{"path": str(root / "train.jsonl"), "domain": "sums"}]},
        "teach": {"top_k": K},
        "fuse": {"all": {"function": "mean"}},
        "distill": {"all": {"target": "all", "loss": "jsd", "gold_weight": 0.0}},
        "training": {
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": BATCH,
            "save_strategy": "no",
        },
    }
    recipe = Recipe.from_mapping(values, where="benchmark")
    return lambda: run_recipe(recipe, out, until="distill", recipe_file=recipe_file, command="")


def trl_run(root: Path, out: Path):
    """GKDTrainer on the same tokens: prompt, response, end of text."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def work() -> None:
        tokenizer = AutoTokenizer.from_pretrained(root / "student")
        records = []
        for line in (root / "train.jsonl").read_text().splitlines():
            record = json.loads(line)
            prompt = tokenizer(record["prompt"])["input_ids"]
            response = [*tokenizer(record["response"])["input_ids"], tokenizer.eos_token_id]
            mask = [0] * len(prompt) + [1] * len(response)
            records.append(
                {
                    "prompt": record["prompt"],
                    "input_ids": prompt + response,
                    "completion_mask": mask,
                }
            )
        trainer = GKDTrainer(
            model=AutoModelForCausalLM.from_pretrained(root / "student", dtype="float32"),
            teacher_model=AutoModelForCausalLM.from_pretrained(root / "teacher", dtype="float32"),
            args=GKDConfig(
                output_dir=str(out),
                lmbda=0.0,
                beta=0.5,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                learning_rate=2e-5,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(records),
            processing_class=tokenizer,
        )
        trainer.train()
        trainer.save_model(str(out))

    return work


if __name__ == "__main__":
    main()
