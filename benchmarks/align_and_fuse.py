"""Alignment, vocabulary maps, the cache of beliefs and fusing: tokens per second on one core.

    .venv/bin/python benchmarks/align_and_fuse.py [--tokenizers DIR] [--texts FILE.jsonl]
        [--repeats 5] [--json FILE]

--tokenizers is a folder of tokenizer folders named qwen, mistral_v1 and gpt2 (by default
../shared/tokenizers beside the checkout); without it ByteLevel tokenizers of the same sizes are
trained on made-up text, and the table says so. Beliefs are random: what they say does not change
how long it takes. Prints a table per stage with the peers' figures; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np  # noqa: E402

from infifusion.align.boundaries import (  # noqa: E402
    keys,
    match,
)
from infifusion.align.byte_spans import (  # noqa: E402
    byte_starts,
    token_table,
)
from infifusion.align.edit_distance import nearest_tokens  # noqa: E402
from infifusion.align.first_token import first_tokens  # noqa: E402
from infifusion.align.min_ed import pair_by_edit_distance  # noqa: E402
from infifusion.align.project import (  # noqa: E402
    Positions,
    align_sources,
    by_bytes,
)
from infifusion.align.vocabulary import vocabulary_map  # noqa: E402
from infifusion.data.tokenizers import (  # noqa: E402
    encode,
    load_tokenizer,
    tokenizer_json,
)
from infifusion.fuse.uncertainty import (  # noqa: E402
    Params,
    uncertainty,
)
from infifusion.stages.combine import CachedSource  # noqa: E402
from infifusion.teacher.cache import (  # noqa: E402
    BeliefReader,
    write_shard,
)
from infifusion.types import (  # noqa: E402
    Beliefs,
    Rendered,
)

ROOT = Path(__file__).parents[1]
TOP_K = 10
SIZES = {"qwen": 151_665, "mistral_v1": 32_000, "gpt2": 50_257}
# Measured by their makers' code on 2 shared cores (FuseLLM, FuseChat, NeMo-RL are not on PyPI).
PEERS = {
    "alignment": "FuseLLM 830 to 1,420; NeMo-RL 3.7k to 20k; TRL GOLD 96k (with tokenizing)",
    "vocabulary map": "FuseLLM 71 to 118 core-minutes",
    "cache": "FuseAI 123 B; DistillKit 114 to 344 B",
    "reading": "nested `datasets` lists 22k to 102k",
    "fuse": "FuseLLM's collator 538",
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizers", type=Path, default=ROOT.parent / "shared" / "tokenizers")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        print("| stage | figure | measured | target | peers |\n|---|---|---|---|---|")
        bench.alignment()
        bench.vocabulary_maps()
        bench.edit_distance()
        bench.cache_and_fuse()
    if options.json:
        options.json.write_text(json.dumps(bench.found, indent=1))


class Bench:
    """The tokenizers, the texts and what was found."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.repeats, self.folder = options.repeats, folder
        self.found: dict[str, float] = {}
        source = options.tokenizers if options.tokenizers.is_dir() else make_tokenizers(folder)
        print(f"Tokenizers: {source}; one core, medians of {self.repeats}.\n")
        self.tokenizers = {name: load_tokenizer(str(source / name)) for name in SIZES}
        self.tables = {n: token_table(tokenizer_json(t)) for n, t in self.tokenizers.items()}
        self.text = "\n\n".join(read_texts(options.texts))

    def row(self, stage: str, figure: str, value: float, unit: str, target: str, peer: str) -> None:
        """Print a line and keep its number."""
        self.found[f"{stage}: {figure}"] = value
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        print(f"| {stage} | {figure} | {shown} {unit} | {target} | {peer} |", flush=True)

    def seconds(self, work: Callable[[], object]) -> float:
        """Median; once before, to compile and warm."""
        work()
        taken = []
        for _ in range(self.repeats):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def texts_of(self, tokens: int, count: int) -> list[str]:
        """Texts of about so many mistral tokens."""
        length = tokens * 3
        whole = self.text * (1 + tokens * count * 3 // len(self.text))
        return [whole[n * length : (n + 1) * length] for n in range(count)]

    def ids_and_starts(self, name: str, texts: list[str]) -> tuple[list[list[int]], np.ndarray]:
        ids = encode(self.tokenizers[name], texts)
        return ids, np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)

    def align(self, pivot: str, source: str, texts: list[str]) -> tuple[float, np.ndarray, int]:
        """Seconds for the byte positions of both sides and their match; source_T; tokens."""
        sides = [(name, *self.ids_and_starts(name, texts)) for name in (pivot, source)]

        def work() -> np.ndarray:
            found = []
            for name, ids, row_N1 in sides:
                table = self.tables[name]
                starts = [byte_starts(table, i, t)[:-1] for i, t in zip(ids, texts, strict=True)]
                found.append(keys(np.concatenate(starts).astype(np.int32), row_N1))
            return match(found[0], found[1])

        return self.seconds(work), work(), int(sides[0][2][-1])

    def alignment(self) -> None:
        """512-token texts, and how time grows with their length."""
        texts = self.texts_of(512, 400)
        for pivot, source in (("mistral_v1", "qwen"), ("qwen", "gpt2")):
            seconds, source_T, tokens = self.align(pivot, source, texts)
            name = f"{pivot} from {source}"
            self.row("alignment", name, tokens / seconds, "tokens/s", "5 M", PEERS["alignment"])
            self.row("usable positions", name, 100 * float((source_T >= 0).mean()), "%", "all", "")
        per_token = {}
        for length, count in ((2_000, 200), (100_000, 4)):  # as many tokens: neither fits the cache
            texts = self.texts_of(length, count)
            seconds, _, tokens = self.align("mistral_v1", "qwen", texts)
            per_token[length] = seconds / tokens
        growth = per_token[100_000] / per_token[2_000]
        self.row("alignment", "time per token, 100k texts over 2k", growth, "x", "within 20 %", "")

    def vocabulary_maps(self) -> None:
        """From the largest vocabulary to the smallest."""
        source, pivot = self.tables["qwen"], self.tables["mistral_v1"]
        first = partial(first_tokens, pivot, partial(encode, self.tokenizers["mistral_v1"]))

        def work() -> object:
            return vocabulary_map(source, pivot, first, roles={}, size=151_936)

        taken = self.seconds(work)
        peer = PEERS["vocabulary map"]
        self.row("vocabulary map", "qwen to mistral_v1", taken, "s", "10 s, deterministic", peer)
        maps = [work().pivot_V for _ in range(2)]
        assert np.array_equal(*maps)
        self.mapping = work()

    def edit_distance(self) -> None:
        """The baseline `min_ed`; the map once, for it takes long."""
        source, pivot = self.tables["qwen"], self.tables["mistral_v1"]
        nearest_tokens(pivot, [b"to compile"])
        started, near = time.perf_counter(), partial(nearest_tokens, pivot)
        mapping = vocabulary_map(source, pivot, near, roles={}, size=151_936)
        taken, peer = time.perf_counter() - started, PEERS["vocabulary map"]
        self.row("min_ed", "vocabulary map, qwen to mistral_v1", taken, "s", "", peer)
        pair = partial(
            pair_by_edit_distance, source_table=source, pivot_table=pivot, mapping=mapping
        )
        for length, count in ((512, 40), (2_048, 5)):
            texts = self.texts_of(length, count)
            sides = [
                positions_of(self.rendered(n, texts), 0, count) for n in ("qwen", "mistral_v1")
            ]
            found, same = pair(*sides), by_bytes(*sides)
            speed, name = len(found) / self.seconds(partial(pair, *sides)), f"{length}-token texts"
            self.row("min_ed", f"alignment, {name}", speed, "tokens/s", "", PEERS["alignment"])
            self.row("min_ed", "usable positions", 100 * float((found >= 0).mean()), "%", "", "")
            astray = float(((found >= 0) & (found != same)).sum() / (found >= 0).sum())
            self.row("min_ed", "of these, of another byte", 100 * astray, "%", "", "")

    def cache_and_fuse(self) -> None:
        """Three sources of K = 10 with qwen's vocabulary, one pivot with mistral's."""
        texts = self.texts_of(512, 512)
        pivot = self.rendered("mistral_v1", texts)
        sources = []
        written = 0
        for number in range(3):
            rendered = self.rendered("qwen", texts)
            place = self.folder / f"teach{number}"
            beliefs = random_beliefs(len(rendered.start_R), 151_936, seed=number)
            for shard in range(4):
                low, high = rendered.row_N1[[shard * 128, (shard + 1) * 128]]
                part = {n: getattr(beliefs, n)[low:high] for n in beliefs.__dataclass_fields__}
                write_shard(place, shard, Beliefs(**part), vocabulary=151_936)
            written += sum(path.stat().st_size for path in place.iterdir())
            reader = BeliefReader(place, rendered.row_N1, 128, vocabulary=151_936)
            gold = np.zeros(len(rendered.start_R), np.int32)
            sources.append(
                CachedSource(f"s{number}", rendered, gold, reader, self.mapping, by_bytes)
            )
        rows = sum(len(source.rendered.start_R) for source in sources)
        self.row(
            "cache", "bytes per token, K = 10, V = 152k", written / rows, "B", "66", PEERS["cache"]
        )
        order = np.random.default_rng(0).permutation(512).tolist()

        def read() -> None:
            for number in order:
                sources[0].reader.examples(number, number + 1)

        taken = self.seconds(read)
        speed = len(sources[0].rendered.start_R) / taken
        self.row("cache", "reading, shuffled examples", speed, "tokens/s", "5 M", PEERS["reading"])
        one = [sources[0].examples(0, 128)]
        there = positions_of(pivot, 0, 128)

        def carry() -> None:
            align_sources(one, there)

        taken = self.seconds(carry)
        speed = len(there.start_R) / taken
        self.row("alignment", "with the vocabulary of a top-10", speed, "tokens/s", "2 M", "")

        def fuse() -> None:
            for begin in range(0, 512, 128):
                chunk = positions_of(pivot, begin, begin + 128)
                parts = [source.examples(begin, begin + 128) for source in sources]
                aligned, _ = align_sources(parts, chunk)
                uncertainty(aligned, Params(), keep=2 * TOP_K)

        fuse()
        before = peak_mb()
        taken = self.seconds(fuse)
        speed = len(pivot.start_R) / taken
        self.row(
            "fuse", "3 sources, K = 10, uncertainty", speed, "pivot tokens/s", "200k", PEERS["fuse"]
        )
        self.row(
            "fuse",
            "growth of peak memory over five passes",
            peak_mb() - before,
            "MB",
            "constant",
            "",
        )

    def rendered(self, name: str, texts: list[str]) -> Rendered:
        """Whole texts as responses."""
        ids, row_N1 = self.ids_and_starts(name, texts)
        starts = [
            byte_starts(self.tables[name], i, t)[:-1] for i, t in zip(ids, texts, strict=True)
        ]
        return Rendered(
            ids_L=np.concatenate([np.asarray(one, np.int32) for one in ids]),
            offset_N1=row_N1,
            first_N=np.zeros(len(ids), np.int32),
            start_R=np.concatenate(starts).astype(np.int32),
            row_N1=row_N1,
        )


def positions_of(rendered: Rendered, begin: int, end: int) -> Positions:
    rows = slice(int(rendered.row_N1[begin]), int(rendered.row_N1[end]))
    return Positions(
        start_R=rendered.start_R[rows],
        row_N1=rendered.row_N1[begin : end + 1] - rendered.row_N1[begin],
        gold_R=rendered.ids_L[rows],
    )


def random_beliefs(rows: int, vocabulary: int, *, seed: int) -> Beliefs:
    """Ids that fall off like words do, probabilities that fall off like a model's."""
    rng = np.random.default_rng(seed)
    ids = (vocabulary * rng.random((rows, TOP_K)) ** 3).astype(np.int32)
    logprob = -np.sort(rng.exponential(2.0, (rows, TOP_K)), axis=1) - 0.3
    scalars = {n: rng.random(rows).astype(np.float32) for n in ("entropy_U", "lse_U", "mean_U")}
    return Beliefs(
        ids_UK=ids,
        logprob_UK=logprob.astype(np.float16),
        gold_U=logprob[:, 0].astype(np.float32),
        std_U=np.ones(rows, np.float32),
        **scalars,
    )


def read_texts(path: Path | None) -> list[str]:
    """The longest field of every line of a JSONL file; made-up text where there is none."""
    path = path or ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()[:4000]
        return [max(map(str, json.loads(line).values()), key=len) for line in lines]
    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlucmfwypvbgkjqxz")
    words = ["".join(rng.choice(letters, rng.integers(1, 10))) for _ in range(40_000)]
    picked = rng.zipf(1.3, 400_000) % len(words)
    return [" ".join(words[n] for n in picked[k : k + 200]) for k in range(0, 400_000, 200)]


def make_tokenizers(folder: Path) -> Path:
    """ByteLevel tokenizers of the usual sizes (smaller where the text has too few words)."""
    from bpe import byte_level_bpe

    texts = read_texts(None)
    for name, size in SIZES.items():
        byte_level_bpe(texts, size).save_pretrained(folder / name)
    return folder


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
