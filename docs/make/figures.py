"""Draw the figures of docs/concepts.md into docs/figures, with numbers from the package itself.

    python docs/make/figures.py

`make docs` runs it, and a test says when a figure no longer fits the code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from drawing import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    LINE,
    ORANGE,
    RED,
    arrow,
    bar,
    box,
    curve,
    dot,
    line,
    svg,
    text,
)
from tokenizers import Tokenizer, models, pre_tokenizers

from infifusion.align.boundaries import match
from infifusion.align.byte_spans import TokenTable, byte_starts, token_table
from infifusion.align.first_token import first_tokens
from infifusion.align.project import Believed, Positions, align_sources, by_bytes
from infifusion.align.vocabulary import How, VocabularyMap, vocabulary_map
from infifusion.fuse import uncertainty
from infifusion.fuse.gate import better_in_domain, better_on_response
from infifusion.losses.gate import FollowingGate
from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.methods import rsaf
from infifusion.types import Aligned, Beliefs, SparseTarget

FOLDER = Path(__file__).parents[1] / "figures"
TEXT = "The sum is 42."
PIVOT = ["The", " sum", " is", " 42", "."]
SOURCE = ["The", " su", "m", " is", " 4", "2", "."]
OTHERS = [" sums", " island", "42"]
"""Tokens that the source has and the pivot has not."""
BLANK = "·"


def tables() -> tuple[TokenTable, TokenTable, Callable[[list[str]], list[list[int]]]]:
    """The tables of two tokenizers, source first, and what encodes with the pivot's."""

    def made(words: list[str]) -> tuple[TokenTable, Tokenizer]:
        pieces = [word.replace(" ", "Ġ") for word in words]
        letters = sorted({*"".join([*PIVOT, *SOURCE, *OTHERS]).replace(" ", "Ġ"), "Ċ"})
        merges, known = [], list(letters)
        for piece in pieces:
            for end in range(2, len(piece) + 1):
                if piece[:end] not in known:
                    known.append(piece[:end])
                    merges.append((piece[: end - 1], piece[end - 1]))
        vocabulary = {piece: index for index, piece in enumerate(known)}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        values = {"model": {"vocab": vocabulary}, "decoder": {"type": "ByteLevel"}}
        return token_table(values), tokenizer

    (source, _), (pivot, tokenizer) = made(SOURCE + OTHERS), made(PIVOT)
    return source, pivot, lambda texts: [tokenizer.encode(one).ids for one in texts]


def ids_of(table: TokenTable, words: list[str]) -> list[int]:
    """Token ids of words that are all in the table."""
    return [table.bytes_V.index(word.encode()) for word in words]


def shown(word: str) -> str:
    """A token with its blanks to be seen."""
    return word.replace(" ", BLANK)


def boundaries() -> str:
    """Two tokenizers on one text, and the positions that predict from the same byte."""
    source, pivot, _ = tables()
    start_U = byte_starts(source, ids_of(source, SOURCE), TEXT)
    start_T = byte_starts(pivot, ids_of(pivot, PIVOT), TEXT)
    of_T = match(start_T[:-1], start_U[:-1])
    unit, left, parts = 42, 90, []
    rows = (("pivot", PIVOT, start_T, 50), ("source", SOURCE, start_U, 150))
    for name, words, starts, y in rows:
        parts.append(text(left - 12, y + 24, name, anchor="end"))
        for n, word in enumerate(words):
            taught = of_T[n] >= 0 if name == "pivot" else n in of_T
            colour = BLUE if taught else FAINT
            x, width = left + unit * starts[n], unit * (starts[n + 1] - starts[n])
            parts.append(box(x + 1, y, width - 2, 38, colour=colour))
            parts.append(text(x + width / 2, y + 24, shown(word), anchor="middle", mono=True))
    for t, u in enumerate(of_T):
        if u >= 0:
            x = left + unit * start_T[t] + 6
            parts.append(line(x, 88, x, 150, colour=BLUE))
    for byte in range(len(TEXT)):
        parts.append(
            text(left + unit * byte, 32, str(byte), anchor="middle", colour=FAINT, size=12)
        )
    parts.append(text(left - 12, 32, "byte", anchor="end", colour=FAINT, size=12))
    parts.append(
        text(
            left,
            214,
            "Joined: both predict from the same byte. Grey: no pivot token starts there. "
            "A dot is a blank.",
            colour=FAINT,
            size=13,
        )
    )
    return svg(700, 230, "Token boundaries of pivot and source over one text", parts)


def mapping() -> VocabularyMap:
    """The source's tokens as the pivot's."""
    source, pivot, encode = tables()
    return vocabulary_map(
        source,
        pivot,
        lambda data: first_tokens(pivot, encode, data),
        roles={},
        size=len(source),
    )


def vocabulary() -> str:
    """Which pivot token each of some source tokens stands for."""
    source, pivot, _ = tables()
    found, parts = mapping(), []
    few = ["The", " is", " su", *OTHERS]
    words = {How.SAME_BYTES: "same bytes", How.FIRST_TOKEN: "first token of its bytes"}
    for row, word in enumerate(few):
        index = ids_of(source, [word])[0]
        how = How(int(found.how_V[index]))
        stands_for = pivot.bytes_V[int(found.pivot_V[index])].decode()
        colour, y = (GREEN if how == How.SAME_BYTES else ORANGE), 44 + 40 * row
        parts += [
            box(20, y, 110, 30, colour=colour),
            text(75, y + 20, shown(word), anchor="middle", mono=True),
            arrow(138, y + 15, 232, y + 15, colour=colour),
            box(240, y, 110, 30, colour=colour),
            text(295, y + 20, shown(stands_for), anchor="middle", mono=True),
            text(366, y + 20, words[how], colour=FAINT),
        ]
    parts += [text(75, 30, "source", anchor="middle"), text(295, 30, "pivot", anchor="middle")]
    return svg(560, 292, "Source tokens and the pivot tokens they stand for", parts)


def gold_path() -> str:
    """A pivot token that is two source tokens: what it gets without and with the chain rule."""
    source, pivot, _ = tables()
    start_U = byte_starts(source, ids_of(source, SOURCE), TEXT)[:-1].astype(np.int32)
    start_T = byte_starts(pivot, ids_of(pivot, PIVOT), TEXT)[:-1].astype(np.int32)

    def positions(start_R: np.ndarray, ids: list[int]) -> Positions:
        return Positions(start_R, np.array([0, len(ids)]), np.array(ids, np.int32))

    gold_U = np.array(ids_of(source, SOURCE), np.int32)
    first = SOURCE.index(" 4")
    prob_UK = np.full((len(gold_U), 2), 0.01, np.float32)
    prob_UK[first] = [0.8, 0.15]
    ids_UK = np.stack([gold_U, np.full_like(gold_U, ids_of(source, [" is"])[0])], axis=1)
    gold_logprob_U = np.log(np.full(len(gold_U), 0.9, np.float32))
    gold_logprob_U[first] = np.log(0.8)
    zero_U = np.zeros(len(gold_U), np.float32)
    beliefs = Beliefs(ids_UK, np.log(prob_UK).astype(np.float16), gold_logprob_U, *([zero_U] * 4))
    parts = []
    for column, corrected in enumerate((False, True)):
        source_rows = Believed(positions(start_U, gold_U.tolist()), beliefs, mapping(), by_bytes)
        there = positions(start_T, ids_of(pivot, PIVOT))
        aligned, _ = align_sources([source_rows], there, gold_path=corrected, zscores=False)
        t, left = PIVOT.index(" 42"), 30 + 340 * column
        title = "with the gold path" if corrected else "by the vocabulary map alone"
        parts.append(text(left, 28, title))
        rows = zip(aligned.ids_STK[0, t], aligned.prob_STK[0, t], strict=True)
        bars = [(pivot.bytes_V[i].decode(), p) for i, p in rows if i >= 0 and p > 0.001]
        bars.append(("tail", aligned.tail_ST[0, t]))
        for row, (word, share) in enumerate(bars):
            y = 44 + 34 * row
            parts += [
                text(left + 62, y + 17, shown(word), anchor="end", mono=word != "tail"),
                bar(left + 72, y, 170 * float(share), 24, colour=GREEN if word == " 42" else BLUE),
                text(left + 80 + 170 * float(share), y + 17, f"{share:.2f}", colour=FAINT),
            ]
    return svg(700, 190, "The gold path: the product of the source's probabilities", parts)


def weights() -> str:
    """Weight of one of two sources over its own entropy, the other's being 1 nat."""
    entropy_X = np.linspace(0, 3, 61, dtype=np.float32)
    left, top, width, height = 60, 30, 420, 220

    def beliefs() -> Aligned:
        count = len(entropy_X)
        entropy_ST = np.stack([entropy_X, np.ones(count, np.float32)])
        flat_ST = np.zeros((2, count), np.float32)
        return Aligned(
            ids_STK=np.zeros((2, count, 1), np.int32),
            prob_STK=np.ones((2, count, 1), np.float32),
            tail_ST=flat_ST,
            aligned_ST=np.ones((2, count), bool),
            entropy_ST=entropy_ST,
            top_ST=flat_ST,
            zscore_STK=np.zeros((2, count, 1), np.float32),
            bits_SN=np.zeros((2, 1), np.float32),
            evidence=lambda forgetting: flat_ST,
            example_T=np.zeros(count, np.int64),
        )

    settings = [
        (uncertainty.Params(kappa=0.1), "kappa 0.1", ORANGE),
        (uncertainty.Params(), "kappa 1, the default", BLUE),
        (uncertainty.Params(form="inverse"), "form: inverse", GREEN),
    ]
    parts = [line(left, top + height, left + width, top + height, colour=INK)]
    parts.append(line(left, top, left, top + height, colour=INK))
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        parts += [
            line(left, y, left + width, y, dashed=True),
            text(left - 8, y + 5, f"{share:g}", anchor="end", colour=FAINT, size=12),
        ]
    for nats in range(4):
        x = left + width * nats / 3
        parts.append(text(x, top + height + 18, str(nats), anchor="middle", colour=FAINT, size=12))
    for row, (params, name, colour) in enumerate(settings):
        weight_X = uncertainty.weights(beliefs(), params)[0]
        points = [
            (left + width * float(h) / 3, top + height * (1 - float(w)))
            for h, w in zip(entropy_X, weight_X, strict=True)
        ]
        y = top + 30 + 26 * row
        parts += [
            curve(points, colour=colour),
            line(left + width + 20, y - 5, left + width + 46, y - 5, colour=colour),
            text(left + width + 54, y, name),
        ]
    parts += [
        text(left, 18, "weight of source A", size=13),
        text(left + width / 2, top + height + 40, "entropy of A, nats", anchor="middle", size=13),
        text(left + width + 20, top + 130, "Source B: 1 nat.", colour=FAINT, size=13),
    ]
    return svg(700, 300, "Weight of a source over its entropy", parts)


LEADS = {0.0: "level", -0.3: "0.3 nats behind"}
"""How the sources stand in the domain, in words."""


def follow() -> str:
    """How far a source counts over what the pivot gives to the label by now."""
    pivot_X = np.linspace(0, 1, 101, dtype=np.float32)
    left, top, width, height = 60, 30, 420, 220
    settings = [(0.9, 0.0, BLUE), (0.3, 0.0, GREEN), (0.01, 0.0, ORANGE), (0.9, -0.3, RED)]
    parts = [line(left, top + height, left + width, top + height, colour=INK)]
    parts.append(line(left, top, left, top + height, colour=INK))
    for share in (0.0, 0.5, 1.0):
        x, y = left + width * share, top + height * (1 - share)
        parts += [
            line(left, y, left + width, y, dashed=True),
            text(left - 8, y + 5, f"{share:g}", anchor="end", colour=FAINT, size=12),
            text(x, top + height + 18, f"{share:g}", anchor="middle", colour=FAINT, size=12),
        ]
    for row, (source, lead, colour) in enumerate(settings):
        log_XV = torch.tensor(np.stack([pivot_X, 1 - pivot_X], axis=1)).log()
        kept_XK = torch.zeros(len(pivot_X), 1, dtype=torch.int64)
        target = SparseTarget(
            kept_XK, torch.full(kept_XK.shape, source), None, kept_XK[:, 0], normalised=True
        )
        gate = FollowingGate(domains=1, doubt=0.1)
        gate.kept = [lead]
        share_X = gate(log_XV, target)[0].tolist()
        points = [
            (left + width * float(q), top + height * (1 - s))
            for q, s in zip(pivot_X, share_X, strict=True)
        ]
        y = top + 30 + 26 * row
        parts += [
            curve(points, colour=colour),
            line(left + width + 20, y - 5, left + width + 46, y - 5, colour=colour),
            text(left + width + 54, y, f"{source:g}, {LEADS[lead]}"),
        ]
    parts += [
        text(left, 18, "how far the source counts", size=13),
        text(left + width + 20, top + 4, "source's probability, domain", size=13),
        text(
            left + width / 2,
            top + height + 40,
            "probability of the label by the pivot, now",
            anchor="middle",
            size=13,
        ),
    ]
    return svg(740, 300, "How far a source counts", parts)


def gate() -> str:
    """A source's bits per byte against the pivot's on ten responses of two domains."""
    domains = ["math"] * 5 + ["code"] * 5
    pivot_N = np.array([0.9, 1.1, 0.8, 1.0, 0.7, 0.6, 0.5, 0.7, 0.6, 0.4], np.float32)
    source_SN = np.array([[0.4, 0.5, 1.3, 0.5, 0.3, 1.1, 1.2, 0.6, 1.3, 0.9]], np.float32)
    better = better_on_response(source_SN, pivot_N)[0]
    open_ = better_in_domain(source_SN, pivot_N, domains)[0]
    parts, left, top, step, height = [], 70, 40, 56, 170
    for n, domain in enumerate(domains):
        x = left + step * n + (24 if domain == "code" else 0)

        def level(bits: float) -> float:
            return top + height * (1 - bits / 1.5)

        pivot_y, source_y = level(float(pivot_N[n])), level(float(source_SN[0, n]))
        parts += [
            line(x, pivot_y, x, source_y),
            dot(x, pivot_y, colour=FAINT),
            dot(x, source_y, colour=GREEN if better[n] else RED),
            text(x, top + height + 24, "yes" if better[n] else "no", anchor="middle", size=13),
            text(
                x,
                top + height + 48,
                "open" if open_[n] else "shut",
                anchor="middle",
                colour=GREEN if open_[n] else RED,
                size=13,
            ),
        ]
    for domain, x in (("math", left + 2 * step), ("code", left + 7 * step + 24)):
        parts.append(text(x, 24, domain, anchor="middle"))
    parts += [
        text(left + 10 * step, top + height + 24, "better?", colour=FAINT, size=13),
        text(left + 10 * step, top + height + 48, "gate: domain", colour=FAINT, size=13),
        text(left + 10 * step + 8, top + 20, "pivot", colour=FAINT),
        dot(left + 10 * step, top + 15, colour=FAINT),
        text(left + 10 * step + 8, top + 44, "source"),
        dot(left + 10 * step, top + 39, colour=GREEN),
        text(16, 24, "bits per byte", colour=FAINT, size=12),
    ]
    return svg(
        740, 280, "Bits per byte of a source and the pivot, and what the gate decides", parts
    )


def roads() -> str:
    """Unified and pairwise fusion as flows of boxes."""
    parts: list[str] = []

    def step(x: float, y: float, words: str, colour: str, width: int = 128) -> None:
        parts.append(box(x, y, width, 34, colour=colour))
        parts.append(text(x + width / 2, y + 22, words, anchor="middle", size=13))

    parts.append(text(16, 24, "Unified: one target, one training run"))
    for n, name in enumerate(("source A", "source B", "source C")):
        y = 40 + 44 * n
        step(16, y, name, BLUE)
        parts.append(arrow(148, y + 17, 196, 101))
    step(200, 84, "one target", ORANGE)
    step(376, 84, "distil", FAINT)
    step(552, 84, "fused model", GREEN)
    parts += [arrow(332, 101, 372, 101), arrow(508, 101, 548, 101)]
    parts.append(
        text(16, 214, "Pairwise: a target and a copy of the pivot per source, then a merge")
    )
    for n, name in enumerate("ABC"):
        y = 230 + 44 * n
        step(16, y, f"source {name}", BLUE)
        step(200, y, f"target {name}", ORANGE)
        step(376, y, f"copy {name}", FAINT)
        parts += [arrow(148, y + 17, 196, y + 17), arrow(332, y + 17, 372, y + 17)]
        parts.append(arrow(508, y + 17, 548, 291))
    step(552, 274, "merge (rsaf)", GREEN)
    return svg(700, 380, "Unified and pairwise fusion", parts)


def rsaf_tau() -> str:
    """tau over skewness, and three tensors with what RSAF keeps of them."""
    params, models_ = rsaf.Params(), 3
    left, top, width, height = 60, 40, 270, 190
    gamma_X = np.linspace(-0.5, 6, 66)
    points = [
        (
            left + width * (float(g) + 0.5) / 6.5,
            top + height * (1 - rsaf.clip_tau(params, float(g), models_)),
        )
        for g in gamma_X
    ]
    zero = left + width * (rsaf.gaussian_skewness(models_) + 0.5) / 6.5
    parts = [
        line(left, top, left, top + height, colour=INK),
        line(left, top + height, left + width, top + height, colour=INK),
        line(zero, top, zero, top + height, dashed=True),
        curve(points, colour=BLUE),
        text(left, 24, "tau, the share kept", size=13),
        text(zero + 6, top + 12, "Gaussian deltas", colour=FAINT, size=12),
        text(left + width / 2, top + height + 40, "skewness", anchor="middle", size=13),
    ]
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        parts.append(text(left - 8, y + 5, f"{share:g}", anchor="end", colour=FAINT, size=12))
    for gamma in (0, 2, 4, 6):
        x = left + width * (gamma + 0.5) / 6.5
        parts.append(text(x, top + height + 18, str(gamma), anchor="middle", colour=FAINT, size=12))
    draw = np.random.default_rng(0)
    size = 20_000
    gaussian = draw.standard_normal((models_, size))
    half = np.where(draw.random(size) < 0.5, 0, gaussian)
    heavy = gaussian * draw.lognormal(0, 1, size)
    for row, (name, delta_SP) in enumerate(
        (("spread evenly", gaussian), ("half unchanged", half), ("in few places", heavy))
    ):
        stored = [Raw(delta_P.astype(np.float32), "F32") for delta_P in delta_SP]
        blocks = Blocks(Raw(np.zeros(size, np.float32), "F32"), stored, (size,))
        found = rsaf.measure(blocks, params)
        details = rsaf.rsaf(blocks, params).details
        ratio, y, x = float(details["ratio"]), 60 + 66 * row, 390  # type: ignore[arg-type]
        parts += [
            text(x, y, name),
            text(x, y + 20, f"rate {found.rate:.2f}, skewness {found.skewness:.1f}", colour=FAINT),
            bar(x + 190, y - 8, 120, 20, colour=LINE),
            bar(x + 190, y - 8, 120 * ratio, 20, colour=BLUE),
            text(x + 190, y + 28, f"keeps {100 * ratio:.0f} %", size=13),
        ]
    parts.append(text(390, 30, "three tensors, drawn at random", size=13))
    return svg(740, 290, "RSAF: the share kept over skewness", parts)


FIGURES = {
    "boundaries": boundaries,
    "vocabulary": vocabulary,
    "gold_path": gold_path,
    "weights": weights,
    "gate": gate,
    "follow": follow,
    "roads": roads,
    "rsaf": rsaf_tau,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw_it in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw_it(), encoding="utf-8")
