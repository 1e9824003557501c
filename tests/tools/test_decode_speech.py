import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.speech_decoder import SpeechDecoder
from megatron_speech.speech_tokenizer import SpeechTokenizer
from tests.interleaving.samples import make_vocab
from tests.speech_decoder.tiny_decoder import FINGERPRINT, NUM_CODES, random_codes, tiny_decoder
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer
from tools import decode_speech


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    tiny_decoder().save_pretrained(folder)
    return folder


def write_codes(folder: Path, counts: dict[str, int], **changes) -> Path:
    facts = {"frame_rate_hz": 12.5, "num_codes": NUM_CODES, "tokenizer_fingerprint": FINGERPRINT}
    records = [CodeRecord(id=name, codes=random_codes(n, seed=n)) for name, n in counts.items()]
    write_code_shard(folder / "codes.parquet", records, CodeShardInfo(**facts | changes))
    return folder / "codes.parquet"


def heard(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="float32")
    assert rate == 22_050
    return audio


def test_codes_become_files(decoder, tmp_path, capsys):
    codes = write_codes(tmp_path, {"talk/000": 23, "b": 5, "empty": 0})
    out = tmp_path / "out"
    command = ["--decoder", str(decoder), "--codes", str(codes), "--output", str(out)]
    summary = decode_speech.main(command)
    assert (summary.spoken, summary.rejected) == (2, {"no_codes": 1})
    expected = SpeechDecoder.from_pretrained(decoder).decode(random_codes(23, seed=23))
    np.testing.assert_allclose(heard(out / "talk%2F000.flac"), expected.clip(-1, 1), atol=1e-4)
    (out / "b.flac").unlink()
    again = decode_speech.main(command)
    assert (again.spoken, again.reused) == (1, 1)
    assert "1 no_codes" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"begun with other settings \(seed\)"):
        decode_speech.main([*command, "--seed", "1"])
    with pytest.raises(ConfigError, match=r"begun with other settings \(decoder\)"):
        decode_speech.main([*command, "--euler-steps", "1"])


def test_streaming_gives_the_same_audio_and_tells_when(decoder, tmp_path, capsys):
    codes = write_codes(tmp_path, {"a": 33})
    command = ["--decoder", str(decoder), "--codes", str(codes)]
    decode_speech.main([*command, "--output", str(tmp_path / "whole")])
    streamed = [*command, "--output", str(tmp_path / "blocks"), "--streaming"]
    summary = decode_speech.main(streamed)
    assert summary.first_audio_s is not None
    assert "first audio" in capsys.readouterr().out
    whole, blocks = (heard(tmp_path / name / "a.flac") for name in ("whole", "blocks"))
    np.testing.assert_allclose(whole, blocks, atol=1.01e-4)


def test_recordings_go_through_the_tokenizer(tmp_path):
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    loaded = SpeechTokenizer.from_pretrained(tokenizer)
    tiny_decoder(tokenizer_fingerprint=loaded.fingerprint).save_pretrained(tmp_path / "decoder")
    audio = 0.2 * np.random.default_rng(0).standard_normal((44_100, 2))
    soundfile.write(tmp_path / "question.wav", audio, 44_100)
    (tmp_path / "broken.wav").write_bytes(b"none")
    command = [
        "--decoder",
        str(tmp_path / "decoder"),
        "--output",
        str(tmp_path / "out"),
        "--audio",
        str(tmp_path / "question.wav"),
        str(tmp_path / "broken.wav"),
        "--speech-tokenizer",
        str(tokenizer),
    ]
    summary = decode_speech.main(command)
    assert (summary.spoken, summary.rejected) == (1, {"unreadable": 1})
    assert abs(len(heard(tmp_path / "out/question.flac")) / 22_050 - 13 / 12.5) < 0.01


def test_recordings_of_one_name_are_told_apart(tmp_path):
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    loaded = SpeechTokenizer.from_pretrained(tokenizer)
    tiny_decoder(tokenizer_fingerprint=loaded.fingerprint).save_pretrained(tmp_path / "decoder")
    paths = [tmp_path / name for name in ("a/q.wav", "b/q.wav")]
    for path in paths:
        path.parent.mkdir()
        soundfile.write(path, 0.2 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    files = ["--decoder", tmp_path / "decoder", "--speech-tokenizer", tokenizer]
    command = [*map(str, files), "--output", str(tmp_path / "out"), "--audio", *map(str, paths)]
    for spoken, reused in ((1, 0), (0, 1)):
        summary = decode_speech.main(command)
        assert (summary.spoken, summary.reused) == (spoken, reused)
        assert summary.rejected == {"duplicate_id": 1}
    soundfile.write(paths[0], 0.2 * np.random.default_rng(1).standard_normal(16_000), 16_000)
    with pytest.raises(ConfigError, match=r"begun with other settings \(input\)"):
        decode_speech.main(command)


def test_sound_of_another_input_is_not_kept(decoder, tmp_path):
    """Ids that come twice are counted; the same ids with other codes are another job."""
    codes = write_codes(tmp_path / "one", {"a": 12, "b": 5})
    again = write_codes(tmp_path / "two", {"b": 7})
    command = ["--decoder", str(decoder), "--output", str(tmp_path / "out"), "--codes"]
    summary = decode_speech.main([*command, str(codes), str(again)])
    assert (summary.spoken, summary.rejected) == (2, {"duplicate_id": 1})
    assert json.loads((tmp_path / "out/rejected.jsonl").read_text())["id"] == "b"
    with pytest.raises(ConfigError, match=r"begun with other settings \(input\)"):
        decode_speech.main([*command, str(again)])
    for path in (tmp_path / "out").glob("*.flac"):  # now there is nothing to mix it up with
        path.unlink()
    assert decode_speech.main([*command, str(again)]).spoken == 1


def test_output_of_a_language_model_is_spoken(tmp_path):
    vocab = make_vocab(tmp_path)
    tiny_decoder(num_codes=vocab.num_codes).save_pretrained(tmp_path / "decoder")
    codes = random_codes(15) % vocab.num_codes
    tokens = [1, 2, *vocab.speech_segment(codes).tolist(), 3]
    lines = [
        {"id": "answer", "tokens": tokens},
        {"id": "mute", "tokens": [1, 2]},
        {"id": "odd", "tokens": "none"},
        {"id": "answer", "tokens": tokens[:5]},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [
        "--decoder",
        str(tmp_path / "decoder"),
        "--generated",
        str(path),
        "--vocab",
        str(tmp_path / "vocab"),
        "--output",
        str(tmp_path / "out"),
    ]
    summary = decode_speech.main(command)
    assert summary.rejected == {"bad_tokens": 1, "duplicate_id": 1, "no_codes": 1}
    expected = tiny_decoder(num_codes=vocab.num_codes).decode(codes)
    np.testing.assert_allclose(heard(tmp_path / "out/answer.flac"), expected, atol=1e-4)
    assert decode_speech.main(command).reused == 1
    path.write_text(json.dumps({"id": "answer", "tokens": tokens[:9]}) + "\n")
    with pytest.raises(ConfigError, match=r"begun with other settings \(input\)"):
        decode_speech.main(command)


def test_codes_of_another_tokenizer_are_refused(decoder, tmp_path):
    changes = [{"frame_rate_hz": 25.0}, {"tokenizer_fingerprint": "another"}, {"num_codes": 500}]
    for change in changes:
        codes = write_codes(tmp_path, {"a": 12}, **change)
        command = ["--decoder", str(decoder), "--codes", str(codes), "--output", str(tmp_path)]
        with pytest.raises(ConfigError, match="this speech decoder was trained on"):
            decode_speech.main(command)


def test_bad_input(decoder, tmp_path):
    out = ["--decoder", str(decoder), "--output", str(tmp_path / "out")]
    for sources in (["--codes", "a", "--generated", "b"], []):
        with pytest.raises(ConfigError, match="exactly one of --codes"):
            decode_speech.main([*out, *sources])
    with pytest.raises(DataError, match="no code shards"):
        decode_speech.main([*out, "--codes", str(tmp_path)])
    codes = write_codes(tmp_path, {"empty": 0})
    with pytest.raises(DataError, match="no usable utterance"):
        decode_speech.main([*out, "--codes", str(codes)])
    with pytest.raises(ConfigError, match="knows no voice"):
        decode_speech.main([*out, "--codes", str(codes), "--speaker", "eve"])
