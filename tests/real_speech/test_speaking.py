"""The same five clips through what makes sound of codes, and answers to them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.audio import read_audio
from megatron_speech.data.code_shards import CodeRecord, read_code_shards, write_code_shard
from megatron_speech.speech_tokenizer import SpeechTokenizer
from tests.evaluation.fakes import make_model
from tools import (
    build_dataset,
    build_dialogues,
    chat,
    decode_speech,
    evaluate_chat,
    evaluate_decoder,
    inspect_dataset,
    train_speech_decoder,
)

pytestmark = pytest.mark.real

SMALL = "--encoder-dim 16 --encoder-heads 2 --encoder-ffn-dim 16 --flow-dim 16 --flow-ffn-dim 16"
SHORT = "--train-iters 8 --global-batch-size 2 --micro-batch-size 1 --no-tensorboard"


@pytest.fixture(scope="module")
def decoder(manifest, codes, tmp_path_factory) -> Path:
    """Vocoder and flow model, trained for a few steps on the clips."""
    folder = tmp_path_factory.mktemp("decoder")
    files = ["--manifest", str(manifest), "--valid-manifest", str(manifest), *SHORT.split()]
    vocoder = train_speech_decoder.main(["vocoder-smoke", *files, "--save", str(folder / "v")])
    assert vocoder.finished
    more = [*SMALL.split(), "--codes", str(codes), "--vocoder", str(vocoder.export)]
    flow = train_speech_decoder.main(["decoder-smoke", *files, *more, "--save", str(folder / "f")])
    assert flow.finished
    assert not list(folder.rglob("rejected.jsonl"))
    return flow.export


@pytest.fixture(scope="module")
def model(vocab, tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), vocab)


def test_a_stream_hears_what_the_tokenizer_hears(clips, tokenizer):
    loaded, random = SpeechTokenizer.from_pretrained(tokenizer), np.random.default_rng(0)
    for path, _ in clips:
        audio, stream = read_audio(path), loaded.stream()
        cuts = np.sort(random.integers(0, len(audio), 20))
        found = [stream.feed(chunk) for chunk in np.split(audio, cuts)]
        whole = loaded.encode([audio])[0]
        np.testing.assert_array_equal(np.concatenate([*found, stream.finish()]), whole)


def test_decoded_from_codes_and_from_recordings(decoder, codes, clips, tokenizer, tmp_path):
    common = ["--decoder", str(decoder)]
    sources = {
        "codes": ["--codes", str(codes)],
        "audio": ["--audio", *(str(path) for path, _ in clips)],
    }
    sources["audio"] += ["--speech-tokenizer", str(tokenizer), "--streaming"]
    for name, source in sources.items():
        made = decode_speech.main([*common, *source, "--output", str(tmp_path / name)])
        assert (made.spoken, made.rejected) == (5, {})
    for path, _ in clips:
        (one,), (two,) = (sorted((tmp_path / name).glob(f"*{path.stem}*.flac")) for name in sources)
        sound, rate_hz = soundfile.read(one)
        assert rate_hz == 22_050
        seconds = soundfile.info(path).duration
        assert len(sound) / rate_hz == pytest.approx(seconds, abs=0.1)
        np.testing.assert_allclose(sound, soundfile.read(two)[0], atol=1e-3)


def test_decoded_speech_is_judged(decoder, manifest, tokenizer, tmp_path):
    flags = ["--decoder", str(decoder), "--speech-tokenizer", str(tokenizer)]
    flags += ["--manifest", str(manifest)]
    found = evaluate_decoder.main([*flags, "--output", str(tmp_path / "figures.json")])
    assert found["recordings"] == 5
    assert found["rows"]["real"]["mel_distance"] == 0
    assert found["rows"]["offline"]["wer_tokenizer"] > 0.5  # after eight steps


def write_segments(codes: Path, target: Path, count: int) -> list[CodeRecord]:
    """The first clips as segments of one recording named talk."""
    info, records = read_code_shards(codes)
    kept = [replace(r, id=f"talk/{n:03d}") for n, r in enumerate(records) if n < count]
    write_code_shard(target, kept, info)
    return kept


def test_interleaved_documents_of_recordings(codes, vocab, tmp_path):
    segments = write_segments(codes, tmp_path / "segments.parquet", 5)
    flags = ["--codes", str(tmp_path / "segments.parquet"), "--vocab", str(vocab)]
    prefix = str(tmp_path / "data")
    build_dataset.main(["interleaved-aligned", *flags, "--output-prefix", prefix])
    inspection = inspect_dataset.main([prefix, "--vocab", str(vocab), "--documents", "1"])
    assert inspection.facts.documents == 1
    assert 0 < inspection.facts.speech_tokens < sum(len(segment.codes) for segment in segments)
    assert inspection.facts.text_tokens > 10


def test_questions_and_answers(clips, codes, decoder, tokenizer, model, tmp_path):
    question, folder = clips[0][0], tmp_path / "talk"
    parts = ["--model", str(model), "--speech-tokenizer", str(tokenizer)]
    parts += ["--decoder", str(decoder), "--max-new-tokens", "30", "--context-tokens", "250"]
    chat.main([*parts, "--mode", "direct", "--output-dir", str(folder), "--ask", str(question)])
    assert soundfile.info(folder / "turn_000.wav").duration > 0
    item = {"id": "a", "kind": "say", "turns": [clips[0][1]], "answers": ["dashwood"], "wrong": [],
            "chance": 0.0}  # fmt: skip
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    asked = ["--items", str(tmp_path / "items.jsonl"), "--questions", str(codes)]
    results = evaluate_chat.main([*parts, *asked, "--output", str(tmp_path / "chat.json")])
    assert results["modes"]["streaming"]["s2t"]["all"]["n"] == 1


def test_dialogues_of_recordings(codes, vocab, tmp_path):
    turns = write_segments(codes, tmp_path / "turns.parquet", 4)
    roles = ("user", "assistant") * 2
    messages = [{"role": r, "content": t.text} for r, t in zip(roles, turns, strict=True)]
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "talk", "messages": messages}) + "\n")
    spoken = str(tmp_path / "turns.parquet")
    flags = ["--input", str(tmp_path / "in.jsonl"), "--vocab", str(vocab), "--modes", "direct"]
    flags += ["--user-codes", spoken, "--assistant-codes", spoken]
    built = build_dialogues.main([*flags, "--output-prefix", str(tmp_path / "set")])
    assert built["dialogues"] == {"dialogues": 1, "turns": 4, "rejected": {}}
    facts = inspect_dataset.main([str(tmp_path / "set-direct"), "--vocab", str(vocab)]).facts
    assert facts.speech_tokens == sum(len(turn.codes) for turn in turns)
