"""A pivot that learns from its own text; the sources are a function here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model
from scipy.stats import chisquare
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from infifusion.errors import ArtifactError, RunError
from infifusion.losses import LOSSES
from infifusion.losses.kl import Params
from infifusion.recipe import Lora, Model, OnPolicy
from infifusion.store.records import read_json
from infifusion.train.health import Watch
from infifusion.train.job import Job
from infifusion.train.own_text import Corrected, Drawn, OwnRows, OwnText
from infifusion.train.rounds import sheets_of
from infifusion.train.run import train
from infifusion.types import Rendered, Target

VOCABULARY, KEPT = 300, 2
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14]]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    tiny_model("llama", VOCABULARY, seed=0).save_pretrained(tmp_path / "start")
    byte_level_tokenizer(VOCABULARY).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


class Sources:
    """They want the token after the one that was drawn, everywhere. seen: all that was drawn."""

    def __init__(
        self, prompts: list[list[int]] = PROMPTS, *, keep_cut: bool = True, ends: int = 60
    ) -> None:
        """ends: how many tokens end a turn; with 60 of 300 answers differ in length."""
        self.prompts, self.keep_cut, self.ends = prompts, keep_cut, list(range(ends))
        self.seen: list[Drawn] = []

    def __call__(self, drawn, pivot, shown: bool) -> Corrected:
        self.seen += drawn
        kept = [n for n, one in enumerate(drawn) if one.finished or self.keep_cut]
        figures = {"answers": len(drawn), "tokens": sum(len(one.ids) for one in drawn)}
        figures |= {"cut_off": sum(not o.finished for o in drawn), "learnt": len(kept)}
        if not kept:
            return Corrected(OwnRows.none(1, KEPT), {"figures": figures, "samples": []})
        texts = [(self.prompts[drawn[n].prompt], drawn[n].ids) for n in kept]
        lengths = [len(prompt) + len(ids) for prompt, ids in texts]
        rendered = Rendered(
            ids_L=np.concatenate([prompt + ids for prompt, ids in texts]).astype(np.int32),
            offset_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            first_N=np.array([len(prompt) for prompt, _ in texts], np.int32),
            start_R=np.concatenate([np.arange(len(ids)) for _, ids in texts]).astype(np.int32),
            row_N1=np.concatenate([[0], np.cumsum([len(i) for _, i in texts])]).astype(np.int64),
        )
        own = pivot(rendered, [str(n) for n in kept])
        figures |= {"positions": len(own.gold_U), "entropy": float(own.entropy_U.sum())}
        gold = np.concatenate([ids for _, ids in texts])
        ids_TK = np.stack([(gold + 1) % VOCABULARY, gold], axis=1).astype(np.int32)
        rows = OwnRows(
            of_N=np.array(kept, np.int64),
            prompt_N=np.array([drawn[n].prompt for n in kept], np.int64),
            ids_L=rendered.ids_L,
            offset_N1=rendered.offset_N1,
            first_N=rendered.first_N,
            row_N1=rendered.row_N1,
            ids_TK=ids_TK,
            prob_TK=np.tile(np.array([[0.6, 0.3]], np.float32), (len(gold), 1)),
            weight_ST=np.ones((1, len(gold)), np.float32),
            learnt_T=np.ones(len(gold), bool),
            before_T=own.gold_U,
            advantage_T=np.ones(len(gold), np.float32),
        )
        return Corrected(rows, {"figures": figures, "samples": [], "drawn": str(drawn)})


def given_examples(count: int = 6) -> tuple[Rendered, Target]:
    rng = np.random.default_rng(0)
    lengths, rows = np.full(count, 8), np.full(count, 5)
    rendered = Rendered(
        ids_L=rng.integers(1, VOCABULARY, lengths.sum()).astype(np.int32),
        offset_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        first_N=np.full(count, 3, np.int32),
        start_R=np.concatenate([np.arange(n) for n in rows]).astype(np.int32),
        row_N1=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64),
    )
    shape = (5 * count, KEPT)
    ids = np.tile(np.array([[1, 2]], np.int32), (shape[0], 1))
    prob = np.full(shape, 0.4, np.float32)
    return rendered, Target(ids, prob, np.ones((1, shape[0]), np.float32), None)


def kl(log_CV, rows):
    return LOSSES["kl"](log_CV, rows, Params())


def job(start: Path, sources: Sources, *, own: dict | None = None, **changes: object) -> Job:
    rendered, target = given_examples()
    settings = {"share": 1, "max_new_tokens": 6, "stop_at_growth": None, **(own or {})}
    training = {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        **changes.pop("training", {}),
    }
    text = OwnText(
        settings=OnPolicy(**settings),
        prompts=sources.prompts,
        names=[f"prompt-{n}" for n in range(len(sources.prompts))],
        ends=sources.ends,
        batch_tokens=256,
        kept=KEPT,
        correct=sources,
    )
    values = {
        "title": "test",
        "model": Model(model=str(start)),
        "tokenizer": AutoTokenizer.from_pretrained(start),
        "rendered": rendered,
        "target": target,
        "loss": kl,
        "gold_weight": 0.3,
        "loss_rows": 1024,
        "training": training,
        "lora": None,
        "seed": 0,
        "own": text,
    }
    return Job(**{**values, **changes})


def run(start: Path, out: Path, sources: Sources, **changes: object) -> dict[str, torch.Tensor]:
    out.mkdir(exist_ok=True)
    train(job(start, sources, **changes), out, name_of=str)
    return AutoModelForCausalLM.from_pretrained(out / "model").state_dict()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "rounds").iterdir())}


def test_answers_are_drawn_from_what_the_pivot_believes(tmp_path: Path) -> None:
    """Chi-square over 1,500 first tokens, and over the second tokens that follow one of them."""
    size, count = 8, 1500
    torch.manual_seed(3)
    model = tiny_model("llama", size, seed=3)
    with torch.no_grad():  # an uneven distribution
        for weight in model.parameters():
            weight.mul_(3)
    model.save_pretrained(tmp_path / "start")
    byte_level_tokenizer(VOCABULARY).save_pretrained(tmp_path / "start")
    rendered, _ = given_examples()
    rendered = replace(rendered, ids_L=rendered.ids_L % size)
    sources = Sources([[5, 6]], ends=0)
    with pytest.raises(Stopped):
        run(
            tmp_path / "start",
            tmp_path / "out",
            sources,
            rendered=rendered,
            own={"max_new_tokens": 2, "batch_size": 512},
            training={"max_steps": 1, "per_device_train_batch_size": count},
            callbacks=[("stop", lambda: Stop(0))],
        )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "start").eval()
    first = np.bincount([one.ids[0] for one in sources.seen], minlength=size)
    likely = int(np.argmax(np.where(np.arange(size) > 0, first, 0)))
    second = [one.ids[1] for one in sources.seen if one.ids[0] == likely]
    for seen, text in ((first, [5, 6]), (np.bincount(second, minlength=size), [5, 6, likely])):
        prob = model(torch.tensor([text])).logits[0, -1].double().softmax(0).detach().numpy()
        expected = prob / prob.sum() * seen.sum()
        assert chisquare(seen, expected).pvalue > 1e-3
        assert prob.max() > 2 / size  # else every way to draw would do


class Stopped(Exception):
    pass


class Stop(TrainerCallback):
    """Ends the process when a step is done, or before the first."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args, state, control, **_):
        if self._step == 0:
            raise Stopped

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self._step:
            raise Stopped


@pytest.mark.parametrize("own", [{"share": 0.5}, {"share": 1, "round_steps": 2, "epochs": 2}])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    start: Path, tmp_path: Path, own: dict, at: int
) -> None:
    training = {"max_steps": 6, "save_steps": 2, "optim": "adamw_torch"}
    kinds = {"own": own, "training": training}
    whole = run(start, tmp_path / "whole", Sources(), **kinds)
    with pytest.raises(Stopped):
        run(start, tmp_path / "out", Sources(), **kinds, callbacks=[("stop", lambda: Stop(at))])
    sources = Sources()
    resumed = run(start, tmp_path / "out", sources, **kinds)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    kept = bytes_of(tmp_path / "out")
    assert kept == bytes_of(tmp_path / "whole")
    answers = sum(
        read_json(p)["figures"]["answers"] for p in (tmp_path / "out/rounds").glob("*.json")
    )
    assert len(sources.seen) < answers  # some rounds were read again


def test_a_lost_round_is_made_anew_where_it_can_be_and_else_named(
    start: Path, tmp_path: Path
) -> None:
    kinds = {"own": {"round_steps": 4}, "training": {"max_steps": 6, "save_steps": 2}}
    with pytest.raises(Stopped):
        stop = [("stop", lambda: Stop(3))]
        run(start, tmp_path / "out", Sources(), **kinds, callbacks=stop)
    path = tmp_path / "out/rounds/round-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"round-000000.*2 steps behind.*checkpoints"):
        run(start, tmp_path / "out", Sources(), **kinds)
    for checkpoint in (tmp_path / "out/checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    whole = run(start, tmp_path / "whole", Sources(), **kinds)
    again = run(start, tmp_path / "out", Sources(), **kinds)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_micro_batches_take_the_same_step(start: Path, tmp_path: Path, reduction: str) -> None:
    own = {"share": 0.5, "reduction": reduction}
    large = {"max_steps": 2, "per_device_train_batch_size": 4}
    small = {**large, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    one = run(start, tmp_path / "one", Sources(), own=own, training=large)
    four = run(start, tmp_path / "four", Sources(), own=own, training=small)
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    for name, weight in one.items():
        torch.testing.assert_close(four[name], weight, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(before[name], weight) for name, weight in one.items())


def step_by_hand(start: Path, sources: Sources, reduction: str) -> dict[str, torch.Tensor]:
    """One step of gradient descent on the answers that were seen, written out."""
    model = AutoModelForCausalLM.from_pretrained(start)
    total, count = torch.zeros(()), 0.0
    for one in sources.seen:
        prompt = sources.prompts[one.prompt]
        ids = torch.tensor(prompt + one.ids)
        log = model(ids[None]).logits[0].float().log_softmax(1)[len(prompt) - 1 : -1]
        losses = []
        for row, gold in zip(log, one.ids, strict=True):
            p = torch.tensor([0.6, 0.3, 0.1])
            q = row[[(gold + 1) % VOCABULARY, gold]]
            q = torch.cat([q, torch.log1p(-q.exp().sum())[None]])
            losses.append((p * (p.log() - q)).sum())
        scale = 1 / len(losses) if reduction == "sequence" else 1
        total, count = total + scale * sum(losses), count + scale * len(losses)
    (total / count).backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad
    return model.state_dict()


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_a_step_on_own_text_is_the_one_written_out(
    start: Path, tmp_path: Path, reduction: str
) -> None:
    sources = Sources()
    own = {"reduction": reduction}
    found = run(start, tmp_path / "out", sources, own=own, training={"max_steps": 1})
    assert len({len(one.ids) for one in sources.seen}) > 1  # else both reductions are one
    for name, weight in step_by_hand(start, sources, reduction).items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)


def test_every_round_is_written_by_the_pivot_as_it_is_then(start: Path, tmp_path: Path) -> None:
    """What it gave its tokens is what the model trained so far gives them."""
    one, three = Sources(), Sources()
    after_one = run(start, tmp_path / "one", one, training={"max_steps": 1})
    run(start, tmp_path / "three", three, training={"max_steps": 3})
    rows = OwnRows.load(tmp_path / "three/rounds/round-000001.safetensors")
    model = AutoModelForCausalLM.from_pretrained(start)
    model.load_state_dict(after_one)
    ids = torch.from_numpy(rows.ids_L[: rows.offset_N1[1]]).long()
    first = int(rows.first_N[0])
    log = model(ids[None]).logits[0].log_softmax(1)[first - 1 : -1]
    expected = log.gather(1, ids[first:, None])[:, 0].detach().numpy()
    np.testing.assert_allclose(rows.before_T[: rows.row_N1[1]], expected, atol=2e-4)


def test_adapters_write_and_learn(start: Path, tmp_path: Path) -> None:
    sources = Sources()
    found = run(start, tmp_path / "out", sources, lora=Lora(r=2), training={"learning_rate": 5.0})
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    assert any(not torch.equal(before[name], weight) for name, weight in found.items())
    texts = [one.ids for one in sources.seen]
    assert len(texts) == 12


def test_a_step_without_anything_to_learn_leaves_the_weights(start: Path, tmp_path: Path) -> None:
    sources = Sources(keep_cut=False, ends=0)
    own = {"max_new_tokens": 1}
    found = run(start, tmp_path / "out", sources, own=own, training={"max_steps": 1})
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    assert not any(one.finished for one in sources.seen)
    assert all(torch.equal(before[name], weight) for name, weight in found.items())


def test_a_run_of_answers_none_of_which_can_be_learnt_stops(start: Path, tmp_path: Path) -> None:
    own, training = {"max_new_tokens": 1}, {"max_steps": 2, "per_device_train_batch_size": 64}
    with pytest.raises(RunError, match="None of the pivot's last 64 answers"):
        run(start, tmp_path / "out", Sources(keep_cut=False, ends=0), own=own, training=training)


def test_rounds_of_another_number_of_processes_are_not_counted_twice(tmp_path: Path) -> None:
    """Those of as many processes as now; where there are none of these, what there is."""
    folder = tmp_path / "rounds"
    folder.mkdir()
    for name in ("000000", "000000-1of2", "000000-2of2", "000001-1of2", "000001-2of2", "000002"):
        (folder / f"round-{name}.json").write_text("{}")
    found = {n: [p.stem for p in paths] for n, paths in sheets_of(tmp_path).items()}
    assert found == {
        0: ["round-000000"],
        1: ["round-000001-1of2", "round-000001-2of2"],
        2: ["round-000002"],
    }


def saves(rises: list[float], unhealthy: set[int], *, every: int = 2) -> list[int]:
    """The steps (from 1) whose checkpoints are saved, of steps with these losses."""
    model, state, control = torch.nn.Linear(1, 1), TrainerState(), TrainerControl()
    step = iter(range(1, len(rises) + 1))
    now = [0]
    watch = Watch(lambda: rises[now[0] - 1], 2.0, lambda: now[0] not in unhealthy)
    kept = []
    for now[0] in step:
        state.global_step, control.should_save = now[0], now[0] % every == 0
        watch.on_step_end(TrainingArguments("out"), state, control, model=model)
        kept += [now[0]] if control.should_save else []
    return kept


def test_a_checkpoint_waits_for_the_loss_and_for_the_answers() -> None:
    """Whichever of the two is as it may be again first."""
    low = [1.0] * 30
    assert saves(low, set())[-3:] == [26, 28, 30]
    assert saves(low, {24, 25, 26}) == [*range(2, 24, 2), 27, 28, 30]
    high = [1.0] * 23 + [9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0]  # in steps 24 and 25
    assert saves(high, set()) == [*range(2, 24, 2), 26, 28, 30]
    assert saves(high, {25, 26}) == [*range(2, 24, 2), 27, 28, 30]
    assert saves(high, {23, 24}) == [*range(2, 24, 2), 26, 28, 30]
