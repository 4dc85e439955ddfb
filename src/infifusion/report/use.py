"""How to use what a run made: code and command lines, ready to be copied."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from infifusion.report.kinds import kind_of
from infifusion.report.run_folder import Run
from infifusion.store.records import Json

EXAMPLE = "What is 17 + 25?"
LONGEST_PROMPT = 160


@dataclass(frozen=True)
class Usable:
    """A model of the run with its folder and what to type; best: the highest mean accuracy."""

    name: str
    kind: str
    path: str
    best: bool
    python: str
    commands: list[tuple[str, str]]


def use_view(run: Run, summary: Json) -> list[Usable]:
    """Every model that the run made and still has, fused ones first, the best of them first.

    Paths start at the run's own folder, so that no other part of this machine's paths is shown.
    """
    folder = run.folder.resolve()
    made = {name: folder / "merge" / name / "model" for name in run.merges}
    made |= {name: folder / "distill" / name / "model" for name in run.histories}
    means = {
        name: sum(s["accuracy"] for s in m["scores"].values()) / len(m["scores"])
        for name, m in summary["models"].items()
        if m["scores"]
    }
    names = [name for name, path in made.items() if path.is_dir()]
    names.sort(key=lambda name: (kind_of(run, name) != "fused", -means.get(name, -1.0)))
    best = names[0] if names and names[0] in means and kind_of(run, names[0]) == "fused" else None
    return [_usable(run, name, made[name], best=name == best) for name in names]


def _usable(run: Run, name: str, model: Path, *, best: bool) -> Usable:
    folder = run.folder.resolve()
    path, prompt = str(Path(folder.name) / model.relative_to(folder)), _prompt(run)
    chat = has_chat_template(model)
    asked = prompt if chat else _plain_template(run).replace("{prompt}", prompt)
    return Usable(
        name,
        kind_of(run, name),
        path,
        best,
        snippet(path, asked, chat=chat),
        _commands(path, name, prompt.strip()),
    )


def has_chat_template(model: Path) -> bool:
    """Whether a model folder's tokenizer can render a conversation."""
    config = model / "tokenizer_config.json"
    return any(model.glob("*.jinja")) or (
        config.is_file() and '"chat_template"' in config.read_text(encoding="utf-8")
    )


def _prompt(run: Run) -> str:
    """A question that the run was trained on where one is short, on one line, without control
    characters; else any question."""
    for weights in run.weights.values():
        for sample in weights["examples"]:
            asked = sample["prompt"]
            if 0 < len(asked) <= LONGEST_PROMPT and asked.strip().isprintable():
                return asked
    return EXAMPLE


def _plain_template(run: Run) -> str:
    """How the recipe puts a prompt before a response where a model has no chat template."""
    data = run.resolved.get("recipe", {}).get("data", {})
    return data.get("plain_template", "{prompt}{response}").partition("{response}")[0]


def snippet(path: str, prompt: str, *, chat: bool) -> str:
    """Python that loads a model folder and answers one prompt."""
    asked = (
        "ids = tokenizer.apply_chat_template(\n"
        '    [{"role": "user", "content": prompt}],\n'
        '    add_generation_prompt=True, return_tensors="pt", return_dict=True,\n'
        ")"
        if chat
        else 'ids = tokenizer(prompt, return_tensors="pt")'
    )
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

path = {path!r}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")

prompt = {prompt!r}
{asked}
answer = model.generate(**ids.to(model.device), max_new_tokens=256, do_sample=False)
print(tokenizer.decode(answer[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def _commands(path: str, name: str, prompt: str) -> list[tuple[str, str]]:
    """(tool, command lines). None of these tools is part of this installation."""
    quoted, word = shlex.quote(path), shlex.quote(name)
    file = shlex.quote(f"{name}.gguf")
    return [
        (
            "vLLM, a server with OpenAI's interface",
            f"vllm serve {quoted} --served-model-name {word}",
        ),
        (
            "llama.cpp, for the architectures that its converter knows",
            f"python llama.cpp/convert_hf_to_gguf.py {quoted} --outfile {file} --outtype bf16\n"
            f"llama-cli -m {file} -p {shlex.quote(prompt)}",
        ),
        (
            "lm-evaluation-harness",
            f"lm_eval --model hf --model_args {shlex.quote(f'pretrained={path}')} --tasks gsm8k",
        ),
    ]
