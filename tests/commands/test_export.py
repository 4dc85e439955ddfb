"""export and convert: what is found, what is lacking, what Ollama is told."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer
from tokenizers import processors
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.commands.export_model import PLACE, export_model, modelfile, ollama_template
from infifusion.errors import ArtifactError, CheckpointError, RecipeError, RunError, TokenizerError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}<eos>{% endif %}{% endfor %}"
)
CONVERTER = """
import sys
from pathlib import Path
out = sys.argv[sys.argv.index("--outfile") + 1]
kind = sys.argv[sys.argv.index("--outtype") + 1]
if kind == "f16":
    sys.exit("no such tensor: model.nothing")
Path(out).write_bytes(b"GGUF" + kind.encode())
"""


def go(template: str, turns: list[tuple[str, str]]) -> str:
    """What Ollama writes of the turns, by the part of Go's templates that is used."""
    system = " ".join(content for role, content in turns if role == "system")
    parts = r"{{ range \$i, \$m := \.Messages }}|(?<={{ end }}){{ end }}"
    opening, loop, prompt = re.split(parts, template)
    if opening.startswith("{{ if .System }}"):
        yes, no = (
            opening.removeprefix("{{ if .System }}").removesuffix("{{ end }}").split("{{ else }}")
        )
        opening = yes.replace("{{ .System }}", system) if system else no
    user, answer = re.fullmatch(
        r'{{ if eq \$m\.Role "user" }}(.*){{ else if eq \$m\.Role "assistant" }}(.*){{ end }}',
        loop, re.DOTALL,
    ).groups()  # fmt: skip
    pieces = {"user": user, "assistant": answer}
    written = [
        pieces[role].replace("{{ $m.Content }}", content) for role, content in turns
        if role in pieces
    ]  # fmt: skip
    return opening + "".join(written) + prompt


def begins_texts(tokenizer) -> None:
    """Let the tokenizer put its <bos> before every text, as llama.cpp then does."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA3, INST])
def test_ollama_writes_conversations_as_the_template_does(template: str, begins: bool) -> None:
    tokenizer = byte_level_tokenizer(300)
    # SmolLM2's begin of text is what its template writes before every turn.
    bos = "<bos>" if begins or "bos_token" in template else "<|im_start|>"
    tokenizer.add_special_tokens({"bos_token": bos})
    if begins:
        begins_texts(tokenizer)
    tokenizer.chat_template = template
    made = ollama_template(tokenizer)
    turns = [("user", "Hi, you."), ("assistant", "Yes?"), ("user", "No."), ("assistant", "Ah."),
             ("user", "So what?")]  # fmt: skip
    conversations = [turns[:1], turns[:3], turns]
    if template != INST:
        conversations.append([("system", "Be brief."), *turns])
    for some in conversations:
        messages = [{"role": role, "content": content} for role, content in some]
        expected = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert go(made, some) == (expected.removeprefix("<bos>") if begins else expected), some


def test_a_template_that_is_more_than_pieces_is_said_to_be(suite: Path, tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(300)
    tokenizer.chat_template = "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}?"
    with pytest.raises(TokenizerError, match="more than pieces around the turns"):
        ollama_template(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    text, note = modelfile(tmp_path, tmp_path / "x.gguf")
    assert "TEMPLATE" not in text and "It has no TEMPLATE" in note
    assert 'PARAMETER stop "<eos>"' in text and text.startswith("FROM ./x.gguf\n")


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for llama.cpp's converter, and the package that it brings."""
    folder = tmp_path / "llama.cpp"
    (folder / "gguf-py/gguf").mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER, encoding="utf-8")
    monkeypatch.setenv(PLACE, str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_file_is_written_whole_beside_its_modelfile(
    llama_cpp: Path, suite: Path, tmp_path: Path
) -> None:
    said = export_model(suite / "pivot", to="ollama", quant="Q8_0", out=tmp_path / "o/m.gguf")
    assert (tmp_path / "o/m.gguf").read_bytes() == b"GGUFq8_0"
    assert (tmp_path / "o/m.Modelfile").read_text().startswith("FROM ./m.gguf\n")
    assert "ollama create m -f" in said and "It has no TEMPLATE" in said
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"m.gguf", "m.Modelfile"}
    with pytest.raises(ArtifactError, match="m.gguf exists already"):
        export_model(suite / "pivot", to="gguf", quant="q8_0", out=tmp_path / "o/m.gguf")
    (tmp_path / "o/m.gguf").unlink()  # a Modelfile that somebody has changed stays
    with pytest.raises(ArtifactError, match="m.Modelfile exists already"):
        export_model(suite / "pivot", to="ollama", quant="q8_0", out=tmp_path / "o/m.gguf")
    assert not (tmp_path / "o/m.gguf").exists()


def test_what_the_converter_says_is_handed_on(llama_cpp: Path, suite: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="failed .exit status 1.: no such tensor: model.nothing"):
        export_model(suite / "pivot", to="gguf", quant="f16", out=tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
    with pytest.raises(RunError, match="q4_k_m is made by llama.cpp's program llama-quantize"):
        export_model(suite / "pivot", to="gguf", quant="q4_k_m", out=tmp_path / "m.gguf")


def test_a_converter_by_itself_needs_the_package(
    llama_cpp: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it is copied out of llama.cpp's folder."""
    (llama_cpp / "gguf-py/gguf").rmdir()
    monkeypatch.setitem(sys.modules, "gguf", None)  # as where it is not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="convert_hf_to_gguf.py needs the package gguf.*gguf-py"):
        export_model(suite / "pivot", to="gguf", quant="q8_0", out=tmp_path / "m.gguf")


def test_what_is_lacking_says_how_to_get_it(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLACE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="convert_hf_to_gguf.py, was not found.*git clone"):
        export_model(suite / "pivot", to="gguf", quant="bf16", out=None)
    with pytest.raises(RecipeError, match="no such format. Known: gguf, ollama.*mlx_lm.convert"):
        export_model(suite / "pivot", to="mlx", quant="bf16", out=None)
    with pytest.raises(CheckpointError, match="holds no config.json"):
        export_model(tmp_path, to="gguf", quant="bf16", out=None)
    done = CliRunner().invoke(cli.app, ["convert", "nothing.gguf", "out"])
    assert "There is no file nothing.gguf" in str(done.exception)
