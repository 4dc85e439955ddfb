from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import write_jsonl

from infifusion.data.examples import read_examples
from infifusion.data.files import first_record
from infifusion.data.overlap import ngrams, without_duplicates, without_overlap
from infifusion.data.store import load_examples, load_labels, write_examples
from infifusion.errors import DataError
from infifusion.recipe import DataSource
from infifusion.types import Example, Message

RECORDS = [{"question": f"q{n}", "answer": f"a{n}", "id": n} for n in range(5)]


def example(prompt: str, response: str = "r") -> Example:
    return Example(prompt, "d", (Message(role="user", content=prompt),), response)


def test_fields_and_templates_are_mapped_from_jsonl_and_parquet_alike(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", RECORDS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text(json.dumps(RECORDS))
    found = [
        read_examples(
            DataSource(
                path=str(tmp_path / f"x.{kind}"),
                domain="d",
                prompt="Q: {question}\nA:",
                response="answer",
            ),
            seed=0,
        )[0]
        for kind in ("jsonl", "parquet", "json")
    ]
    assert found[0] == found[1] == found[2]
    first = found[0][1]
    assert first.prompt[0]["content"] == "Q: q1\nA:" and first.response == "a1"
    assert first.id == "d/1" and len(found[0]) == 5


def test_the_first_record_of_a_large_parquet_file_is_read_without_the_rest(tmp_path: Path) -> None:
    """`check`, and so every start of a run, looks at one record of files of gigabytes."""
    path = tmp_path / "x.parquet"
    rows = pyarrow.Table.from_pylist([{"prompt": f"p{n}", "response": "r"} for n in range(2000)])
    pyarrow.parquet.write_table(rows, path, row_group_size=1000, compression="none")
    second = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = second.dictionary_page_offset or second.data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    source = DataSource(path=str(path), domain="d")
    first = first_record(source)
    assert first is not None and first["prompt"] == "p0"
    with pytest.raises(DataError, match="is not a whole Parquet file"):
        read_examples(source, seed=0)


def test_columns_that_nobody_asks_for_are_not_kept(tmp_path: Path) -> None:
    path, unused = tmp_path / "x.jsonl", 200_000
    write_jsonl(
        path, [{"prompt": f"p{n}", "response": "r", "trace": "t" * unused} for n in range(50)]
    )
    source = DataSource(path=str(path), domain="d", prompt="prompt", response="response")
    tracemalloc.start()
    try:
        found, _ = read_examples(source, seed=0)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 50 and most < 10 * unused


def test_labels_are_read_without_keeping_the_texts(tmp_path: Path) -> None:
    """Every process of a run needs them for days; the texts of a billion tokens take five GB."""
    size, path = 100_000, tmp_path / "train.jsonl"
    write_examples(path, [example(f"{n}", "r" * size) for n in range(50)])
    tracemalloc.start()
    try:
        labels = load_labels(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(one.id, one.domain, one.written_by) for one in labels] == [
        (one.id, one.domain, one.written_by) for one in load_examples(path)
    ]
    assert len(labels) == 50 and most < 10 * size


def test_the_last_message_is_the_response(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "answer"},
    ]
    write_jsonl(tmp_path / "x.jsonl", [{"messages": turns}])
    source = DataSource(path=str(tmp_path / "x.jsonl"), domain="d", messages="messages")
    (found,), _ = read_examples(source, seed=0)
    assert found.response == "answer" and [m["role"] for m in found.prompt] == ["system", "user"]


def test_a_limit_takes_the_same_examples_every_time_and_others_with_another_seed(tmp_path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"prompt": str(n), "response": "r"} for n in range(50)])
    source = DataSource(path=str(tmp_path / "x.jsonl"), domain="d", limit=5)
    first, again = (read_examples(source, seed=1)[0] for _ in range(2))
    other, _ = read_examples(source, seed=2)
    assert first == again and len(first) == 5 and first != other


def test_empty_responses_are_left_out_and_counted(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "x.jsonl",
        [{"prompt": "p", "response": " \n"}, {"prompt": "p", "response": "r"}],
    )
    examples, empty = read_examples(DataSource(path=str(tmp_path / "x.jsonl"), domain="d"), seed=0)
    assert (len(examples), empty) == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no examples"),
        (b'{"prompt": "p"}\n', "there is no 'response'.*Columns: prompt"),
        (b'{"prompt": "p", "respone": "r"}\n', "Did you mean 'respone'"),
        (b'{"prompt": "p", "response": 3}\n', "holds a int; expected text"),
        (b'{"prompt": "p", "response": "r"}\n{oops\n', "line 2 is not JSON"),
        (b"\xff\xfe\n", "line 1 is not JSON in UTF-8"),
        (b'["p", "r"]\n', "line 1: expected a JSON object"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(DataSource(path=str(path), domain="d"), seed=0)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file .*gone\.jsonl"):
        read_examples(DataSource(path=str(tmp_path / "gone.jsonl"), domain="d"), seed=0)


def test_duplicates_are_kept_once() -> None:
    kept = without_duplicates([example("a"), example("b"), example("a"), example("a", "other")])
    assert [(e.id, e.response) for e in kept] == [("a", "r"), ("b", "r"), ("a", "other")]


def test_ngrams_ignore_case_and_punctuation() -> None:
    assert ngrams("The cat, sat!", 2) == {"the cat", "cat sat"}
    assert ngrams("one two", 3) == set()


def test_a_shared_run_of_words_or_a_whole_prompt_is_overlap() -> None:
    words = " ".join(f"w{n}" for n in range(20))
    train = [example(f"start {words}"), example("Short one?"), example("clean")]
    evaluation = [example("other", f"{words} end"), example("short, one")]
    assert [e.id for e in without_overlap(train, evaluation, length=13)] == ["clean"]
    assert len(without_overlap(train, [example("other", words)], length=21)) == 3
