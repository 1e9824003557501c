"""What a tokenizer.json holds beside its vocabulary changes no document."""

import shutil

import pytest

from megatron_speech.io.files import read_json, write_json
from megatron_speech.speech_tokenizer.text import AsrText
from megatron_speech.text.encoder import TextEncoder, fast_engine
from megatron_speech.text.tokenizers import open_text_tokenizer
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.samples import make_vocab

TEXTS = ["The cat saw Mira near the river. " * 20, "A dog.", " two  spaces "]
STATE = {
    "truncation": {
        "direction": "Right",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    },
    "padding": {
        "strategy": {"Fixed": 64},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "a",
    },
}


def _first_and_last(token: str, token_id: int) -> dict:
    mark = {"SpecialToken": {"id": token, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [mark, text, mark],
        "pair": [mark, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A vocabulary, and the same one after someone used it with everything switched on."""
    plain = tmp_path_factory.mktemp("plain")
    make_vocab(plain).save_pretrained(plain)
    used = tmp_path_factory.mktemp("used") / "vocab"
    shutil.copytree(plain, used)
    content = read_json(used / "tokenizer.json") | STATE
    end = content["added_tokens"][0]
    content["post_processor"] = _first_and_last(end["content"], end["id"])
    content["model"]["dropout"] = 0.9
    write_json(used / "tokenizer.json", content)
    config = read_json(used / "tokenizer_config.json")
    config |= {"model_max_length": 8, "add_bos_token": True, "add_eos_token": True}
    write_json(used / "tokenizer_config.json", config)
    return plain, used


def test_texts_have_the_ids_of_the_vocabulary(folders):
    plain, used = map(open_text_tokenizer, folders)
    expected = [plain.encode(text) for text in TEXTS]
    assert len(expected[0]) > 64
    assert used.encode_batch(TEXTS) == [used.encode(text) for text in TEXTS] == expected
    assert [used.offsets(text)[0] for text in TEXTS] == expected
    assert used.digest(set()) == plain.digest(set())
    assert [AsrText(folders[1]).encode(text) for text in TEXTS] == expected


def test_gigatoken_gives_the_same_ids(folders):
    engine = fast_engine(folders[1])
    assert engine is not None
    flat, lengths = TextEncoder(open_text_tokenizer(folders[0]), engine).encode(TEXTS)
    plain = open_text_tokenizer(folders[0])
    assert flat.tolist() == [i for text in TEXTS for i in plain.encode(text)]
    assert lengths.tolist() == [len(plain.encode(text)) for text in TEXTS]


def test_what_is_saved_cuts_nobody_elses_texts(folders, tmp_path):
    SpeechTextVocab.from_pretrained(folders[1]).save_pretrained(tmp_path)
    saved = read_json(tmp_path / "tokenizer.json")
    assert (saved["truncation"], saved["padding"], saved["model"]["dropout"]) == (None, None, None)
