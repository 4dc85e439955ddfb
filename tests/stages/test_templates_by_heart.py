"""Chat templates of several manners: a model that learnt answers by heart gives them back through
`generate`, `evaluate` and lm-evaluation-harness, and so does one that two models with other
templates and tokenizers taught. benchmarks/templates.py does it with every template of TRL."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from templates import source
from templates_ask import by_evaluate, by_generate, by_lm_eval
from templates_suite import PAIRS, TEMPLATES, fuse, learn, of_history

pytestmark = pytest.mark.slow
STEPS = 120
HISTORY = {
    # A blank and a beginning of text, a tokenizer in SentencePiece's manner.
    "llama2": "",
    # A line break before the token that stops.
    "deepseek_coder": "",
    # No end at all: the next turn's mark.
    "next_turn_ends": "",
    # Reasoning that the asked prompt does not open, and the answered turn has.
    "qwen3": "before the answer trained '<think>\\n\\n</think>\\n\\n', history ''",
    # A channel's name before the answer, another end in the history than at the end.
    "gptoss": "behind it trained '<|return|>', history '<|end|><|start|>user<|message|>'",
    # Content as a list of parts.
    "smolvlm": "",
}
"""What differs between the trained text and the history of the next turn."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sources are made, once."""
    return tmp_path_factory.mktemp("by_heart")


@pytest.mark.parametrize("name", HISTORY)
def test_a_chat_model_gives_back_what_it_learnt_whoever_asks(name: str, tmp_path: Path) -> None:
    if name not in TEMPLATES:
        pytest.skip("the templates of TRL are not installed")
    learnt = learn(name, tmp_path, STEPS)
    assert of_history(learnt) == HISTORY[name]
    generated = by_generate(learnt)
    lead = learnt.lead(0).strip()
    assert generated.whole, generated
    assert [note for note in generated.notes if "other tokens" in note] == []
    assert bool(lead) == bool(generated.notes)
    evaluated = by_evaluate(learnt, tmp_path / "evaluate")
    assert evaluated.whole and not evaluated.notes, evaluated
    harness = by_lm_eval(learnt, tmp_path / "lm_eval")
    if name == "smolvlm":  # lm-eval gives it a plain text, which it drops
        assert harness.notes == ("lm_eval asks with other tokens than those of training",)
        return
    assert harness.whole and harness.notes == generated.notes, harness


@pytest.mark.parametrize("name", HISTORY)
def test_what_models_of_other_templates_and_tokenizers_know_comes_back(
    name: str, tmp_path: Path, work: Path
) -> None:
    if name not in TEMPLATES:
        pytest.skip("the templates of TRL are not installed")
    others = [source(one, work) for one in ("llama2", "deepseek_coder", "zephyr") if one != name]
    # The sources alone teach. Of llama2's SentencePiece tokens some end within tokens of both
    # sources (a line break and blanks): there only a label can say what follows.
    weight = 0.1 if name == "llama2" else 0.0
    found = by_generate(fuse(name, tmp_path, STEPS, others[:2], gold_weight=weight))
    assert found.right == len(PAIRS) and found.cut_off == 0, found
