"""Units that nothing here made go through the whole chain, at 50 Hz; the decoder says its needs."""

import json

import numpy as np
import pytest

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.speech_decoder.config import SpeechDecoderConfig
from megatron_speech.speech_decoder.decoder import SpeechDecoder
from tests.interleaving.samples import write_corpus
from tests.tools.foreign_chain import flags, run_chain
from tools import build_dataset, import_codes, train_speech_decoder

NUM_CODES, RATE_HZ = 100, 50.0
STORIES = [
    (["Tom lost a key.", "He ran home."], "Tom found the key.", "The bread was old."),
    (["Mira saw a fox.", "It ran away."], "Mira went home.", "Tom found the key."),
]


def units_of(text):
    """Two to four frames a letter: 50 a second, as of a fast speaker."""
    numbers = [ord(letter) for letter in text]
    return np.repeat([n % NUM_CODES for n in numbers], [2 + n % 3 for n in numbers])


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """slamkit's features.jsonl (runs with counts), and texts in a manifest of their own."""
    folder = tmp_path_factory.mktemp("foreign")
    texts = sorted({text for context, *ends in STORIES for text in [*context, *ends]})
    with open(folder / "features.jsonl", "w") as units, open(folder / "m.jsonl", "w") as manifest:
        for number, text in enumerate(texts * 3):
            codes = units_of(text)
            starts = np.flatnonzero(np.append(True, np.diff(codes) != 0))
            counts = np.diff(np.append(starts, len(codes)))
            path = f"../audio/{number}.flac"
            row = {"units": codes[starts].tolist(), "duration": counts.tolist(), "file_name": path}
            units.write(json.dumps(row) + "\n")
            known = {"id": f"r{number}", "path": f"{number}.flac", "text": text, "language": "en"}
            manifest.write(json.dumps(known) + "\n")
    write_corpus(folder / "corpus.parquet", 12)
    return folder


@pytest.fixture(scope="module")
def collapsed(features):
    units = flags(name="u", frame_rate_hz=RATE_HZ, num_codes=NUM_CODES, repetitions="collapse")
    source = flags(input=features / "features.jsonl", texts=features / "m.jsonl")
    import_codes.main([*source, *units, *flags(output=features / "collapsed")])
    return features / "collapsed"


def test_the_whole_chain_on_units_of_50_hz(features, tmp_path):
    source = flags(input=features / "features.jsonl", texts=features / "m.jsonl")
    results = run_chain(tmp_path, source, features / "corpus.parquet", STORIES, NUM_CODES, RATE_HZ)
    figures = results["cloze"]["story"]
    assert set(figures) == {"t2t", "s2t", "s2s", "t2s"}
    assert all(figure["n"] == 2 for figure in figures.values())
    report = json.loads((tmp_path / "codes" / "import.json").read_text())
    assert report["codes_per_second"] == pytest.approx(RATE_HZ)
    assert results["tokenizer_fingerprint"] == report["tokenizer_fingerprint"]


def test_a_decoder_speaks_the_codes_it_was_trained_on(collapsed):
    decoder = SpeechDecoder.__new__(SpeechDecoder)
    decoder.config = SpeechDecoderConfig(num_codes=512, tokenizer_fingerprint="own")
    with pytest.raises(ConfigError, match=r"100 at 50\.0 Hz.*or train a decoder on these"):
        decoder.check_codes_of(RATE_HZ, NUM_CODES, "foreign")


def test_what_must_know_when_a_code_is_heard_refuses_collapsed_units(features, collapsed, tmp_path):
    common = flags(codes=collapsed, output_prefix=tmp_path / "d", vocab=tmp_path / "vocab")
    with pytest.raises(DataError, match=r"--alignments needs .* repetitions were dropped"):
        build_dataset.main(
            ["interleaved-aligned", *common, *flags(alignments=tmp_path / "a.parquet")]
        )
    manifest = flags(manifest=features / "m.jsonl", valid_manifest=features / "m.jsonl")
    with pytest.raises(DataError, match=r"a speech decoder needs .*--repetitions expand"):
        train_speech_decoder.main(
            ["decoder-smoke", *manifest, *flags(codes=collapsed, save=tmp_path / "run")]
        )
