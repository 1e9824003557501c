"""tokenizer.model of the released GLM-4 models: the ids of tiktoken, added tokens at theirs."""

import json
import random
import shutil

import pytest
import tiktoken
from transformers import AutoTokenizer

from megatron_speech.errors import VocabularyError
from megatron_speech.text.encoder import TextEncoder, can_be_fast, fast_engine
from megatron_speech.text.tiktoken_model import _SPLIT, convert
from megatron_speech.text.tokenizers import TiktokenTokenizer, open_text_tokenizer
from megatron_speech.text.vocab import DEFAULT_SPECIALS, SpeechTextVocab
from tests.text.released_tokenizer import NAMED, lines, train_ranks, write_tokenizer

CODES = 40


@pytest.fixture(scope="module")
def ranks():
    return train_ranks(lines(1500, seed=1), 3000)


@pytest.fixture(scope="module")
def folder(ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    write_tokenizer(folder, ranks, NAMED, CODES)
    return folder


@pytest.fixture(scope="module")
def reference(ranks):
    return encoding(ranks)


def encoding(ranks):
    mergeable = {token: rank for rank, token in enumerate(ranks)}
    return tiktoken.Encoding(
        "released", pat_str=_SPLIT, mergeable_ranks=mergeable, special_tokens={}
    )


def require_same(ours, reference, texts):
    expected = reference.encode_batch(texts, disallowed_special=())
    for text, found, wanted in zip(texts, ours.encode_batch(texts), expected, strict=True):
        assert found == wanted, text


def test_ids_of_every_character_of_the_first_plane(folder, reference):
    characters = [chr(p) for p in range(0x10000) if not 0xD800 <= p < 0xE000]
    texts = [f"a{c}b {c}1'{c} {c}{c}\n{c}" for c in characters]
    require_same(open_text_tokenizer(folder), reference, texts)


def test_ids_of_ten_thousand_lines(folder, reference):
    texts = lines(10_000, seed=2)
    require_same(open_text_tokenizer(folder), reference, texts)
    assert len({i for ids in reference.encode_batch(texts[:3000]) for i in ids}) > 1500


def test_ids_where_no_training_made_the_ranks(tmp_path):
    """Tokens that no merge leads to, and repetitions in which many ways overlap."""
    for seed in range(8):
        rng = random.Random(seed)
        tokens = [bytes([byte]) for byte in range(256)]
        while len(tokens) < 286:
            parts = rng.choices([t for t in tokens if set(t) <= set(b"ab ")], k=2)
            tokens += [b"".join(parts)] if b"".join(parts) not in tokens else []
        ranks = tokens[:256] + rng.sample(tokens[256:], 30)
        write_tokenizer(tmp_path / str(seed), ranks)
        texts = ["".join(rng.choices("ab ", k=rng.randrange(1, 60))) for _ in range(500)]
        require_same(TiktokenTokenizer(tmp_path / str(seed)), encoding(ranks), texts)


def test_added_tokens_have_their_ids(folder, ranks):
    tokenizer = open_text_tokenizer(folder)
    for place, name in enumerate(NAMED):
        assert tokenizer.id_of(name) == len(ranks) + place
    assert tokenizer.id_of("<|audio_0|>") == len(ranks) + 1024
    assert tokenizer.size == len(ranks) + 1024 + CODES
    assert tokenizer.id_of(f"<|reserved_{len(ranks) + 900}|>") == len(ranks) + 900
    assert tokenizer.eod_id == tokenizer.id_of("<|endoftext|>")
    assert tokenizer.special_ids() == set(range(len(ranks), tokenizer.size))


def test_written_out_an_added_token_is_text(folder, ranks, reference):
    tokenizer = open_text_tokenizer(folder)
    texts = ["<|user|>", "a <|audio_3|> b", "[gMASK]<sop>"]
    require_same(tokenizer, reference, texts)
    assert tokenizer.decode(tokenizer.encode(" é\n<|user|>東")) == " é\n<|user|>東"


def test_codes_and_marks_are_used_where_they_are(folder, ranks):
    vocab = SpeechTextVocab.as_it_is(folder)
    assert (vocab.num_codes, vocab.code_offset) == (CODES, len(ranks) + 1024)
    assert vocab.added == ()
    assert vocab.size == vocab.text.size
    present = {name: vocab.text.id_of(name) for name in DEFAULT_SPECIALS if name in NAMED}
    assert vocab.specials == present
    with pytest.raises(VocabularyError, match=r"no <\|speak\|>.*--num-codes 40"):
        vocab.special("<|speak|>")
    extended = SpeechTextVocab.extend(folder, CODES)
    assert extended.added == ("<|speak|>", "<|transcribe|>")
    assert extended.special("<|speak|>") == vocab.size


def test_the_saved_folder_needs_no_code(folder, ranks, tmp_path):
    vocab = SpeechTextVocab.as_it_is(folder)
    vocab.save_pretrained(tmp_path)
    again = SpeechTextVocab.from_pretrained(tmp_path)
    assert again.fingerprint == vocab.fingerprint
    assert "auto_map" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Straße 東京 <|audio_7|>!"
    prefix = [vocab.text.id_of("[gMASK]"), vocab.text.id_of("<sop>")]
    code = [vocab.code_offset + 7]
    expected = [*vocab.text.encode("Straße 東京 "), *code, *vocab.text.encode("!")]
    assert loaded(text).input_ids == prefix + expected
    assert loaded.eos_token_id == loaded.pad_token_id == vocab.eod_id
    assert "token_type_ids" not in loaded(text)
    assert len(loaded) == vocab.size


def test_bulk_tokenization_is_fast_and_the_same(folder, tmp_path):
    SpeechTextVocab.as_it_is(folder).save_pretrained(tmp_path)
    tokenizer = open_text_tokenizer(tmp_path)
    assert can_be_fast(tokenizer, tmp_path)
    texts = lines(500, seed=3)
    flat, lengths = TextEncoder(tokenizer, fast_engine(tmp_path)).encode(texts)
    assert flat.tolist() == [i for ids in tokenizer.encode_batch(texts) for i in ids]
    assert lengths.sum() == len(flat)


def edit_model(change):
    def edit(folder):
        path = folder / "tokenizer.model"
        path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())))

    return edit


def edit_config(change):
    def edit(folder):
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        change(config["added_tokens_decoder"])
        path.write_text(json.dumps(config))

    return edit


DAMAGES = [
    (edit_model(lambda found: [*found[:90], b"half a", *found[91:]]), "line 91 is b'half a'"),
    (edit_model(lambda found: [*found[:90], *found[91:]]), "ranks are not 0, 1, 2"),
    (edit_model(lambda found: [*found[:90], b"YWE= 90", *found[91:]]), "no token for byte 90"),
    (edit_model(lambda found: [*found[:90], b"YWE 90", *found[91:]]), "line 91"),
    (lambda folder: (folder / "tokenizer_config.json").unlink(), "download the whole folder"),
    (edit_config(lambda added: added.update({"5": {"content": "x"}})), "'x' the id 5, which"),
    (edit_config(lambda added: added.update({"9999": {"content": "[MASK]"}})), "two ids"),
    (edit_config(lambda added: added.update({"9999": "y"})), "is damaged"),
    (edit_config(lambda added: added.update({"99999999": {"content": "y"}})), "far behind the"),
    (edit_config(lambda added: added.update({"4100": {"content": ""}})), "'' cannot be an added"),
    (edit_config(lambda added: added.update({"4100": {"content": "a"}})), "'a' cannot be an added"),
    (edit_config(lambda added: added.update({"4100": {"content": "\ud800"}})), "is no text"),
    (edit_config(lambda added: added.clear()), "end-of-text token '<|endoftext|>' is not in"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[said for _, said in DAMAGES])
def test_damaged_files_are_refused(folder, tmp_path, damage, said):
    shutil.copytree(folder, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    with pytest.raises(VocabularyError) as refused:
        open_text_tokenizer(tmp_path / "damaged")
    assert said in str(refused.value)


def test_a_conversion_with_other_ids_is_refused(folder, monkeypatch):
    monkeypatch.setattr("megatron_speech.text.tiktoken_model._merges", lambda ranks: [])
    with pytest.raises(VocabularyError, match="cannot be converted faithfully"):
        convert(folder, ["the end"])


def test_names_in_added_tokens_json_count(folder, ranks, tmp_path):
    shutil.copytree(folder, tmp_path / "more")
    last = len(ranks) + 1024 + CODES
    (tmp_path / "more" / "added_tokens.json").write_text(json.dumps({"<|more|>": last}))
    assert open_text_tokenizer(tmp_path / "more").id_of("<|more|>") == last
