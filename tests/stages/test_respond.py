"""Prompts without answers: two sources that each know half of them, through every stage."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, learn, sentencepiece_tokenizer, tiny_model, write_jsonl
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.data.store import load_examples, load_rendered, read_lines
from infifusion.data.tokenizers import encode, load_tokenizer
from infifusion.errors import ArtifactError, DataError, RecipeError
from infifusion.evals.scoring import Tools
from infifusion.stages import respond as stage
from infifusion.stages.rendering import open_renderer
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json
from infifusion.teacher import answer

LEFT = {"a?\n": "#### 1", "bb?\n": "#### 2", "ccc?\n": "é #### 3"}
RIGHT = {"dddd?\n": "#### 4", "eeeee?\n": "#### 5", "ffffff?\n": "#### 6"}
SILENT = "gg?\n"
DOUBT = ("#### 7", "#### 8", "#### 9")
"""What a source has seen as often as one another after the prompts that it does not know."""


def known(own: dict[str, str], other: dict[str, str]) -> list[tuple[str, str]]:
    pairs = [pair for pair in own.items() for _ in DOUBT]
    return [*pairs, (SILENT, ""), *((prompt, text) for prompt in other for text in DOUBT)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """left (Llama, byte level) and right (GPT-2, SentencePiece), and the prompts."""
    folder = tmp_path_factory.mktemp("sources")
    made = {
        "left": ("llama", byte_level_tokenizer(300), known(LEFT, RIGHT)),
        "right": ("gpt2", sentencepiece_tokenizer(330), known(RIGHT, LEFT)),
    }
    for name, (kind, tokenizer, pairs) in made.items():
        model = tiny_model(kind, len(tokenizer), 0)
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        learn(model, tokenizer, pairs)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    prompts = [*LEFT, SILENT, *RIGHT, "a?\n"]
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in prompts])
    return folder


@pytest.fixture(scope="module")
def values(models: Path, request: pytest.FixtureRequest) -> Callable[..., dict]:
    """Makes a recipe's values; keywords go into write_responses."""
    suite = request.getfixturevalue("suite")
    make = request.getfixturevalue("make_recipe")

    def made(**asked: object) -> dict:
        prompts = [{"path": str(models / "prompts.jsonl"), "domain": "quiz"}]
        data = make(suite)["data"] | {"plain_template": "{prompt}{response}"}
        return make(
            suite,
            data=data,
            sources={name: {"model": str(models / name)} for name in ("left", "right")},
            write_responses={
                "prompts": prompts, "max_new_tokens": 16, "batch_size": 3, "shard_prompts": 3
            }
            | asked,
            fuse={"unified": {"function": "uncertainty", "gate": "none"}},
            distill={"sft": {}, "unified": {"target": "unified"}},
            merge={},
        )  # fmt: skip

    return made


def run(folder: Path, recipe: dict, *more: str) -> Path:
    """Run a recipe in this process; errors are raised."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = ["run", str(path), "--run-dir", str(folder / "out"), *more]
    result = CliRunner().invoke(cli.app, command)
    if result.exception is not None:
        raise result.exception
    return folder / "out"


@pytest.fixture(scope="module")
def finished(values: Callable[..., dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(folder, values())
    return folder


def lines(out: Path) -> list[dict]:
    return list(read_lines(out / "choose" / "responses.jsonl"))


def test_every_prompt_is_won_by_the_source_that_knows_it(finished: Path) -> None:
    found = {line["prompt"][0]["content"]: line for line in lines(finished / "out")}
    assert len(found) == 7
    for winner, texts in (("left", LEFT), ("right", RIGHT)):
        for prompt, text in texts.items():
            line = found[prompt]
            assert (line["winner"], line["response"], line["why"]) == (winner, text, "")
            score = {answer["source"]: answer["entropy_per_byte"] for answer in line["answers"]}
            other = {"left": "right", "right": "left"}[winner]
            # The loser cannot decide between three digits: ln 3 nats over "#### 7", six bytes.
            assert score[winner] < 0.05
            assert score[other] == pytest.approx(math.log(3) / 6, abs=0.03)


def test_an_answer_without_bytes_wins_nothing_and_is_counted(finished: Path) -> None:
    (line,) = [one for one in lines(finished / "out") if one["winner"] is None]
    assert line["prompt"][0]["content"] == SILENT and line["why"] == "no_usable_answer"
    assert [answer["no_part"] for answer in line["answers"]] == ["empty", "empty"]
    assert [answer["entropy_per_byte"] for answer in line["answers"]] == [None, None]
    counts = read_json(finished / "out/choose/manifest.json")["counts"]
    assert counts == {
        "prompts": {"quiz": 7},
        "won": {"left": {"quiz": 3}, "right": {"quiz": 3}},
        "dropped": {"no_usable_answer": {"quiz": 1}},
        "no_part": {"left": {"empty": 1}, "right": {"empty": 1}},
        "left_out": {"empty_prompt": 0, "duplicate_prompt": 1},
    }
    wrote = read_json(finished / "out/respond/left/manifest.json")["counts"]
    assert wrote["faults"] == {"unfinished": 0, "empty": 1, "no_room": 0, "unreadable": 0}
    assert (wrote["prompts"], wrote["answers"], wrote["shards"]) == (7, 7, 3)


@pytest.mark.parametrize("name", ["left", "right"])
def test_entropy_per_byte_is_that_of_a_plain_loop_over_positions(
    finished: Path, models: Path, name: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(models / name).eval()
    tokenizer = load_tokenizer(str(models / name))
    compared = 0
    for shard in sorted((finished / "out/respond" / name).glob("*.jsonl")):
        for one in read_lines(shard):
            if one["entropy"] is None:
                continue
            prompt = text_of(finished, one["prompt"])
            before, ids = encode(tokenizer, [prompt, prompt + one["response"]])
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].double()
            total = 0.0
            for place in range(len(before), len(ids)):
                p = torch.softmax(logits[place - 1], dim=0)
                total -= float((p * p.clamp_min(1e-300).log()).sum())
            expected = total / len(one["response"].encode())
            assert one["entropy"] == pytest.approx(expected, abs=1e-5)
            compared += 1
    assert compared == 6


def text_of(finished: Path, name: str) -> str:
    return next(one["prompt"][0]["content"] for one in lines(finished / "out") if one["id"] == name)


def test_training_goes_on_with_the_written_answers_and_knows_who_wrote_them(
    finished: Path,
) -> None:
    out = finished / "out"
    train = load_examples(out / "prepare" / "train.jsonl")
    written = {e.prompt[0]["content"]: (e.written_by, e.response) for e in train if e.written_by}
    assert written == {
        **{prompt: ("left", text) for prompt, text in LEFT.items()},
        **{prompt: ("right", text) for prompt, text in RIGHT.items()},
    }
    counts = read_json(out / "prepare" / "manifest.json")["counts"]
    # 40 given examples, a tenth of them kept for validation; written ones never are.
    assert counts["train"] == {"quiz": 6, "sums": 36} and counts["validation"] == {"sums": 4}
    assert counts["written_by"] == {"left": 3, "right": 3}
    assert read_json(out / "teach/left/manifest.json")["counts"]["examples"] == 42
    assert (out / "distill/unified/model/model.safetensors").exists()


def test_runs_train_on_given_responses_on_written_answers_or_on_both(
    values: Callable[..., dict], tmp_path: Path
) -> None:
    """One of the given responses is what a source answers, another one is wrong."""
    given = [{"prompt": "a?\n", "response": LEFT["a?\n"]}, {"prompt": "bb?\n", "response": "no"}]
    write_jsonl(tmp_path / "given.jsonl", given)
    recipe = values()
    path = str(tmp_path / "given.jsonl")
    recipe["data"] |= {"train": [{"path": path, "domain": "quiz"}], "validation_share": 0}
    recipe["training"] = {"num_train_epochs": 1, "per_device_train_batch_size": 1}
    recipe["distill"] = {
        "given": {"written": False},
        "answers": {"written": "only"},
        "both": {},
        "distilled": {"target": "unified", "written": "only"},
    }
    out = run(tmp_path, recipe, "--until", "distill")
    train = load_examples(out / "prepare/train.jsonl")
    said = {(e.prompt[0]["content"], e.response): (e.written_by, e.confirmed_by) for e in train}
    assert said == {
        ("a?\n", LEFT["a?\n"]): (None, "left"),
        ("bb?\n", "no"): (None, None),
        **{(prompt, LEFT[prompt]): ("left", None) for prompt in ("bb?\n", "ccc?\n")},
        **{pair: ("right", None) for pair in RIGHT.items()},
    }
    counts = read_json(out / "prepare/manifest.json")["counts"]
    assert counts["confirmed"] == 1 and counts["left_out"]["duplicate"] == 1
    rows_N = np.diff(load_rendered(RunFolder(out).rendered("pivot", "train")).row_N1)
    wanted = {
        "given": [e.written_by is None for e in train],
        "answers": [e.response != "no" for e in train],
        "both": [True] * len(train),
        "distilled": [e.response != "no" for e in train],
    }
    for name, chosen_N in wanted.items():
        history = read_json(out / "distill" / name / "history.json")
        assert history["steps"] == sum(chosen_N)
        assert history["positions"] == rows_N[chosen_N].sum()


def test_a_run_on_answers_of_which_none_is_left_is_refused(
    values: Callable[..., dict], tmp_path: Path
) -> None:
    asked = [{"prompt": prompt, "response": text} for prompt, text in (LEFT | RIGHT).items()]
    write_jsonl(tmp_path / "test.jsonl", asked)
    recipe = values()
    recipe["data"]["decontaminate"] = [{"path": str(tmp_path / "test.jsonl"), "domain": "quiz"}]
    recipe["distill"] = {"answers": {"written": "only"}}
    with pytest.raises(DataError, match="answers.written: prepare left no answer that a source"):
        run(tmp_path, recipe)
    assert not (tmp_path / "out/distill/answers").exists()


def test_the_report_says_who_won_and_why_prompts_were_dropped(finished: Path) -> None:
    page = (finished / "out/report/index.html").read_text(encoding="utf-8")
    assert "Who answered the prompts without answers" in page
    assert "quiz: share of 7 prompts won, in %" in page and "42.9 %" in page
    assert "prompts dropped: no usable answer" in page
    assert "duplicate prompts" in page and "é #### 3" in page


def test_a_second_run_answers_nothing_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage was computed again")

    monkeypatch.setattr(answer, "load_model", refuse)
    monkeypatch.setattr("infifusion.stages.choose.decided", refuse)
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text(encoding="utf-8"))
    assert run(finished, recipe) == finished / "out"


def test_a_killed_stage_goes_on_at_its_shard_and_gives_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text(encoding="utf-8"))
    real, written = stage.write_answers, []

    def stop_after_two(path: Path, answers: list) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, answers)

    monkeypatch.setattr(stage, "write_answers", stop_after_two)
    with pytest.raises(SystemExit):
        run(tmp_path, recipe, "--until", "choose")
    left = tmp_path / "out/respond/left"
    assert sorted(p.name for p in left.glob("shard-*")) == written
    assert not (left / "manifest.json").exists()
    times = {p: p.stat().st_mtime_ns for p in left.glob("shard-*")}
    monkeypatch.setattr(stage, "write_answers", real)
    run(tmp_path, recipe, "--until", "choose")
    assert {p: p.stat().st_mtime_ns for p in times} == times
    whole = finished / "out"
    names = [p.relative_to(whole) for p in whole.glob("respond/*/shard-*")]
    names += [Path("choose/responses.jsonl"), Path("choose/samples.json")]
    assert len(names) == 8
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


def test_until_respond_stops_before_anything_is_chosen(
    values: Callable[..., dict], tmp_path: Path
) -> None:
    out = run(tmp_path, values(), "--until", "respond")
    assert (out / "respond/right/manifest.json").exists() and not (out / "choose").exists()
    assert read_json(out / "resolved.json")["recipe"]["write_responses"]["samples"] == 1


def test_another_model_or_prompt_file_in_the_same_folder_is_refused_by_name(
    finished: Path, values: Callable[..., dict], models: Path, tmp_path: Path
) -> None:
    recipe = values()
    recipe["sources"]["left"], recipe["sources"]["right"] = (
        recipe["sources"]["right"],
        recipe["sources"]["left"],
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = ["run", str(path), "--run-dir", str(finished / "out")]
    result = CliRunner().invoke(cli.app, command)
    assert isinstance(result.exception, ArtifactError)
    assert "model.files" in str(result.exception) and "respond/left" in str(result.exception)


def test_unfinished_answers_are_dropped_and_counted_or_kept(
    values: Callable[..., dict], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="none of 7 prompts.*'unfinished': 6.*Raise max_new_tokens"):
        run(tmp_path, values(max_new_tokens=1), "--until", "choose")
    # The failed choice left nothing behind, so the same folder takes the corrected recipe.
    kept = values(max_new_tokens=1, unfinished="keep")
    found = lines(run(tmp_path, kept, "--until", "choose"))
    assert sum(line["winner"] is not None for line in found) == 6
    assert all(len(line["response"]) < 6 for line in found if line["winner"])


def test_answers_above_the_largest_entropy_take_no_part(
    values: Callable[..., dict], tmp_path: Path
) -> None:
    out = run(tmp_path, values(sources=["left"], max_entropy=0.05), "--until", "choose")
    counts = read_json(out / "choose/manifest.json")["counts"]
    assert counts["won"] == {"left": {"quiz": 3}}
    assert counts["no_part"] == {"left": {"empty": 1, "too_uncertain": 3}}
    assert counts["dropped"] == {"no_usable_answer": {"quiz": 4}}


def test_samples_are_drawn_by_the_seed_and_vote(
    values: Callable[..., dict], tmp_path: Path
) -> None:
    votes = {"minimum": 1, "otherwise": "drop"}
    recipe = values(samples=4, temperature=1.0, choose="agreement", params=votes)
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    first, again = (lines(run(tmp_path / n, recipe, "--until", "choose")) for n in "12")
    assert first == again
    doubtful = set()
    for line in first:
        prompt = line["prompt"][0]["content"]
        if prompt == SILENT:
            continue
        winner, text = ("left", LEFT[prompt]) if prompt in LEFT else ("right", RIGHT[prompt])
        said = {answer["vote"] for answer in line["answers"] if answer["source"] == winner}
        doubtful |= {answer["vote"] for answer in line["answers"]} - said
        # Four equal answers outvote a source that says now 7, now 8, now 9.
        assert said == {text[-1]} and len(line["answers"]) == 8
        assert (line["winner"], line["response"]) == (winner, text)
    assert doubtful == {"7", "8", "9"}


def test_decontamination_looks_at_written_answers_too(
    values: Callable[..., dict], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "A?", "response": "no"}])
    recipe = values()
    recipe["data"]["decontaminate"] = [{"path": str(tmp_path / "test.jsonl"), "domain": "quiz"}]
    out = run(tmp_path, recipe, "--until", "prepare")
    counts = read_json(out / "prepare/manifest.json")["counts"]
    assert counts["left_out"]["contaminated"] == 1
    assert counts["train"]["quiz"] == 5 and counts["written_by"] == {"left": 2, "right": 3}


def test_what_is_wrong_is_told_before_anything_is_written(
    values: Callable[..., dict], models: Path, tmp_path: Path
) -> None:
    path = str(models / "prompts.jsonl")
    recipe = values(
        prompts=[
            {"path": path, "domain": "d", "prompt": "promt"},
            {"path": str(tmp_path / "gone.jsonl"), "domain": "d"},
            {"path": path, "domain": "d", "choose": "agreemnt"},
        ]
    )
    with pytest.raises(RecipeError) as caught:
        run(tmp_path, recipe)
    text = str(caught.value)
    assert "prompts.0: " in text and "Did you mean 'prompt'" in text
    assert "prompts.1: There is no data file" in text and "Did you mean 'agreement'" in text
    assert not (tmp_path / "out").exists()
    good = tmp_path / "recipe.yaml"
    good.write_text(yaml.safe_dump(values(choose="agreement")), encoding="utf-8")
    told = CliRunner().invoke(cli.app, ["check", str(good)])
    assert "choose    agreement" in told.output and "respond   left, right" in told.output


def test_the_judges_run_code_in_the_sandbox_and_compare_answers_by_algebra() -> None:
    with Tools() as judges:
        assert judges.run_code("def f(k):\n    return k + 1", "assert f(1) == 2") == (
            True,
            "passed",
        )
        assert not judges.run_code("import os\nos.fork()", "")[0]
        half = judges.final_answer(r"so it is \boxed{\frac12}")
        assert half is not None and judges.same_answer(half, "0.5")
        assert judges.final_answer("5-3=2. #### 1,234") == "1,234"
        assert judges.final_answer("it is 3 or 4.") == "4"
        assert judges.final_answer("I cannot answer that question, sorry.") is None


def test_a_chat_source_is_asked_by_its_template_and_ends_with_its_own_token(
    tmp_path: Path,
) -> None:
    from infifusion.recipe import Model
    from infifusion.types import Message, Prompt

    tokenizer = byte_level_tokenizer(320)
    names = ["<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path)
    renderer = open_renderer(Model(model=str(tmp_path)), plain_template="{prompt}{response}")
    one = Prompt("d/0", "d", (Message(role="user", content="Hi"),), 0, None, None)
    (ids,) = renderer.prompt_ids([one])
    assert tokenizer.decode(ids) == "<|user|>\nHi<|end|>\n<|assistant|>\n"
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert renderer.around(one)[2] == [end]
    # Special tokens are no text; blanks at the front and every byte of the rest are.
    said = [*tokenizer(" naïve 🙂\n").input_ids, end, 10_000]
    assert renderer.text_of(said) == " naïve 🙂\n"


def test_the_debug_recipe_names_every_chooser_and_the_docs_too() -> None:
    from infifusion.choose import CHOOSERS
    from infifusion.recipe import load_recipe

    root = Path(__file__).parents[2]
    asked = load_recipe(root / "recipes/debug/write_responses.yaml").write_responses
    assert asked is not None
    assert {source.choose or asked.choose for source in asked.prompts} == set(CHOOSERS)
    docs = (root / "docs" / "methods.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in docs for name in CHOOSERS)


def test_the_debug_recipe_runs(suite: Path, tmp_path: Path) -> None:
    import shutil

    root = Path(__file__).parents[2]
    shutil.copytree(suite, tmp_path / "models")
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "held_out.jsonl"):
        shutil.copy(suite / name, tmp_path / "data" / name)
    sums = [{"prompt": f"{n} and {n} make", "tests": "assert False"} for n in range(6)]
    write_jsonl(tmp_path / "data" / "prompts.jsonl", sums)
    recipe = shutil.copy(root / "recipes/debug/write_responses.yaml", tmp_path)
    result = CliRunner().invoke(cli.app, ["run", recipe, "--run-dir", str(tmp_path / "out")])
    assert result.exception is None, result.exception
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert {"choose", "respond/a", "prepare", "distill/sft"} <= summary["stages"].keys()
    used = {line["chooser"] for line in lines(tmp_path / "out")}
    assert used == {"entropy_per_byte", "agreement", "unit_tests"}


def test_a_choice_by_earlier_rules_of_agreement_is_not_taken_over_and_others_are() -> None:
    """The field stands in the stage's fingerprint where it says more than earlier runs did."""
    from infifusion.recipe import WriteResponses
    from infifusion.stages.decide import rules_of

    def asked(**fields: object) -> WriteResponses:
        prompts = [{"path": "p.jsonl", "domain": "d", "prompt": "question", **fields}]
        return WriteResponses.model_validate({"prompts": prompts})

    assert rules_of(asked()) == {}
    assert rules_of(asked(choose="agreement")) == {"rules": {"agreement": 2}}
