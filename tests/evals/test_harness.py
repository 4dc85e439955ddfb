"""The harness on a tiny Llama that has learnt three answers by heart."""

import json
import logging
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infifusion.errors import CheckpointError, DataError, RecipeError
from infifusion.evals.answers import number_after_hashes
from infifusion.evals.harness import evaluate_model, sample_places
from infifusion.evals.lm_tasks import jinja
from infifusion.evals.tasks import TASKS, Task, require_task
from infifusion.recipe import Model

ANSWERS = {"a?\n": "#### 1", "bb?\n": "#### 2", "ccc?\n": " #### 3"}
OWN = Task(
    name="own",
    description="Three questions that the model has learnt, and more.",
    headline="exact_match",
    file="own.jsonl",
    score=number_after_hashes,
    prompt_template="prompt",
    gold_field="answer",
    id_field="id",
    stop=("\n\n",),
    max_new_tokens=12,
)
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end of text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<eos>"]),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def make_model(tokenizer: PreTrainedTokenizerFast, window: int = 4096) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=window, eos_token_id=0,
            bos_token_id=None,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A folder with a model that answers ANSWERS."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    texts = [prompt + answer + "<eos>" for prompt, answer in ANSWERS.items()]
    rows = [torch.tensor([tokenizer(text).input_ids]) for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = torch.stack([model(input_ids=row, labels=row).loss for row in rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("model")
    # Sampling settings of a chat model, which greedy generation must not follow.
    model.generation_config.update(do_sample=True, temperature=2.0, repetition_penalty=5.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    """The three learnt questions and one that the model has never seen."""
    rows = [
        {"id": f"item {at}", "prompt": prompt, "answer": answer}
        for at, (prompt, answer) in enumerate(ANSWERS.items())
    ]
    rows.append({"id": "unseen", "prompt": "zzzzzz zzzzz zzzz zzzzz", "answer": "4"})
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(model, data, out, **options):
    described = {"chat_template": options.pop("chat_template", None)}
    asked = {"tasks": [OWN], **options}
    return evaluate_model(Model(model=str(model), **described), data=data, out=out, **asked)["own"]


def items_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "own.jsonl").read_text().splitlines()]


def test_what_the_model_has_learnt_is_right_to_the_byte(learnt, data, tmp_path):
    summary = run(learnt, data, tmp_path)
    items = items_of(tmp_path)
    assert [item["id"] for item in items] == ["item 0", "item 1", "item 2", "unseen"]
    assert [item["prompt"] for item in items][:3] == list(ANSWERS)
    assert [item["output"] for item in items][:3] == list(ANSWERS.values())
    assert [item["correct"] for item in items] == [True, True, True, False]
    assert not any(item["truncated"] for item in items[:3])
    assert (summary["n"], summary["correct"], summary["headline"]) == (4, 3, "exact_match")


def test_the_batch_does_not_change_the_outputs(learnt, data, tmp_path):
    run(learnt, data, tmp_path / "1", batch_size=1)
    run(learnt, data, tmp_path / "4", batch_size=4)
    assert items_of(tmp_path / "1") == items_of(tmp_path / "4")


def test_an_answer_that_runs_out_of_tokens_is_truncated(learnt, data, tmp_path):
    summary = run(learnt, data, tmp_path, max_new_tokens=5)
    items = items_of(tmp_path)
    assert [item["output"] for item in items][:3] == [text[:5] for text in ANSWERS.values()]
    assert summary["truncated"] >= 3
    assert summary["correct"] == 0
    assert summary["invalid"] >= 3


def test_a_stop_ends_the_answer_and_is_not_part_of_it(learnt, data, tmp_path):
    task = Task(**{**OWN.__dict__, "stop": (" ",)})
    summary = run(learnt, data, tmp_path, tasks=[task])
    assert [item["output"] for item in items_of(tmp_path)][:3] == ["####", "####", ""]
    assert not any(item["truncated"] for item in items_of(tmp_path)[:3])
    assert summary["correct"] == 0


def test_a_prompt_longer_than_the_window_is_counted_and_never_cut(data, tmp_path):
    tokenizer = make_tokenizer()
    folder = tmp_path / "short"
    make_model(tokenizer, window=20).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    summary = run(folder, data, tmp_path)
    items = {item["id"]: item for item in items_of(tmp_path)}
    # "zzzzzz zzzzz zzzz zzzzz" is 23 tokens; the window has 20
    assert items["unseen"]["too_long"] and items["unseen"]["output"] == ""
    assert items["unseen"]["prompt"] == "zzzzzz zzzzz zzzz zzzzz"
    assert not items["unseen"]["correct"] and items["unseen"]["invalid"]
    assert (summary["too_long"], summary["n"]) == (1, 4)


def test_the_outputs_are_those_of_lm_evals_own_loop(learnt, data, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    run(learnt, data, tmp_path)
    settings = {
        "until": ["\n\n"],
        "do_sample": False,
        "max_gen_toks": 12,
        "repetition_penalty": 1.0,
    }
    theirs = HFLM(pretrained=str(learnt), device="cpu", dtype="float32", batch_size=4)
    requests = [
        Instance("generate_until", {}, (item["prompt"], dict(settings)), at)
        for at, item in enumerate(items_of(tmp_path))
    ]
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert [item["output"] for item in items_of(tmp_path)] == expected


def test_a_chat_template_is_used_where_there_is_one(learnt, data, tmp_path):
    model = LlamaForCausalLM.from_pretrained(learnt)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    model.save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    run(tmp_path / "chat", data, tmp_path / "auto")
    assert items_of(tmp_path / "auto")[0]["prompt"] == "<user>a?\n<assistant>"
    run(tmp_path / "chat", data, tmp_path / "off", apply_chat_template=False)
    assert items_of(tmp_path / "off")[0]["prompt"] == "a?\n"
    given = CHAT.replace("<assistant>", "<answer>")
    run(tmp_path / "chat", data, tmp_path / "given", chat_template=given)
    assert items_of(tmp_path / "given")[0]["prompt"] == "<user>a?\n<answer>"


def test_a_template_that_reads_content_in_parts_is_asked_with_the_question(learnt, data, tmp_path):
    """As those of models that see pictures do; given a plain text they drop it without a word."""
    in_parts = CHAT.replace(
        "{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}"
    )
    assert in_parts != CHAT
    run(learnt, data, tmp_path / "parts", chat_template=in_parts)
    assert items_of(tmp_path / "parts")[0]["prompt"] == "<user>a?\n<assistant>"


def test_a_limit_asks_the_same_items_every_time(learnt, data, tmp_path):
    run(learnt, data, tmp_path / "all")
    assert run(learnt, data, tmp_path / "a", limit=2)["n"] == 2
    run(learnt, data, tmp_path / "b", limit=2, batch_size=1)
    assert items_of(tmp_path / "a") == items_of(tmp_path / "b")
    everything = {item["id"]: item for item in items_of(tmp_path / "all")}
    for item in items_of(tmp_path / "a"):
        assert everything[item["id"]] == item


def test_a_limit_is_drawn_over_all_parts():
    assert sample_places([3, 2], None, seed=0) == [[0, 1, 2], [0, 1]]
    drawn = sample_places([700, 300], 100, seed=0)
    assert len(drawn[0]) + len(drawn[1]) == 100
    assert 55 <= len(drawn[0]) <= 85  # 70 expected, standard deviation 4.3
    assert drawn == [sorted(set(part)) for part in drawn]
    assert drawn == sample_places([700, 300], 100, seed=0) != sample_places([700, 300], 100, seed=1)


def test_the_shipped_prompts_are_few_shot_and_end_where_the_answer_begins(learnt, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shots = [{"question": f"q{at}", "answer": f"w{at}\n#### {at}"} for at in range(7)]
    items = [{"question": f"asked {at}", "answer": "#### 1"} for at in range(2)]
    (data / "gsm8k_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shots))
    (data / "gsm8k_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    (data / "math500.jsonl").write_text(
        json.dumps({"problem": "p", "solution": "\\boxed{1}", "unique_id": "u"}) + "\n"
    )
    (data / "humaneval.jsonl").write_text(
        json.dumps({"task_id": "H/0", "prompt": "def f():\n", "entry_point": "f", "test": "1"})
    )
    tasks = ["gsm8k", "math500", "humaneval"]
    asked = {"tasks": [TASKS[task] for task in tasks], "max_new_tokens": 1, "unsafe_code": True}
    result = evaluate_model(Model(model=str(learnt)), data=data, out=tmp_path, **asked)
    assert list(result) == tasks
    lines = {t: [json.loads(x) for x in (tmp_path / f"{t}.jsonl").open()] for t in tasks}
    examples = "".join(f"Question: q{at}\nAnswer: w{at}\n#### {at}\n\n" for at in range(5))
    assert lines["gsm8k"][1]["prompt"] == f"{examples}Question: asked 1\nAnswer:"
    assert lines["gsm8k"][1]["id"] == "gsm8k/1"
    assert lines["math500"][0]["prompt"].count("Problem:") == 5
    assert lines["math500"][0]["prompt"].endswith("Problem:\np\n\nSolution:")
    assert lines["math500"][0]["id"] == "u"
    assert lines["humaneval"][0]["prompt"] == "def f():\n"


def mbpp_folder(folder: Path) -> Path:
    """MBPP and MBPP+ with items of every split."""
    folder.mkdir()
    tests = [f"assert f({n}) == {n + 1}" for n in range(3)]
    row = {"text": "Add one.", "prompt": "Add one.", "code": "def f(x):\n    return x + 1"}
    row |= {"test_list": tests, "test_setup_code": "", "test": "\n".join(tests)}
    rows = [{**row, "task_id": number} for number in (1, 11, 510, 511)]
    (folder / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mbpp_plus.jsonl").write_text(json.dumps({**row, "task_id": 2}) + "\n")
    return folder


def test_of_a_whole_file_of_mbpp_the_test_items_are_asked(learnt, tmp_path):
    data = mbpp_folder(tmp_path / "data")
    asked = {"max_new_tokens": 1, "unsafe_code": True, "data": data}
    tasks = [TASKS["mbpp"], TASKS["mbpp_plus"]]
    result = evaluate_model(Model(model=str(learnt)), tasks=tasks, out=tmp_path, **asked)
    assert (result["mbpp"]["n"], result["mbpp_plus"]["n"]) == (2, 1)
    lines = [json.loads(line) for line in (tmp_path / "mbpp.jsonl").open()]
    assert [line["id"] for line in lines] == ["11", "510"]
    prompt = lines[0]["prompt"]
    assert prompt.count("You are an expert Python programmer") == prompt.count("[BEGIN]") == 4
    assert prompt.count("[DONE]") == 3, "lm-eval's three examples, and the item"
    assert prompt.endswith("assert f(2) == 3\n[BEGIN]\n")
    assert "heap_queue_largest" in prompt
    (data / "mbpp.jsonl").write_text((data / "mbpp_plus.jsonl").read_text())
    result = evaluate_model(Model(model=str(learnt)), tasks=tasks[:1], out=tmp_path, **asked)
    assert result["mbpp"]["n"] == 1, "a file with none of them is one's own"


def test_a_chat_model_is_asked_for_a_program_without_examples(learnt, tmp_path):
    data = mbpp_folder(tmp_path / "data")
    described = Model(model=str(learnt), chat_template=CHAT)
    asked = {"max_new_tokens": 1, "unsafe_code": True, "data": data}
    tasks = [TASKS["mbpp"], TASKS["mbpp_plus"]]
    evaluate_model(described, tasks=tasks, out=tmp_path, **asked)
    first, plus = (json.loads((tmp_path / f"{t.name}.jsonl").open().readline()) for t in tasks)
    assert first["prompt"].startswith("<user>Add one. Answer with the whole program")
    assert first["prompt"].count("assert f(") == 3 and plus["prompt"].count("assert f(") == 1
    assert "[BEGIN]" not in first["prompt"]


def test_several_samples_are_drawn_by_the_seed(learnt, data, tmp_path):
    drawn = {"samples": 3, "temperature": 5.0, "batch_size": 2}
    summary = run(learnt, data, tmp_path / "a", **drawn)
    assert (summary["n"], summary["samples"]) == (4, 3)
    assert list(summary["pass@k"]) == list(summary["maj@k"]) == ["1", "2", "3"]
    items = items_of(tmp_path / "a")
    assert all(len(item["samples"]) == 3 for item in items)
    assert any(len({one["output"] for one in item["samples"]}) > 1 for item in items)
    run(learnt, data, tmp_path / "b", **drawn)
    assert items_of(tmp_path / "b") == items
    run(learnt, data, tmp_path / "c", seed=1, **drawn)
    assert items_of(tmp_path / "c") != items
    cold = run(learnt, data, tmp_path / "d", samples=3, temperature=0.01)
    assert cold["accuracy"] == 0.75, "at a low temperature, what greedy generation gives"
    greedy = run(learnt, data, tmp_path / "e")
    assert "samples" not in greedy and "share" not in items_of(tmp_path / "e")[0]


def test_samples_that_would_all_be_the_same_are_refused(learnt, data, tmp_path):
    from infifusion import evaluate

    with pytest.raises(RecipeError, match="samples above 1 are all the same at temperature 0"):
        evaluate(str(learnt), "gsm8k", data=data, samples=4)
    with pytest.raises(RecipeError, match="top_p below 1 has no effect"):
        evaluate(str(learnt), "gsm8k", data=data, top_p=0.9)


def test_nothing_is_printed_and_loggers_come_back(learnt, data, tmp_path, capfd):
    level = logging.getLogger("lm_eval").level
    capfd.readouterr()
    run(learnt, data, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == level


def test_bad_input_is_refused_with_what_to_do(learnt, data, tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'gsm8k'"):
        require_task("gsm8", TASKS, where="evaluate.tasks")
    with pytest.raises(DataError, match=r"gsm8k_test\.jsonl.*--data"):
        evaluate_model(Model(model=str(learnt)), tasks=[TASKS["gsm8k"]], data=data, out=tmp_path)
    with pytest.raises(DataError, match="not on the hub"):
        run(learnt, None, tmp_path)
    with pytest.raises(CheckpointError, match="is no folder"):
        run(tmp_path / "nowhere", data, tmp_path)
    (data / "own.jsonl").write_text('{"id": "a", "prompt": "b", "answer": "c"}\n{"id": \n')
    with pytest.raises(DataError, match=r"own\.jsonl, line 2 is not JSON"):
        run(learnt, data, tmp_path)
    (data / "own.jsonl").write_text('{"id": "a", "prompt": "b"}\n')
    with pytest.raises(DataError, match="line 1: the task own expects a field 'answer'"):
        run(learnt, data, tmp_path)
    assert not (tmp_path / "own.jsonl").exists()


def test_weights_that_are_not_numbers_are_refused(learnt, data, tmp_path):
    model = LlamaForCausalLM.from_pretrained(learnt)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    model.save_pretrained(tmp_path / "nan")
    make_tokenizer().save_pretrained(tmp_path / "nan")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight holds NaN"):
        run(tmp_path / "nan", data, tmp_path)


def test_the_blank_before_an_answer_survives_a_tokenizer_that_drops_it(tmp_path):
    from infifusion.evals.generation import GreedyLM

    # As SentencePiece does: a word carries its blank, and decoding drops the first ones.
    inner = Tokenizer(models.WordLevel({"<eos>": 0, "▁def": 1, "▁▁return": 2, "▁x": 3}, "<eos>"))
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    assert tokenizer.decode([2, 3]) == "return x"
    model = GreedyLM(make_model(tokenizer), tokenizer=tokenizer)
    assert model._decode_after([1], [2, 3]) == "  return x"
    assert model._decode_after([1] * 20, [3]) == " x"


def test_marks_of_reasoning_that_are_special_tokens_are_seen():
    from infifusion.evals.generation import GreedyLM
    from infifusion.teacher.rows import Draw, Row

    tokenizer = make_tokenizer()
    marks = ["[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|end|>", "[INST]"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    model = GreedyLM(make_model(tokenizer), tokenizer=tokenizer)
    for text, shown in (
        ("[THINK]9[/THINK] 5", "[THINK]9[/THINK] 5"),
        ("[INST][THINK] 9", "[THINK] 9"),
        ("[INST] 5<|end|>", " 5"),
        ("<|channel|>analysis<|message|>9<|end|>", "<|channel|>analysis<|message|>9"),
    ):
        for prompt in ("Q:", "[INST]Q:[THINK]", "Q[INST]"):
            row = tokenizer(text).input_ids
            assert model._decode_after(tokenizer(prompt).input_ids, row) == shown
    ids = [*tokenizer("[THINK]9").input_ids, tokenizer.eos_token_id]
    output = model._output(Row(0, [1], 99, "it", Draw(), ids=ids), ())
    assert (output.text, output.truncated) == ("[THINK]9", False)


def test_templates_become_jinja_that_gives_the_same_text():
    from lm_eval.utils import apply_template

    doc = {"question": "2 {%+ 3?", "n": 5}
    for template in ("Q: {question}\nA ({n}):\n", '"{question}" \\ {{n}} {{%}}', "{n}"):
        assert apply_template(jinja(template), doc) == template.format_map(doc)
    assert apply_template(jinja("question"), doc) == "2 {%+ 3?"
