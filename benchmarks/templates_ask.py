"""The parts of benchmarks/templates.py that ask a model for what it has learnt: `generate`,
`infifusion evaluate` and lm-evaluation-harness."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from templates_suite import PAIRS, ROOM, TASK, Found, Learnt
from transformers import AutoModelForCausalLM

import infifusion
from infifusion.evals.harness import read_items


def by_generate(learnt: Learnt) -> Found:
    """`model.generate` with what the saved folder says and nothing else."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(learnt.model), learnt.tokenizer
    found = Found()
    for number, (question, answer) in enumerate(PAIRS):
        asked = learnt.asked(question)
        if asked != learnt.trained[number][0]:
            found.say("apply_chat_template asks with other tokens than those of training")
        with torch.inference_mode():
            row = model.generate(torch.tensor([asked]), max_new_tokens=ROOM)[0, len(asked) :]
        found.cut_off += len(row) >= ROOM
        text = tokenizer.decode(row, skip_special_tokens=True)
        found.judge(answer, text, learnt.lead(number))
    return found


def by_evaluate(learnt: Learnt, out: Path) -> Found:
    """`infifusion evaluate`, whose text has no lead."""
    infifusion.evaluate(
        learnt.model,
        TASK,
        tasks_from="templates_suite:TASKS",
        data=learnt.run.parent,
        out=out,
        batch_size=len(PAIRS),
    )
    found = Found()
    items = read_items(next(out.glob(f"*/{TASK}.jsonl")))
    for number, (item, (_, answer)) in enumerate(zip(items, PAIRS, strict=True)):
        asked = learnt.tokenizer(item["prompt"], add_special_tokens=False)["input_ids"]
        if asked != learnt.trained[number][0]:
            found.say("evaluate asks with other tokens than those of training")
        found.cut_off += item["truncated"]
        found.judge(answer, item["output"], "")
    return found


def by_lm_eval(learnt: Learnt, folder: Path) -> Found:
    """`lm_eval --model hf --apply_chat_template`, with a task of the same items in a YAML file."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(learnt.run.parent / "train.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{response}}",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": ROOM},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / f"{TASK}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    # What `--model hf --model_args pretrained=FOLDER` makes.
    model: Any = HFLM(pretrained=str(learnt.model), device="cpu", batch_size=len(PAIRS))
    rows: dict[tuple[int, ...], list[int]] = {}
    generate = model._model_generate

    def watched(context: torch.Tensor, **settings: Any) -> torch.Tensor:
        made = generate(context=context, **settings)
        for asked, mask, row in zip(
            context.tolist(), settings["attention_mask"].tolist(), made.tolist(), strict=True
        ):
            kept = tuple(token for token, real in zip(asked, mask, strict=True) if real)
            rows[kept] = row[len(asked) :]
        return made

    model._model_generate = watched
    results: Any = simple_evaluate(
        model=model,
        tasks=[TASK],
        apply_chat_template=True,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        verbosity="ERROR",
    )
    found = Found()
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    stops = model.model.generation_config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops])
    trained = {tuple(asked): number for number, (asked, _) in enumerate(learnt.trained)}
    for asked, row in rows.items():
        if asked not in trained:
            first = learnt.tokenizer.bos_token_id
            longer = asked[0] == first and asked[1:] in trained
            found.say(
                f"lm_eval puts {learnt.tokenizer.bos_token} before the prompt that the template "
                "writes (add_bos_token=False asks as trained)"
                if longer
                else "lm_eval asks with other tokens than those of training"
            )
        found.cut_off += not stops & set(row)
    for number, (sample, (_, answer)) in enumerate(zip(samples, PAIRS, strict=True)):
        found.judge(answer, sample["resps"][0][0], learnt.lead(number))
    return found
