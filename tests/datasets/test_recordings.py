"""Recordings cut by word times: fragments for text-to-token, real codes among text."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.data.alignments import Alignments
from megatron_speech.data.code_shards import CodeRecord, write_code_shard
from megatron_speech.datasets.recordings import AlignedConfig, build_aligned
from megatron_speech.datasets.speech import TextToTokenConfig, build_text_to_token
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.interleaving.spans import SpanConfig
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import documents_of
from tests.interleaving.samples import INFO, NUM_CODES, WORDS

CODES_PER_WORD = 4


def codes_of(word):
    """Four codes for a word; times say which ones."""
    return [(sum(word.encode()) * (n + 1)) % NUM_CODES for n in range(CODES_PER_WORD)]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Segments of recordings with their word times; silence (code 0) on both sides of each."""
    folder = tmp_path_factory.mktemp("spoken")
    rng = np.random.default_rng(0)
    records, rows = [], []
    for document in range(12):
        for segment in range(rng.integers(1, 6)):
            words = rng.choice(WORDS, rng.integers(2, 9)).tolist()
            codes = [0, *(code for word in words for code in codes_of(word)), 0]
            name = f"talk{document}/{segment:03d}"
            records.append(
                CodeRecord(
                    id=name,
                    codes=np.array(codes),
                    text="  ".join(words),
                    language="en",
                    speaker=f"s{document % 2}" if document else None,
                )
            )
            starts = (1 + CODES_PER_WORD * np.arange(len(words)) + 0.1) / INFO.frame_rate_hz
            rows.append({"id": name, "start_s": starts, "stop_s": starts + 3.8 / 12.5})
    write_code_shard(folder / "codes" / "a.parquet", records[:9], INFO)
    write_code_shard(folder / "codes" / "b.parquet", records[9:], INFO)
    pq.write_table(pa.Table.from_pylist(rows), folder / "times.parquet")
    return folder, records


def config_of(world, spoken, output, **changes):
    return AlignedConfig(
        codes=(spoken / "codes",),
        vocab=world / "vocab",
        output_prefix=output / "out",
        tasks=2,
        **changes,
    )


def check_documents(vocab, prefix, texts):
    """Every run of codes is that of the words it stands for, silence aside."""
    spans = pq.read_table(f"{prefix}.spans.parquet").to_pylist()
    documents = documents_of(prefix)
    assert len(documents) == len(texts)
    spoken = 0
    for row in spans:
        text = texts[row["document"]]
        words = text[row["character_start"] : row["character_stop"]].split()
        tokens = documents[row["document"]][row["token_start"] : row["token_stop"]]
        if row["modality"] == "speech":
            codes = vocab.tokens_to_codes(tokens).tolist()
            expected = [code for word in words for code in codes_of(word)]
            assert [c for c in codes if c] == [c for c in expected if c]
            spoken += len(words)
        else:
            assert vocab.text.decode(tokens).split() == words
    return spoken


def texts_of(records):
    found = {}
    for record in records:
        name = record.id.split("/")[0]
        found.setdefault(name, []).append(" ".join(record.text.split()))
    return ["\n".join(lines) for lines in found.values()]


@pytest.mark.parametrize("unit", ["line", "word", "sentence"])
def test_codes_of_recordings_stand_for_their_words(world, spoken, tmp_path, unit):
    folder, records = spoken
    spans = SpanConfig(unit=unit, eta=0.5, mean_span_words=3)
    facts = build_aligned(
        config_of(world, folder, tmp_path, spans=spans, alignments=folder / "times.parquet")
    )
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    texts = texts_of(records)
    assert check_documents(vocab, tmp_path / "out", texts) == facts["spoken_words"]
    assert facts["rejected"] == {}
    words = sum(len(text.split()) for text in texts)
    assert 0.3 < facts["spoken_words"] / words < 0.9  # two long segments are few to choose from
    before = (tmp_path / "out.bin").read_bytes()
    build_aligned(
        config_of(world, folder, tmp_path, spans=spans, alignments=folder / "times.parquet")
    )
    assert (tmp_path / "out.bin").read_bytes() == before


def test_segments_need_no_times(world, spoken, tmp_path):
    folder, records = spoken
    facts = build_aligned(config_of(world, folder, tmp_path))
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    assert check_documents(vocab, tmp_path / "out", texts_of(records)) == facts["spoken_words"] > 0
    with pytest.raises(ConfigError, match="needs --alignments"):
        config_of(world, folder, tmp_path, spans=SpanConfig())


def test_words_without_times_stay_text_and_are_counted(world, spoken, tmp_path):
    folder, records = spoken
    table = pq.read_table(folder / "times.parquet")
    pq.write_table(table.slice(0, table.num_rows // 2), tmp_path / "half.parquet")
    facts = build_aligned(
        config_of(
            world, folder, tmp_path, spans=SpanConfig(mean_span_words=2),
            alignments=tmp_path / "half.parquet",
        )
    )  # fmt: skip
    assert facts["rejected"].keys() == {"no_word_times"}
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    assert check_documents(vocab, tmp_path / "out", texts_of(records)) == facts["spoken_words"] > 0


def test_damaged_alignments(tmp_path):
    rows = pa.table({"id": ["a"], "start_s": [[0.0, 1.0]], "stop_s": [[0.5]]})
    pq.write_table(rows, tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="differ in length"):
        Alignments(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no column 'start_s'"):
        Alignments(tmp_path / "none.parquet")


def pairs_of(vocab, prefix):
    """Text and codes of each text-to-token document."""
    found = []
    for tokens in documents_of(prefix):
        middle = tokens.index(vocab.begin_of_audio_id)
        found.append((vocab.text.decode(tokens[1:middle]), tokens[middle + 1 : -2]))
    return [(text, vocab.tokens_to_codes(codes).tolist()) for text, codes in found]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_recordings_is_cut_into_fragments(world, spoken, tmp_path, share):
    folder, records = spoken
    config = TextToTokenConfig(
        codes=(folder / "codes",),
        vocab=world / "vocab",
        output_prefix=tmp_path / "t2t",
        alignments=folder / "times.parquet",
        fragments=share,
        mean_fragment_words=2,
    )
    build_text_to_token(config)
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    pairs = pairs_of(vocab, tmp_path / "t2t")
    for text, codes in pairs:
        expected = [code for word in text.split() for code in codes_of(word)]
        assert [c for c in codes if c] == [c for c in expected if c]
    # nothing is lost: the words of all pieces are those of the recordings, in order
    words = [word for text, _ in pairs for word in text.split()]
    assert words == [word for record in records for word in record.text.split()]
    whole = {" ".join(r.text.split()) for r in records}
    cut = np.mean([" ".join(text.split()) not in whole for text, _ in pairs])
    assert cut == 0 if share == 0 else cut > 0.7 if share == 1 else 0.3 < cut < 0.95


def test_fragments_whose_times_hold_no_codes_are_set_aside(world, spoken, tmp_path):
    folder, _ = spoken
    table = pq.read_table(folder / "times.parquet").to_pylist()
    late = [
        row | {"start_s": [999.0] * len(row["start_s"]), "stop_s": [999.5] * len(row["stop_s"])}
        for row in table
    ]
    pq.write_table(pa.Table.from_pylist(late), tmp_path / "late.parquet")
    config = TextToTokenConfig(
        codes=(folder / "codes",),
        vocab=world / "vocab",
        output_prefix=tmp_path / "t2t",
        alignments=tmp_path / "late.parquet",
        fragments=1.0,
        mean_fragment_words=1,
    )
    build_text_to_token(config)
    rejected = (tmp_path / "t2t.rejected.jsonl").read_text().splitlines()
    assert len(rejected) > 20
    assert all('"no_codes"' in line for line in rejected)


def test_voices_are_named_before_the_text(world, spoken, tmp_path):
    folder, records = spoken
    config = TextToTokenConfig(
        codes=(folder / "codes",),
        vocab=world / "vocab",
        output_prefix=tmp_path / "t2t",
        tags=("language", "speaker"),
    )
    build_text_to_token(config)
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    for record, (text, _) in zip(records, pairs_of(vocab, tmp_path / "t2t"), strict=True):
        voice = f"en, {record.speaker}" if record.speaker else "en"
        assert text == f"[{voice}] {record.text}"
