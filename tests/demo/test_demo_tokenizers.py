from __future__ import annotations

import json
from pathlib import Path

import pytest

from infifusion.align.byte_spans import byte_starts, token_table
from infifusion.data.tokenizers import encode, load_tokenizer, tokenizer_json
from infifusion.demo.domains import DOMAINS, problems
from infifusion.demo.models import PIVOT, SOURCES, new_model

MODELS = {"pivot": PIVOT, **SOURCES}


def texts(seed: int) -> list[str]:
    return [p.prompt + p.response for d in DOMAINS for p in problems(d, "train", 60, seed=seed)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model's untrained folder."""
    made = {}
    for name, settings in MODELS.items():
        made[name] = tmp_path_factory.mktemp(name)
        tokenizer = settings.tokenizer(texts(1), size=settings.vocabulary)
        tokenizer.save_pretrained(made[name])
        new_model(settings, tokenizer, 0).save_pretrained(made[name])
    return made


@pytest.mark.parametrize("name", MODELS)
def test_tokens_tile_every_text_byte_for_byte(folders: dict[str, Path], name: str):
    tokenizer = load_tokenizer(str(folders[name]))
    table = token_table(tokenizer_json(tokenizer))
    for text in [*texts(2), "naïve – 日本語 🙂\r\n\t  x", " two  blanks", ""]:
        ids = encode(tokenizer, [text])[0]
        starts = byte_starts(table, ids, text)
        data = text.encode()
        assert starts[-1] == len(data)
        assert (starts[1:] >= starts[:-1]).all()
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("name", MODELS)
def test_every_digit_is_a_token_of_its_own(folders: dict[str, Path], name: str):
    pieces = load_tokenizer(str(folders[name])).tokenize("12345 = 67")
    digits = [[c for c in piece if c.isdigit()] for piece in pieces]
    assert sum(map(len, digits)) == 7
    assert max(map(len, digits)) == 1


@pytest.mark.parametrize("name", MODELS)
def test_auto_tokenizer_and_the_tokenizer_file_agree(folders: dict[str, Path], name: str):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folders[name])
    file = Tokenizer.from_file(str(folders[name] / "tokenizer.json"))
    for text in texts(3):
        assert loaded(text).input_ids == file.encode(text).ids
    config = json.loads((folders[name] / "config.json").read_text())
    assert config["eos_token_id"] == loaded.eos_token_id
    assert config["vocab_size"] == len(loaded)


def test_no_two_models_share_a_vocabulary_and_the_sources_differ_in_architecture(
    folders: dict[str, Path],
):
    vocabularies = [
        frozenset(load_tokenizer(str(folder)).get_vocab().items()) for folder in folders.values()
    ]
    assert len(set(vocabularies)) == len(MODELS)
    architectures = {
        json.loads((folders[name] / "config.json").read_text())["model_type"] for name in SOURCES
    }
    assert len(architectures) == 3
