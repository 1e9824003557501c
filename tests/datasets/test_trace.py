"""From any token back to its source, and from its source to the same codes again."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_speech.datasets.speech import PairsConfig, SpeechConfig, build_pairs, build_speech
from megatron_speech.datasets.text import PreprocessConfig, preprocess
from megatron_speech.datasets.trace import trace
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.interleaving.assemble import assemble
from megatron_speech.interleaving.best_of import BestOfConfig
from megatron_speech.interleaving.generate import GenerateConfig, generate
from megatron_speech.interleaving.plan import plan
from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.text_to_token.engines import EngineConfig
from megatron_speech.text_to_token.gates import GateConfig
from tests.interleaving.jobs import assemble_config, documents_of, plan_config
from tests.interleaving.samples import INFO, look_up, write_codes, write_corpus
from tests.text_to_token.tiny_model import write_model
from tools import inspect_dataset, regenerate_span


@pytest.fixture(scope="module")
def vocab(world):
    return SpeechTextVocab.from_pretrained(world / "vocab")


def test_every_token_of_interleaved_documents_leads_to_its_characters(world, done, vocab):
    prefix, corpus = done[0] / "out", [str(world / "corpus.parquet")]
    table = pq.read_table(corpus[0])
    texts = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    for document in (0, 4, 17):
        tokens = documents_of(prefix)[document]
        text, last_stop = texts[f"doc-{document}"], 0
        for position, token in enumerate(tokens):
            origin = trace(prefix, vocab, document, position, corpus)
            assert (origin.token, origin.document) == (token, document)
            if origin.kind == "special":
                assert vocab.text.decode([token]).startswith("<|")
                continue
            assert origin.text == text[origin.character_start : origin.character_stop]
            if origin.kind == "text":
                assert origin.source_id == f"doc-{document}"
                assert vocab.text.decode([token]) == origin.text
                assert origin.character_start == last_stop or text[last_stop].isspace()
            else:
                assert origin.code == look_up(origin.text)[position - origin.run_start]
                assert origin.source_id.startswith(f"doc-{document}/")
                assert (origin.generator_fingerprint, origin.batch) == ("look-up", 0)
                assert origin.speech_tokenizer == INFO.tokenizer_fingerprint
            last_stop = origin.character_stop
        assert text[last_stop:].strip() == ""


def test_text_and_speech_datasets_name_their_sources(world, vocab, tmp_path, capsys):
    texts = write_corpus(tmp_path / "c.parquet", 6)
    config = PreprocessConfig(
        input=(str(tmp_path / "c.parquet"),),
        output_prefix=tmp_path / "text",
        tokenizer_model=world / "vocab",
        append_eod=True,
    )
    prefix = preprocess(config)[0].prefix
    flags = ["--vocab", str(world / "vocab"), "--first", "4", "--corpus", config.input[0]]
    pieces = [
        inspect_dataset.main([str(prefix), *flags, "--token", str(position)]).text
        for position in range(len(documents_of(prefix)[4]) - 1)
    ]
    assert "".join(pieces) == texts[4]
    assert "source_id              'doc-4'" in capsys.readouterr().out
    records = write_codes(tmp_path / "codes" / "a.parquet")
    folders = {"codes": (tmp_path / "codes",), "vocab": world / "vocab"}
    build_speech(SpeechConfig(**folders, output_prefix=tmp_path / "speech"))
    build_pairs(PairsConfig(**folders, output_prefix=tmp_path / "pairs"))
    origin = trace(tmp_path / "speech", vocab, 5, 1)
    assert (origin.kind, origin.source_id) == ("speech", records[5].id)
    assert origin.code == records[5].codes[0]
    shard = [str(tmp_path / "codes" / "a.parquet")]
    position = documents_of(tmp_path / "pairs-tts")[7].index(vocab.begin_of_audio_id) - 1
    origin = trace(tmp_path / "pairs-tts", vocab, 7, position, shard)
    assert (origin.source_id, origin.character_stop) == (records[7].id, len(records[7].text))


def test_what_cannot_be_traced(world, done, vocab, tmp_path):
    prefix = done[0] / "out"
    with pytest.raises(DataError, match="has 60 documents, none number 60"):
        trace(prefix, vocab, 60, 0)
    with pytest.raises(DataError, match=r"document 0 .* has \d+ tokens"):
        trace(prefix, vocab, 0, 10**6)
    write_corpus(tmp_path / "other.parquet", 3, seed=5)
    with pytest.raises(DataError, match="is not the text this dataset was made of"):
        trace(prefix, vocab, 1, 0, [str(tmp_path / "other.parquet")])
    with pytest.raises(DataError, match="holds no document 'doc-9'"):
        trace(prefix, vocab, 9, 0, [str(tmp_path / "other.parquet")])


@pytest.fixture(scope="module")
def generated(world, vocab, tmp_path_factory):
    """Interleaved documents from the transformers engine: small batches, long texts in parts."""
    work = tmp_path_factory.mktemp("generated")
    write_model(work / "model", vocab)
    plan(plan_config(world, work / "plan", tasks=2))
    config = GenerateConfig(
        plan=work / "plan",
        model=work / "model",
        like=world / "like",
        output=work / "codes",
        engine=EngineConfig(batch_size=3, temperature=0.7, most_characters=24),
        gates=GateConfig(least_seconds_per_character=0.0, most_seconds_per_character=0.1),
    )
    generate(config)
    assemble(assemble_config(world, work))
    return work


def regenerate(world, work, document, token, **changes):
    flags = {
        "vocab": world / "vocab", "plan": work / "plan", "model": work / "model",
        "like": world / "like", "batch-size": 3, "temperature": 0.7, "most-characters": 24,
        "least-seconds-per-character": 0, "most-seconds-per-character": 0.1,
        "document": document, "token": token, **changes,
    }  # fmt: skip
    given = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    return regenerate_span.main([str(work / "out"), *given])


def test_spans_are_made_again_bit_for_bit(world, generated, monkeypatch):
    from megatron_speech.text_to_token.transformers_engine import BatchDecoder

    decoded, decode = [], BatchDecoder.decode

    def counting(self, prompts, *arguments):
        decoded.append(len(prompts))
        return decode(self, prompts, *arguments)

    monkeypatch.setattr(BatchDecoder, "decode", counting)
    spans = pq.read_table(generated / "out.spans.parquet", filters=[("modality", "=", "speech")])
    rows = spans.to_pylist()
    assert len({(row["request_shard"], row["batch"]) for row in rows}) > 3
    chosen = np.random.default_rng(0).choice(len(rows), 4, replace=False)
    longest = int(np.argmax([row["character_stop"] - row["character_start"] for row in rows]))
    for number in [*chosen.tolist(), longest]:
        row = rows[number]
        decoded.clear()
        made = regenerate(world, generated, row["document"], row["token_stop"] - 1)
        assert made.equal
        assert made.origin.source_id == row["source_id"]
        assert len(made.codes) == row["token_stop"] - row["token_start"] > 0
        assert sum(decoded) < 20, "the whole shard was decoded"
    assert len(decoded) > 1, "the longest text has several parts"


class Recogniser:
    """Counts fewer errors in some codes than in others."""

    fingerprint = INFO.tokenizer_fingerprint

    def decode_text(self, codes, languages=None):
        return ["mumble " * (int(own.sum()) % 5) for own in codes]


def test_the_sample_that_was_kept_is_made_again(world, vocab, generated, tmp_path, monkeypatch):
    monkeypatch.setattr(SpeechTokenizer, "from_pretrained", lambda folder, device: Recogniser())
    engine = EngineConfig(batch_size=3, temperature=0.7, most_characters=24)
    bounds = {"least_seconds_per_character": 0.0, "most_seconds_per_character": 0.1}
    config = GenerateConfig(
        plan=generated / "plan",
        model=generated / "model",
        like=world / "like",
        output=tmp_path / "codes",
        engine=engine,
        gates=GateConfig(self_check=tmp_path, most_word_errors=99, **bounds),
        best=BestOfConfig(best_of=3),
    )
    counts = generate(config)
    assert counts["best_of"]["changed"] > 0.2
    (tmp_path / "plan").symlink_to(generated / "plan")
    assemble(assemble_config(world, tmp_path))
    names = sorted((tmp_path / "codes" / "reports").glob("*.parquet"))
    reports = [row for path in names for row in pq.read_table(path).to_pylist()]
    kept = {row["id"]: row["sample"] for row in reports}
    spans = pq.read_table(tmp_path / "out.spans.parquet", filters=[("modality", "=", "speech")])
    last = {kept[row["source_id"]]: row for row in spans.to_pylist()}
    assert set(last) == {0, 1, 2}
    (tmp_path / "model").symlink_to(generated / "model")
    more = {"best-of": 3, "self-check": tmp_path}
    for row in last.values():
        assert regenerate(world, tmp_path, row["document"], row["token_start"], **more).equal
    with pytest.raises(ConfigError, match="and --best-of as then"):
        regenerate(world, tmp_path, row["document"], row["token_start"])


def test_what_is_not_made_again(world, done, generated):
    row = pq.read_table(
        generated / "out.spans.parquet", filters=[("modality", "=", "speech")]
    ).to_pylist()[0]
    place = row["document"], row["token_start"]
    with pytest.raises(ConfigError, match="give the same model, --batch-size"):
        regenerate(world, generated, *place, **{"batch-size": 4})
    with pytest.raises(DataError, match="is special; choose a token of a synthetic span"):
        regenerate(world, generated, row["document"], row["token_start"] - 1)
    path = generated / "out.bin"
    good = path.read_bytes()
    try:
        tokens = np.frombuffer(good, np.uint16).copy()
        before = sum(len(document) for document in documents_of(generated / "out")[: place[0]])
        tokens[before + place[1]] ^= 1
        path.write_bytes(tokens.tobytes())
        with pytest.raises(DataError, match="made now differ from"):
            regenerate(world, generated, *place)
    finally:
        path.write_bytes(good)
