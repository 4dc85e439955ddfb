"""Every kind of file that data lies in says the same."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import datasets
import pyarrow
import pytest
from conftest import write_jsonl

from infifusion.data.examples import read_examples
from infifusion.data.files import _read_hub, files_of, first_record, is_local
from infifusion.errors import DataError, RecipeError
from infifusion.recipe import DataSource, Recipe, anchor

ROWS = [{"prompt": f"a, {n}\nb; c", "response": f"é{n}\t!"} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def source(path: Path | str, **keys: object) -> DataSource:
    return DataSource(path=str(path), domain="d", **keys)


def table(separator: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt", "response"], delimiter=separator)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


WRITERS = {
    "x.jsonl.gz": gzip.compress(LINES.encode()),
    "x.jsonl.bz2": bz2.compress(LINES.encode()),
    "x.jsonl.xz": lzma.compress(LINES.encode()),
    "x.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "x.tsv": table("\t").encode(),
    "x.csv": table(";").encode(),
    "y.csv": table("\t").encode(),
    "x.csv.gz": gzip.compress(table(",").encode("utf-8-sig")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_says_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WRITERS[name])
    found, empty = read_examples(source(tmp_path / name), seed=0)
    assert [(e.prompt[0]["content"], e.response) for e in found] == [
        (row["prompt"], row["response"]) for row in ROWS
    ]
    assert empty == 0 and first_record(source(tmp_path / name)) == ROWS[0]


def test_zstandard(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.zst"
    with pyarrow.output_stream(str(path), compression="zstd") as stream:
        stream.write(LINES.encode())
    found, _ = read_examples(source(path), seed=0)
    assert [e.response for e in found] == [row["response"] for row in ROWS]
    assert found[1].place == f"{path}, line 2, example 2"


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.csv.gz", "x.json.gz", "x.jsonl.xz"])
def test_a_compressed_file_that_is_cut_short_is_named(name: str, tmp_path: Path) -> None:
    whole = WRITERS[name]
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{name}.*"):
        read_examples(source(tmp_path / name), seed=0)
    (tmp_path / name).write_bytes(b"no such thing at all")
    with pytest.raises(DataError, match=f"{name}.*"):
        read_examples(source(tmp_path / name), seed=0)


def test_a_pattern_is_all_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for n, row in enumerate(ROWS):
        write_jsonl(tmp_path / f"data/part-{n}.jsonl", [row])
    write_jsonl(tmp_path / "data/other.jsonl", ROWS)
    found, _ = read_examples(source(tmp_path / "data/part-*.jsonl"), seed=0)
    assert [e.response for e in found] == [row["response"] for row in ROWS]
    assert [e.place for e in found][2].startswith(f"{tmp_path / 'data/part-2.jsonl'}, line 1")
    assert len(files_of(source(tmp_path / "data/**/*.jsonl"))) == 4
    with pytest.raises(DataError, match=r"no file that fits .*nothing-\*.jsonl"):
        read_examples(source(tmp_path / "nothing-*.jsonl"), seed=0)


def test_a_pattern_stands_relative_to_the_recipe(make_recipe, suite: Path, tmp_path: Path) -> None:
    values = make_recipe(suite, data={"train": [{"path": "*.jsonl", "domain": "d"}]})
    placed = anchor(Recipe(**values), tmp_path)
    assert placed.data.train[0].path == str(tmp_path / "*.jsonl")
    values = make_recipe(suite, data={"train": [{"path": "org/name", "domain": "d"}]})
    assert anchor(Recipe(**values), tmp_path).data.train[0].path == "org/name"


def test_a_folder_of_datasets_is_read_by_its_split(tmp_path: Path) -> None:
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(
        str(tmp_path / "several")
    )
    assert len(read_examples(source(tmp_path / "one"), seed=0)[0]) == 3
    assert len(read_examples(source(tmp_path / "several"), seed=0)[0]) == 3
    assert len(read_examples(source(tmp_path / "several", split="test"), seed=0)[0]) == 1
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test"):
        read_examples(source(tmp_path / "several", split="dev"), seed=0)
    assert files_of(source(tmp_path / "one"))  # which enter the fingerprint


def test_a_folder_of_plain_files_is_read_by_load_dataset(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set/train.jsonl", ROWS)
    write_jsonl(tmp_path / "set/test.jsonl", ROWS[:1])
    assert len(read_examples(source(tmp_path / "set"), seed=0)[0]) == 3
    assert len(read_examples(source(tmp_path / "set", split="test"), seed=0)[0]) == 1


def test_a_stream_gives_as_many_as_were_asked_for(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set/train.jsonl", ROWS)
    asked = source(tmp_path / "set", streaming=True, limit=2)
    found = list(_read_hub(asked, streaming=True, whole=True))
    assert len(found) == 2 and all(row in ROWS for row in found)
    assert list(_read_hub(asked, streaming=True, whole=False)) == ROWS


def test_a_model_is_no_data(suite: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for path in (tmp_path / "x.gguf", tmp_path, suite / "a"):
        with pytest.raises(DataError, match=r"is (a|the folder of a) model.*no data"):
            read_examples(source(path), seed=0)


def test_a_stream_needs_its_number_of_examples() -> None:
    assert not is_local(source("org/name", streaming=True, limit=5))
    with pytest.raises(RecipeError, match="streaming needs limit"):
        DataSource.from_mapping(
            {"path": "org/name", "domain": "d", "streaming": True}, where="here"
        )
