"""A whole recipe's costs: one row per thing that a stage makes."""

from __future__ import annotations

from collections.abc import Iterator

from infifusion.estimate.costs import disk, memory
from infifusion.estimate.costs.case import PIVOT, Case, Facts, Row, schedule
from infifusion.estimate.costs.lengths import Lengths
from infifusion.estimate.costs.on_policy import (
    correcting,
    loaded_beside,
    rounds_bytes,
    trained_with_own,
)
from infifusion.estimate.costs.online import beside, running
from infifusion.estimate.costs.schedule import Schedule, lora_parameters
from infifusion.estimate.costs.work import Work, decode_work, forward_work, teach_work, train_work
from infifusion.recipe import FuseTarget, TrainingRun

SPLITS = ("train", "validation", "held_out")
TAU0_CANDIDATES = 8  # stages.merge.TAU0_CANDIDATES
BITS_TOKENS = 8192  # teacher/bits.py
BITS_SHARD = 1_000_000_000  # bits per byte takes all examples as one shard


def estimate(case: Case) -> list[Row]:
    """All rows, in the order of the run."""
    parts = (_prepare, _tune, _teach, _fuse, _distill, _merge, _evaluate, _around)
    return [row for part in parts for row in part(case)]


def _prepare(case: Case) -> Iterator[Row]:
    tokens = size = 0.0
    entries = 0
    for name, facts in case.models.items():
        entries += facts.entries * len(SPLITS)
        for split in SPLITS:
            if one := case.lengths.get((name, split)):
                tokens += one.tokens
                size += disk.rendered_bytes(one.tokens, one.positions, one.examples)
    pivot = [case.lengths[PIVOT, split] for split in SPLITS if (PIVOT, split) in case.lengths]
    size += disk.examples_bytes(sum(p.tokens for p in pivot), sum(p.examples for p in pivot))
    units = {"prepare": 1, "prepare_token": tokens, "tokenizer_entry": entries}
    work = Work({}, {**units, "hash_byte": size})
    here = [case.train(name) for name in case.models]
    place = memory.Place(case.hardware.base if case.hardware.on_cpu else 0, 4, True, 1)
    peak = memory.prepare_memory(place, here) if case.hardware.on_cpu else 0
    yield case.row("prepare", "", work, tokens=tokens, bytes=size, memory=peak)


def _tune(case: Case) -> Iterator[Row]:
    yield from (_training(case, run, None, first=False) for run in case.resolved.tuned)


def teach_job(case: Case, name: str) -> tuple[Work, float]:
    """The work of one teacher pass, and the bytes of its cache."""
    facts, lengths, teach = case.models[name], case.train(name), case.recipe.teach
    size = disk.cache_bytes(
        lengths.positions,
        examples=lengths.examples,
        shard_examples=teach.shard_examples,
        top_k=teach.top_k,
        vocabulary=facts.shape.vocabulary,
    )
    work = teach_work(
        facts.shape,
        lengths,
        batch_tokens=teach.batch_tokens,
        shard_examples=teach.shard_examples,
        load_bytes=facts.parameters * facts.stored,
        cache_bytes=size,
    )
    return case.rated(work, half=case.in_half(name)), size


def _teach(case: Case) -> Iterator[Row]:
    teach = case.recipe.teach
    for number, name in enumerate(case.resolved.taught):
        facts, lengths = case.models[name], case.train(name)
        work, size = teach_job(case, name)
        if case.in_engine(name):
            yield case.row("teach", name, Work(), tokens=lengths.tokens, bytes=size)
            continue
        if number == 0:
            work += Work({}, {"teach_first": 1})
        peak = memory.forward_memory(
            case.place("teach", name),
            facts.shape,
            lengths,
            parameters=facts.parameters,
            batch_tokens=teach.batch_tokens,
            top_k=teach.top_k,
            shard_examples=teach.shard_examples,
            head_rows=teach.head_rows,
        )
        yield case.row("teach", name, work, tokens=lengths.tokens, bytes=size, memory=peak)


def _fuse(case: Case) -> Iterator[Row]:
    pivot, own = case.models[PIVOT], case.train(PIVOT)
    for target in case.resolved.targets:
        if target.teacher == "online":
            continue
        names = [*target.sources, *([PIVOT] if target.pivot_as_source else [])]
        size = disk.target_bytes(
            own.positions, sources=len(names), keep=target.keep, top_k=case.recipe.teach.top_k
        )
        read = sum(teach_job(case, name)[1] for name in names)
        other = [case.models[n] for n in names if case.models[n].identity != pivot.identity]
        gate = [pivot] if target.gate != "none" else []
        loaded = [*(case.models[name] for name in names), *gate]
        entries = pivot.entries * (1 + len(loaded)) + sum(facts.entries for facts in loaded)
        work = Work(
            {},
            {
                "fuse": 1,
                "tokenizer_entry": entries,
                "map_entry": sum(facts.entries for facts in other),
                "fuse_position": own.positions * len(names),
                "hash_byte": read + size,
                "write_byte": size,
            },
        )
        peak = 0.0
        if case.hardware.on_cpu:
            data = [case.train(name) for name in dict.fromkeys([*names, PIVOT])]
            peak = memory.fuse_memory(
                case.place("fuse"), data, sources=len(names), top_k=case.recipe.teach.top_k
            )
        yield case.row("fuse", target.name, work, tokens=own.tokens, bytes=size, memory=peak)


def _distill(case: Case) -> Iterator[Row]:
    online = {t.name: t for t in case.resolved.targets if t.teacher == "online"}
    for number, run in enumerate(case.resolved.runs):
        yield _training(case, run, online.get(run.target or ""), first=number == 0)


def _training(case: Case, run: TrainingRun, online: FuseTarget | None, *, first: bool) -> Row:
    """One training run; online: its target, where the sources run beside the pivot."""
    pivot, half = case.models[run.of], case.trains_in_half(run)
    place = case.place("distill", half=half)
    lengths = trained_with_own(case, run)
    steps = schedule(case, run)
    trainable = pivot.parameters if run.lora is None else lora_parameters(pivot.shape, run.lora)
    size = saved_bytes(pivot)
    state = disk.training_state_bytes(pivot.parameters, trainable, adapters=run.lora is not None)
    work = train_work(
        pivot.shape,
        lengths,
        steps,
        devices=place.devices,
        distils=run.target is not None,
        parameters=pivot.parameters,
        trainable=trainable,
        load_bytes=pivot.parameters * pivot.stored,
        model_bytes=size,
        state_bytes=state,
    )
    work = case.rated(work, half=half)
    work += Work({}, {"distill_first": int(first), "tokenizer_entry": pivot.entries})
    own, beside_it = run.on_policy, running(online) if online is not None else []
    if online is not None and (own is None or own.share < 1):
        work += beside(case, run, online).times(1 if own is None else 1 - own.share)
    if own is not None:
        target = next(t for t in case.resolved.targets if t.name == run.target)
        work += correcting(case, run, target, own)
        size += rounds_bytes(case, run, target, own)
        beside_it = list(dict.fromkeys([*beside_it, *loaded_beside(target, own)]))
    seconds = case.hardware.rates.seconds(work)
    seconds += _exchange_seconds(case, steps, trainable, pivot.parameters)
    peak = memory.train_memory(
        place,
        pivot.shape,
        lengths,
        steps,
        parameters=pivot.parameters,
        trainable=trainable,
        loss_rows=run.loss_rows,
        distils=run.target is not None,
        saved_width=pivot.stored,
    )
    for name in beside_it:
        peak += case.place("distill", name).width * case.models[name].parameters
    tokens = lengths.tokens * steps.passes
    scratch = state if steps.saves else 0.0
    flops = work.all_flops * place.devices
    stage = "distill" if run.of == PIVOT else "tune"
    return Row(stage, run.name, tokens, flops, size, scratch, peak, seconds, work)


def _exchange_seconds(case: Case, steps: Schedule, trainable: float, parameters: float) -> float:
    """Gradients on their way between devices, as far as arithmetic does not hide them.

    A ring moves 2 (n - 1) / n of the float32 gradients per step; sharded weights are gathered
    twice as well. Half of it is taken to be hidden behind the backward pass.
    """
    devices = case.place("distill").devices
    if devices == 1:
        return 0.0
    moved = 2 * 4 * trainable + (2 * 2 * parameters * steps.accumulation if steps.sharded else 0)
    return 0.5 * steps.steps * moved * (devices - 1) / devices / case.hardware.link


def saved_bytes(pivot: Facts) -> float:
    """A saved model of the pivot's shape."""
    return disk.checkpoint_bytes(
        pivot.parameters,
        bytes_each=pivot.stored,
        header=pivot.header,
        tokenizer=pivot.tokenizer,
    )


def _merge(case: Case) -> Iterator[Row]:
    pivot, validation = case.models[PIVOT], case.lengths.get((PIVOT, "validation"))
    for run in case.resolved.merges:
        width = {None: pivot.stored, "float32": 4.0}.get(run.dtype, 2.0)
        size = pivot.parameters * width + (saved_bytes(pivot) - pivot.parameters * pivot.stored)
        size += disk.MERGE_DETAIL * pivot.tensors
        one = Work({}, {"merge_number": pivot.parameters * len(run.models), "write_byte": size})
        work = one + Work({}, {"merge": 1, "hash_byte": size})
        tokens, scratch = 0.0, 0
        peak = memory.merge_memory(case.place("merge"), case.hardware.threads)
        if run.params.get("tau0") == "validate" and validation:
            scored = case.rated(bits_work(pivot, validation), half=case.in_half(PIVOT))
            work += (one + scored).times(TAU0_CANDIDATES)
            tokens = validation.tokens * TAU0_CANDIDATES
            scratch = size if tokens else 0
            peak = max(peak, _bits_memory(case, PIVOT, validation))
        elif not case.hardware.on_cpu:
            peak = 0
        yield case.row(
            "merge", run.name, work, tokens=tokens, bytes=size, scratch=scratch, memory=peak
        )


def bits_work(facts: Facts, lengths: Lengths) -> Work:
    """Bits per byte of one model on some examples."""
    batches = lengths.by_length(max(1, lengths.examples), BITS_TOKENS)
    load = {"load_byte": facts.parameters * facts.stored, "evaluate": 1}
    return forward_work(facts.shape, lengths, batches) + Work({}, load)


def _bits_memory(case: Case, name: str, lengths: Lengths) -> float:
    facts = case.models[name]
    return memory.forward_memory(
        case.place("evaluate", name),
        facts.shape,
        lengths,
        parameters=facts.parameters,
        batch_tokens=BITS_TOKENS,
        top_k=1,
        shard_examples=BITS_SHARD,
    )


def _evaluate(case: Case) -> Iterator[Row]:
    resolved = case.resolved
    members = [run.name for run in resolved.runs if run.name not in resolved.scored]
    for number, name in enumerate([*resolved.scored, *members]):
        rendering = name.partition(":")[2] or PIVOT  # source:NAME
        facts, place = case.models[rendering], case.place("evaluate", rendering)
        work, tokens, peak, size = Work(), 0.0, place.base, 0.0
        held_out = case.lengths.get((rendering, "held_out"))
        if held_out and held_out.examples:
            work += bits_work(facts, held_out)
            tokens += held_out.tokens
            peak = _bits_memory(case, rendering, held_out)
        tasks = case.tasks if name in resolved.scored else ()
        for task in tasks:
            batch, asked = case.recipe.evaluate.batch_size, {"prompt": task.prompt, "new": task.new}
            work += decode_work(
                facts.shape,
                items=task.items,
                batch=batch,
                weight_bytes=place.width * facts.parameters,
                **asked,
            )
            tokens += task.items * (task.prompt + task.new)
            size += task.items * disk.ITEM
            asked = {**asked, "parameters": facts.parameters, "batch": min(batch, task.items)}
            peak = max(peak, memory.decode_memory(place, facts.shape, **asked))
        if tasks:
            load = {"load_byte": facts.parameters * facts.stored, "tasks_first": int(number == 0)}
            work += Work({}, {**load, "tokenizer_entry": facts.entries})
        work = case.rated(work, half=case.in_half(rendering))
        work, peak = (Work(), place.base) if case.in_engine(rendering) else (work, peak)
        yield case.row("evaluate", name, work, tokens=tokens, bytes=size, memory=peak)


def _around(case: Case) -> Iterator[Row]:
    """What no stage's manifest counts: start, checks, waiting, the report."""
    entries = sum(facts.entries for facts in case.models.values())
    work = Work({}, {"start": 1, "run": 1, "tokenizer_entry": entries})
    base = case.hardware.base if case.hardware.on_cpu else 0
    yield case.row("around", "start, checks, report", work, memory=base)
