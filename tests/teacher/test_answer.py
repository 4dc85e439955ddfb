"""Generation with a tiny model that has learnt its answers by heart."""

from __future__ import annotations

import pytest
import torch
from conftest import byte_level_tokenizer, learn, tiny_model

from infifusion.errors import NumericsError
from infifusion.teacher.answer import Answer, Sampling, answer, end_ids
from infifusion.teacher.batching import Way

TEXTS = {"a?\n": "one", "bbb?\n": "two", "cc?\n": "", "ddddd?\n": "a long answer to read"}
PROMPTS = list(TEXTS)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(300)


@pytest.fixture(scope="module")
def model(tokenizer):
    made = tiny_model("gpt2", len(tokenizer), 0)
    learn(made, tokenizer, [(prompt, text) for prompt, text in TEXTS.items()])
    # A chat model's own settings, which must not be followed.
    made.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=9.0)
    return made


def answers(
    model, tokenizer, prompts: list[str], seed: int = 5, **sampling: object
) -> dict[int, list[Answer]]:
    settings = Sampling(**{"max_new_tokens": 40, "batch_size": 8, **sampling})
    ids = [tokenizer(prompt).input_ids for prompt in prompts]
    found: dict[int, list[Answer]] = {}
    for batch in answer(model, ids, ends=[0], sampling=settings, seed=seed, names=prompts):
        found |= batch
    return found


def test_what_was_learnt_is_answered_to_the_byte_and_ends(model, tokenizer) -> None:
    found = answers(model, tokenizer, PROMPTS)
    assert [tokenizer.decode(found[n][0].ids) for n in range(4)] == list(TEXTS.values())
    assert all(found[n][0].finished for n in range(4))
    assert found[2] == [Answer([], finished=True)]


def test_neighbours_in_the_batch_change_nothing(model, tokenizer) -> None:
    together = answers(model, tokenizer, PROMPTS)
    assert answers(model, tokenizer, PROMPTS, batch_size=1) == together


def test_an_answer_that_runs_out_of_tokens_is_not_finished(model, tokenizer) -> None:
    whole = answers(model, tokenizer, PROMPTS)[3][0].ids
    (found,) = answers(model, tokenizer, [PROMPTS[3]], max_new_tokens=len(whole))[0]
    assert (found.ids, found.finished) == (whole, False)
    (found,) = answers(model, tokenizer, [PROMPTS[3]], max_new_tokens=len(whole) + 1)[0]
    assert (found.ids, found.finished) == (whole, True)


def test_a_prompt_that_fills_the_window_is_in_no_batch(tokenizer) -> None:
    small = tiny_model("gpt2", len(tokenizer), 0)  # a window of 1024
    ids = [[5] * 1024, [5] * 1022, [5]]
    settings = Sampling(max_new_tokens=3, batch_size=8)
    found: dict[int, list[Answer]] = {}
    for batch in answer(small, ids, ends=[0], sampling=settings, seed=0, names=["a", "b", "c"]):
        found |= batch
    assert set(found) == {1, 2}
    # It never ends its turn, so it fills what there is: 1024 - 1022 tokens, or three.
    assert [len(found[n][0].ids) for n in (1, 2)] == [2, 3]


def test_samples_follow_the_seed_and_leave_the_global_one_alone(model, tokenizer) -> None:
    def draw(seed: int) -> dict[int, list[Answer]]:
        drawn = {"samples": 3, "temperature": 2.0, "top_p": 0.9}
        return answers(model, tokenizer, ["zz", "y"], seed, **drawn)

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = draw(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert draw(5) == first != draw(6)
    assert [len(first[n]) for n in range(2)] == [3, 3]
    assert len({tuple(one.ids) for one in first[0]}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("way", Way)
def test_nan_is_an_error_and_no_answer(monkeypatch, tokenizer, way: Way, temperature) -> None:
    monkeypatch.setattr("infifusion.teacher.batching.way_of", lambda _: way)
    broken = tiny_model("llama", len(tokenizer), 0)
    torch.nn.init.constant_(broken.model.norm.weight, float("nan"))
    with pytest.raises(NumericsError, match="NaN or Inf while it answers a"):
        answers(broken, tokenizer, ["a"], temperature=temperature)


def test_a_turn_ends_by_the_models_and_the_tokenizers_token(tokenizer) -> None:
    made = tiny_model("llama", 300, 0)
    made.generation_config.eos_token_id = [7, 3]
    assert end_ids(made, tokenizer) == [0, 3, 7]
