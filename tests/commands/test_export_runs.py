"""An exported file in llama.cpp itself: the same tokens, and the same first answers.

Needs three things that are no part of the project, and names the one that is lacking: a published
model (INFIFUSION_REAL_MODELS, as tests/stages/test_real_models.py), llama.cpp's converter
(LLAMA_CPP), and llama.cpp, here the package node-llama-cpp of npm (NODE_LLAMA_CPP: the folder that
holds its node_modules).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import SHARED
from transformers import AutoModelForCausalLM, AutoTokenizer

from infifusion.commands.export_model import PLACE, export_model

pytestmark = pytest.mark.slow
MODEL = Path(os.environ.get("INFIFUSION_REAL_MODELS", SHARED / "models")) / "smollm2"
NODE = Path(os.environ.get("NODE_LLAMA_CPP", "node-llama-cpp"))
QUESTIONS = (
    "What is the capital of France?",
    "Natalia sold 48 clips in April and half as many in May. How many altogether?",
    "Write a Python function that adds two numbers.",
)
NEW = 20
PROGRAM = """
import fs from "fs";
import {getLlama} from "node-llama-cpp";
const llama = await getLlama({gpu: false, build: "never", progressLogs: false, maxThreads: 1});
const model = await llama.loadModel({modelPath: process.argv[2]});
const found = [];
for (const one of JSON.parse(fs.readFileSync(process.argv[3], "utf8"))) {
  const context = await model.createContext({contextSize: 512, threads: 1});
  const asked = Array.from(model.tokenize(one.text, true)), said = [];
  for await (const token of context.getSequence().evaluate(one.ids, {temperature: 0})) {
    said.push(token);
    if (said.length === NEW) break;
  }
  found.push({asked, said});
  await context.dispose();
}
fs.writeFileSync(process.argv[4], JSON.stringify(found));
process.exit(0);
""".replace("NEW", str(NEW))


def answers_of_transformers() -> list[dict]:
    """Prompts as texts and tokens, and the first tokens of greedy answers."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    found = []
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        said = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
        )
        own = said[0, len(ids) :].tolist()
        own = own[:-1] if own[-1] == tokenizer.eos_token_id else own  # llama.cpp stops before it
        found.append({"text": text, "ids": ids, "said": own})
    return found


@pytest.mark.parametrize("quant", ["bf16", "q8_0"])
def test_the_file_answers_in_llama_cpp_as_the_model_does(tmp_path: Path, quant: str) -> None:
    if not MODEL.is_dir():
        pytest.skip(f"{MODEL} is not here")
    if not os.environ.get(PLACE):
        pytest.skip(f"${PLACE} names no folder of llama.cpp's")
    if shutil.which("node") is None or not (NODE / "node_modules/node-llama-cpp").is_dir():
        pytest.skip("$NODE_LLAMA_CPP names no folder with node-llama-cpp")
    export_model(MODEL, to="gguf", quant=quant, out=tmp_path / "m.gguf")
    wanted = answers_of_transformers()
    (tmp_path / "asked.json").write_text(json.dumps(wanted))
    (tmp_path / "compare.mjs").write_text(PROGRAM)
    (tmp_path / "node_modules").symlink_to((NODE / "node_modules").resolve())
    command = ["node", "compare.mjs", "m.gguf", "asked.json", "found.json"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(len(one["said"]) for one in wanted) > 2 * NEW
    assert [one["asked"] for one in found] == [one["ids"] for one in wanted]
    assert [one["said"] for one in found] == [one["said"] for one in wanted]
