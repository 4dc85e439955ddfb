"""A run folder with every file of a finished run, its figures consistent with each other."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from infifusion.store.records import write_record

TASKS = ("demo_sums", "demo_boxed", "demo_code")
DOMAINS = ("sums", "boxed", "code")
SOURCES = ("arithmetician", "algebraist", "coder")
ITEMS = 300
ATTACK = (
    "<script>alert('x')</script><img src=x onerror=alert(1)> & </script> "
    "\u2028<svg onload=alert(2)>\u202egnirts\u202c <!-- \U0001f600 \ud800"
)
RIGHT = {
    "pivot": (0.30, 0.22, 0.35),
    "source:arithmetician": (0.85, 0.12, 0.20),
    "source:algebraist": (0.15, 0.82, 0.11),
    "source:coder": (0.20, 0.10, 0.90),
    "sft": (0.60, 0.62, 0.65),
    "unified": (0.70, 0.66, 0.72),
    "pairwise": (0.64, 0.58, 0.70),
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def wilson(correct: int, n: int) -> list[float]:
    z = 1.959963984540054
    p, scale = correct / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return [centre - half, centre + half]


def make_run_folder(root: Path) -> Path:
    """Fill `root` with a run of three sources, SFT, unified and pairwise fusion."""
    chance = random.Random(0)
    members = [f"pair-{source}" for source in SOURCES]
    _settings(root, members)
    _manifest(
        root / "prepare",
        12.5,
        {
            "train": dict.fromkeys(DOMAINS, 600),
            "validation": dict.fromkeys(DOMAINS, 0),
            "held_out": dict.fromkeys(DOMAINS, ITEMS),
            "left_out": {
                "too_long": {"pivot": 3, "coder": 1},
                "duplicate": 7,
                "contaminated": 2,
                "empty_response": 0,
            },
            "tokens": {"pivot": 41234, **dict.fromkeys(SOURCES, 40000)},
        },
    )
    for n, source in enumerate((*SOURCES, "pivot")):
        _manifest(
            root / "teach" / source,
            20.0 + n,
            {
                "examples": 1800,
                "tokens": 90000,
                "positions": 41000,
                "shards": 4,
                "mean_entropy": {d: 0.5 + 0.3 * abs(n - i) for i, d in enumerate(DOMAINS)},
                "bits_per_byte": {d: 0.4 + 0.5 * abs(n - i) for i, d in enumerate(DOMAINS)},
            },
        )
    _target(root, "unified", list(SOURCES), chance)
    for member, source in zip(members, SOURCES, strict=True):
        _target(root, member, [source], chance)
    for n, run in enumerate(["sft", "unified", *members]):
        _training(root, run, n, chance)
    _merge(root, members, chance)
    answers = _answers(root, chance)
    for n, member in enumerate(members):
        bits = {d: 0.9 + 0.1 * abs(n - i) for i, d in enumerate(DOMAINS)}
        _scores(root, member, {}, bits)
    _comparisons(root, answers)
    return root


def _settings(root: Path, members: list[str]) -> None:
    recipe = {
        "name": "demo",
        "seed": 0,
        "pivot": {"model": "/home/someone/suite/pivot"},
        "sources": {name: {"model": f"/home/someone/suite/{name}"} for name in SOURCES},
        "fuse": {"unified": {"function": "uncertainty"}, "pair": {"each": True}},
    }
    plan = {
        "targets": [{"name": "unified"}, *({"name": member} for member in members)],
        "runs": [
            {"name": "sft", "target": None},
            {"name": "unified", "target": "unified"},
            *({"name": member, "target": member} for member in members),
        ],
        "merges": [{"name": "pairwise", "method": "rsaf", "models": members}],
        "scored": list(RIGHT),
    }
    versions = {"infifusion": "0.1.0", "python": "3.11.7", "torch": "2.13.0"}
    command = "infifusion run demo.yaml --run-dir runs/demo"
    write(
        root / "resolved.json",
        {"recipe": recipe, "plan": plan, "command": command, "versions": versions},
    )
    (root / "recipe.yaml").write_text("name: demo  # as given\n", encoding="utf-8")


def _manifest(folder: Path, seconds: float, counts: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(
        path,
        {"fingerprint": {}, "counts": counts, "seconds": seconds, "files": {}, "bytes": {}},
    )


def _target(root: Path, name: str, sources: list[str], chance: random.Random) -> None:
    folder = root / "fuse" / name
    vocabulary = {"same_bytes": 300, "first_token": 90, "unmapped": 8, "special": 2}
    of = {
        "aligned": 36900,
        "aligned_share": 0.9,
        "gold_paths": 5123,
        "vocabulary": vocabulary,
        "unmapped_mass": 0.0012,
        "gated_examples": 0 if len(sources) > 1 else 700,
    }
    _manifest(
        folder,
        6.0,
        {
            "positions": 41000,
            "taught": 40500 if len(sources) > 1 else 24000,
            "sources": {source: of for source in sources},
            "tail_mass": 0.031,
        },
    )

    def weights(favoured: int) -> list[float]:
        raw = [chance.random() + (2.0 if i == favoured else 0.0) for i in range(len(sources))]
        return [round(value / sum(raw), 4) for value in raw]

    texts = {
        "sums": "Ben has 5 and buys 2 .\n5 + 2 = 7\n#### 7",
        "boxed": "5 t + 2 = 12 so t = 2 ; \\boxed{2}",
        "code": "    if k < 3 & k > 1 :\n        return k + 1",
    }
    samples = [
        {
            "id": f"{domain}-{n}",
            "domain": domain,
            "prompt": f"Prompt {n} of {domain} {ATTACK if n == 0 else ''}",
            "tokens": [
                {
                    "text": word + " ",
                    "weights": weights(d) if place % 7 else [0.0] * len(sources),
                    "entropy": [0.5] * (len(sources) - 1) + [None],
                    "gold": 0.8 if place % 7 else None,
                    "top": [
                        [[word + " ", 0.7], [ATTACK, 0.1], [f"{source[0]}\n", 0.0001]]
                        if place % 5
                        else None
                        for source in sources
                    ],
                    "target": [[word + " ", 0.8], ["other", 0.1]] if place % 7 else None,
                }
                for place, word in enumerate(text.split(" "))
            ],
        }
        for d, (domain, text) in enumerate(texts.items())
        for n in range(3)
    ]
    write(
        folder / "weights.json",
        {
            "sources": sources,
            "by_domain": {domain: weights(d) for d, domain in enumerate(DOMAINS)},
            "taught_share": {domain: 0.97 - 0.2 * d for d, domain in enumerate(DOMAINS)},
            "over_examples": [{"example": 36 * n, "weights": weights(n // 17)} for n in range(50)],
            "worst_tokens": {
                source: [
                    {"token": "\\boxed", "unaligned": 600, "seen": 600},
                    {"token": ATTACK, "unaligned": 12, "seen": 1200},
                ]
                for source in sources
            },
            "examples": samples,
        },
    )


def _training(root: Path, run: str, number: int, chance: random.Random) -> None:
    log = []
    for step in range(1, 451):
        entropy = 0.6 + 4 * math.exp(-step / 60) + 0.05 * number + 0.1 * chance.random()
        line = {"step": step, "epoch": step / 150, "loss": entropy, "cross_entropy": entropy}
        if run != "sft":
            line["divergence"] = 0.4 * entropy
        log.append({**line, "learning_rate": 1e-3, "grad_norm": 1.0})
    history = {
        "log": log,
        "steps": 450,
        "seconds": 75.5,
        "positions": 123000,
        "taught_positions": 0 if run == "sft" else 121000,
        "trainable_parameters": 612345,
        "parameters": 612345,
        "device": "cpu",
    }
    write(root / "distill" / run / "history.json", history)
    counts = {key: value for key, value in history.items() if key not in ("log", "seconds")}
    _manifest(root / "distill" / run, 80.0, counts)


def _merge(root: Path, members: list[str], chance: random.Random) -> None:
    kinds = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"]
    names = [f"model.layers.{n}.{kind}.weight" for n in range(4) for kind in kinds]
    names += ["model.embed_tokens.weight", "model.norm.weight"]
    tensors = []
    for name in names:
        rate, tau = 0.5 + 0.5 * chance.random(), 0.3 + 0.4 * chance.random()
        tensors.append(
            {
                "name": name,
                "numel": 1000,
                "rate": rate,
                "skewness": 0.4 + chance.random(),
                "tau": tau,
                "ratio": rate * tau,
                "kept": round(1000 * rate * tau),
                "coefficients": [0.5, 0.25, 0.25],
            }
        )
    write(
        root / "merge" / "pairwise" / "merge_details.json",
        {
            "method": "rsaf",
            "params": {"tau0": 0.5, "beta": 0.5},
            "base": "/home/someone/suite/pivot",
            "models": members,
            "tensors": tensors,
            "tau0_validation": [
                {"tau0": 0.1, "bits_per_byte": 0.8123},
                {"tau0": 0.5, "bits_per_byte": 0.7011},
            ],
        },
    )
    write(
        root / "merge" / "pairwise" / "deltas.json",
        {
            "models": members,
            "tensors": [
                {
                    "name": name,
                    "numel": 1000,
                    "base_norm": 10.0,
                    "norm": [1.0, 2.0, 0.0],
                    "cosine": [0.5, None, None],
                }
                for name in names
            ],
        },
    )
    _manifest(root / "merge" / "pairwise", 1.5, {"tensors": len(names)})
    for model in ("distill/unified", "distill/sft", "merge/pairwise"):
        write(root / model / "model" / "config.json", {})
    (root / "merge" / "pairwise" / "model" / "chat_template.jinja").write_text("{{ messages }}")


def _answers(root: Path, chance: random.Random) -> dict[tuple[str, str], list[bool]]:
    answers = {}
    hard = {task: [chance.random() for _ in range(ITEMS)] for task in TASKS}
    for model, levels in RIGHT.items():
        scores = {}
        for task, level in zip(TASKS, levels, strict=True):
            right = [0.6 * h + 0.4 * chance.random() < level for h in hard[task]]
            answers[model, task] = right
            folder = root / "evaluate" / model.replace(":", "__")
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{task}.jsonl").open("w", encoding="utf-8") as file:
                for n, correct in enumerate(right):
                    item = {
                        "id": f"{task}-{n}",
                        "prompt": f"Question {n}: 5 < 7 and so on?",
                        "output": f"Answer of {model} {ATTACK if n % 9 == 0 else ''}",
                        "extracted": str(n) if correct else None,
                        "gold": str(n),
                        "correct": correct,
                        "truncated": False,
                        "invalid": not correct and n % 5 == 0,
                    }
                    file.write(json.dumps(item) + "\n")
            scores[task] = {
                "n": ITEMS,
                "correct": sum(right),
                "accuracy": sum(right) / ITEMS,
                "ci95": wilson(sum(right), ITEMS),
                "headline": "exact",
                "metrics": {"exact": sum(right) / ITEMS},
                "truncated": 4,
                "invalid": 0,
            }
        bits = {d: 1.4 - level for d, level in zip(DOMAINS, levels, strict=True)}
        _scores(root, model, scores, bits)
    return answers


def _scores(root: Path, model: str, scores: dict[str, Any], bits: dict[str, float]) -> None:
    folder = root / "evaluate" / model.replace(":", "__")
    write(
        folder / "scores.json",
        {"path": f"runs/demo/{model}", "scores": scores, "bits_per_byte": bits, "seconds": 30.5},
    )
    _manifest(folder, 31.0, {"held_out": 900, "tasks": list(scores)})


def _comparisons(root: Path, answers: dict[tuple[str, str], list[bool]]) -> None:
    pairs = [("pivot", "sft"), ("pivot", "unified"), ("pivot", "pairwise")]
    pairs += [("sft", "unified"), ("sft", "pairwise")]
    found = []
    for a, b in pairs:
        for task in TASKS:
            left, right = answers[a, task], answers[b, task]
            gained = sum(y and not x for x, y in zip(left, right, strict=True))
            lost = sum(x and not y for x, y in zip(left, right, strict=True))
            n, difference = gained + lost, (gained - lost) / ITEMS
            half = 1.96 * math.sqrt(n / ITEMS - difference**2) / math.sqrt(ITEMS)
            tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
            found.append(
                {
                    "a": a,
                    "b": b,
                    "task": task,
                    "difference": difference,
                    "ci95": [difference - half, difference + half],
                    "p_value": min(1.0, 2 * tail),
                    "gained": gained,
                    "lost": lost,
                    "n": ITEMS,
                }
            )
    write(root / "evaluate" / "comparisons.json", {"comparisons": found})
