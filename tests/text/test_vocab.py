import dataclasses
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.errors import DataError, VocabularyError
from megatron_speech.io.files import read_json, write_json
from megatron_speech.text.build_vocab import train_bpe
from megatron_speech.text.vocab import DEFAULT_SPECIALS, SpeechTextVocab, code_token
from tests.interleaving.samples import NUM_CODES, make_vocab, story

ROOT = Path(__file__).resolve().parents[2]
TEXTS = (
    "The cat saw Mira.",
    " leading  and   double",
    "emoji \U0001f600 and 你好世界 and été",
    "lines\r\nand\n\ntabs\t",
    "12345 !?",
)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("bpe"))


def train_sentencepiece(folder: Path, kind: str, normalization: str) -> Path:
    import sentencepiece

    rng = random.Random(0)
    (folder / "text").write_text("\n".join(story(rng) for _ in range(300)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tiny"),
        vocab_size=360 if kind == "bpe" else 330,
        model_type=kind,
        byte_fallback=True,
        normalization_rule_name=normalization,
        remove_extra_whitespaces=normalization != "identity",
        minloglevel=2,
    )
    return folder / "tiny.model"


@pytest.fixture(scope="module", params=["bpe-identity", "bpe-nmt_nfkc", "unigram-nmt_nfkc"])
def sentencepiece(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentencepiece")
    model = train_sentencepiece(folder, *request.param.split("-"))
    original = SpeechTextVocab.extend(model, NUM_CODES)
    original.save_pretrained(folder / "vocab")
    return original, folder / "vocab"


def test_layout_is_text_specials_codes_padding(bpe):
    first = bpe.specials[DEFAULT_SPECIALS[0]]
    assert list(bpe.specials.values()) == list(range(first, first + len(DEFAULT_SPECIALS)))
    assert bpe.code_offset == first + len(DEFAULT_SPECIALS)
    assert bpe.size == bpe.code_offset + NUM_CODES
    assert bpe.padded_size % 1024 == 0
    assert max(i for text in TEXTS for i in bpe.text.encode(text)) < first


@given(st.lists(st.integers(0, NUM_CODES - 1)))
def test_codes_round_trip(bpe, codes):
    tokens = bpe.codes_to_tokens(codes)
    assert bpe.is_speech(tokens).all()
    assert bpe.tokens_to_codes(tokens).tolist() == codes
    segment = bpe.speech_segment(codes)
    assert segment[0] == bpe.begin_of_audio_id
    assert segment[-1] == bpe.end_of_audio_id
    assert bpe.is_speech(segment).sum() == len(codes)


@pytest.mark.parametrize("code", [-1, NUM_CODES])
def test_codes_out_of_range_are_refused(bpe, code):
    with pytest.raises(VocabularyError, match=rf"code {code} is out of range"):
        bpe.codes_to_tokens([0, code])


@pytest.mark.parametrize("beyond", [-1, NUM_CODES])
def test_tokens_that_are_no_speech_are_refused(bpe, beyond):
    with pytest.raises(VocabularyError, match="is not speech"):
        bpe.tokens_to_codes(np.array([bpe.code_offset + beyond]))


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_byte_level_text_round_trips(bpe, text):
    text = text.encode("utf-8", "ignore").decode()
    assert bpe.text.decode(bpe.text.encode(text)) == text


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["<|audio_3|>", "<|endoftext|>", "<|begin_of_audio|>", "cat", " "]))
)
def test_text_never_becomes_speech_or_a_delimiter(bpe, pieces):
    ids = np.array(bpe.text.encode("".join(pieces)), dtype=np.int64)
    assert not bpe.is_speech(ids).any()
    assert not np.isin(ids, [bpe.eod_id, *bpe.specials.values()]).any()
    assert bpe.text.decode(ids.tolist()) == "".join(pieces)


def test_saved_folder_is_the_same_vocabulary_and_loads_in_transformers(bpe, tmp_path):
    from transformers import AutoTokenizer

    bpe.save_pretrained(tmp_path)
    again = SpeechTextVocab.from_pretrained(tmp_path)
    assert again.fingerprint == bpe.fingerprint
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == bpe.text.encode(text)
    for token, number in bpe.specials.items():
        assert theirs.convert_tokens_to_ids(token) == number
    assert theirs.encode(code_token(9), add_special_tokens=False) == [bpe.code_offset + 9]
    assert theirs.eos_token_id == bpe.eod_id


def test_a_folder_that_has_the_codes_is_used_as_it_is(bpe, tmp_path):
    bpe.save_pretrained(tmp_path)
    again = SpeechTextVocab.extend(tmp_path, NUM_CODES)
    assert (again.code_offset, again.specials) == (bpe.code_offset, bpe.specials)
    assert again.added == ()
    for other in (NUM_CODES - 1, NUM_CODES + 1):
        with pytest.raises(VocabularyError, match="codes"):
            SpeechTextVocab.extend(tmp_path, other)


def test_rows_of_the_base_model_are_kept(bpe, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bpe.text.folder, base)
    (base / "speech_text_vocab.json").unlink(missing_ok=True)  # a base model has none
    rows = bpe.size + 3000
    write_json(base / "config.json", {"vocab_size": rows})
    vocab = SpeechTextVocab.as_it_is(base)
    vocab.save_pretrained(tmp_path / "saved")
    for found in (vocab, SpeechTextVocab.from_pretrained(tmp_path / "saved")):
        assert (found.size, found.num_codes) == (bpe.size, NUM_CODES)
        assert found.embedding_rows == rows <= found.padded_size


def test_a_text_tokenizer_as_it_is(tmp_path):
    train_bpe([*TEXTS], 300, tmp_path / "base")
    vocab = SpeechTextVocab.as_it_is(tmp_path / "base")
    vocab.save_pretrained(tmp_path / "saved")
    for found in (vocab, SpeechTextVocab.from_pretrained(tmp_path / "saved")):
        assert (found.num_codes, found.added, found.specials) == (0, (), {})
        assert found.size == found.embedding_rows == found.text.size
        assert not found.is_speech(np.arange(found.padded_size)).any()


def test_a_tampered_folder_is_refused(bpe, tmp_path):
    bpe.save_pretrained(tmp_path)
    facts = read_json(tmp_path / "speech_text_vocab.json")
    write_json(
        tmp_path / "speech_text_vocab.json", {**facts, "code_offset": facts["code_offset"] + 1}
    )
    with pytest.raises(VocabularyError, match="changed after it was written"):
        SpeechTextVocab.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change", [{"specials": {"<|speak|>": "1"}}, {"added": [1]}, {"base_rows": [3]}]
)
def test_facts_of_another_kind_are_refused(bpe, tmp_path, change):
    bpe.save_pretrained(tmp_path)
    facts = read_json(tmp_path / "speech_text_vocab.json")
    write_json(tmp_path / "speech_text_vocab.json", facts | change)
    with pytest.raises(VocabularyError, match="is damaged"):
        SpeechTextVocab.from_pretrained(tmp_path)


def test_folders_that_are_no_tokenizer(tmp_path):
    with pytest.raises(VocabularyError, match="no text tokenizer"):
        SpeechTextVocab.extend(tmp_path, 4)
    with pytest.raises(VocabularyError, match="build_vocab"):
        SpeechTextVocab.from_pretrained(tmp_path)


def test_sentencepiece_ids_are_kept(sentencepiece):
    original, folder = sentencepiece
    saved = SpeechTextVocab.from_pretrained(folder)
    assert saved.fingerprint == original.fingerprint
    assert saved.eod_id == original.eod_id
    rng = random.Random(5)
    for text in [*TEXTS, *(story(rng) for _ in range(20)), "  ", "x"]:
        expected = original.text.encode(text)
        assert saved.text.encode(text) == expected
        assert saved.text.offsets(text)[0] == expected
        assert original.text.offsets(text) == saved.text.offsets(text)
    for text in ("the cat saw", "Mira and Tom"):
        assert saved.text.decode(saved.text.encode(text)) == text


def test_sentencepiece_folder_loads_in_transformers(sentencepiece):
    from transformers import AutoTokenizer

    original, folder = sentencepiece
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == original.text.encode(text)
    assert theirs.convert_tokens_to_ids(code_token(0)) == original.code_offset


def edited(folder: Path, into: Path, change) -> SpeechTextVocab:
    """The vocabulary of a folder whose tokenizer.json was changed."""
    shutil.copytree(folder, into)
    content = read_json(into / "tokenizer.json")
    change(content)
    write_json(into / "tokenizer.json", content)
    return SpeechTextVocab.from_pretrained(into)


def swap_two_rare_tokens(content: dict) -> None:
    ids = content["model"]["vocab"]
    ids["§"], ids["Þ"] = ids["Þ"], ids["§"]


def swap_two_merges(content: dict) -> None:
    merges = content["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]


def lowercase(content: dict) -> None:
    content["normalizer"] = {"type": "Lowercase"}


@pytest.mark.parametrize("change", [swap_two_rare_tokens, swap_two_merges, lowercase])
def test_fingerprint_tells_apart_what_one_sentence_does_not(bpe, tmp_path, change):
    bpe.save_pretrained(tmp_path / "a")
    assert edited(tmp_path / "a", tmp_path / "b", change).fingerprint != bpe.fingerprint


def test_fingerprint_is_of_the_vocabulary_and_not_of_how_it_is_written_down(bpe, tmp_path):
    bpe.save_pretrained(tmp_path / "a")

    def as_older_versions_write(content: dict) -> None:
        model = content["model"]
        model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        model["vocab"] = dict(sorted(model["vocab"].items()))
        content["truncation"] = None
        content.pop("ignore_merges", None)

    again = edited(tmp_path / "a", tmp_path / "b", as_older_versions_write)
    assert again.fingerprint == bpe.fingerprint
    named = dataclasses.replace(bpe, speech_tokenizer="a")
    assert named.fingerprint == bpe.fingerprint  # says nothing of ids
    assert SpeechTextVocab.extend(tmp_path / "a", NUM_CODES).fingerprint == bpe.fingerprint


def test_the_speech_tokenizer_is_kept_and_others_are_refused(bpe, tmp_path):
    bpe.require_speech_tokenizer("a", "shard", "vocab")  # unknown: no check
    dataclasses.replace(bpe, speech_tokenizer="a").save_pretrained(tmp_path)
    again = SpeechTextVocab.from_pretrained(tmp_path)
    assert again.speech_tokenizer == "a"
    again.require_speech_tokenizer("a", "shard", "vocab")
    again.require_speech_tokenizer(None, "shard", "vocab")
    with pytest.raises(DataError, match=r"s\.parquet has codes of .* b, but .* of a;"):
        again.require_speech_tokenizer("b", "s.parquet", "vocab")


def test_training_is_the_same_in_every_process(tmp_path):
    rng = random.Random(3)
    texts = [story(rng) for _ in range(100)]
    train_bpe(texts, 350, tmp_path / "a")
    (tmp_path / "texts").write_text("\n".join(texts))
    code = (
        "from pathlib import Path; from megatron_speech.text.build_vocab import train_bpe;"
        f"train_bpe(Path({str(tmp_path / 'texts')!r}).read_text().split(chr(10)), 350,"
        f" Path({str(tmp_path / 'b')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    names = ("tokenizer.json", "tokenizer_config.json")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
