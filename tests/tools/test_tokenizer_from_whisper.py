"""From any Whisper folder to a tokenizer, and how both read recordings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from megatron_speech.data.manifest import ManifestRow, read_manifest, write_manifest
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.io.files import read_json
from megatron_speech.speech_tokenizer import SpeechTokenizer
from megatron_speech.speech_tokenizer.whisper import Whisper, transcribe_audio
from tests.speech_tokenizer.conftest import noise
from tests.speech_tokenizer.small_whisper import save_small_whisper
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer
from tests.tools.speech_training import write_speech
from tools import evaluate_codes, train_speech_tokenizer, transcribe_speech


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Path:
    return save_small_whisper(tmp_path_factory.mktemp("whisper"))


def from_whisper(whisper: Path, manifest: Path, save: Path, *more: str) -> list[str]:
    files = ["--init-from", str(whisper), "--manifest", str(manifest), "--save", str(save)]
    steps = "--train-iters 3 --quantize-start-step 2 --micro-batch-size 4 --global-batch-size 4"
    return ["tokenizer-from-whisper-12.5hz", *files, *steps.split(), "--no-tensorboard", *more]


def test_any_whisper_gives_shape_text_and_start(manifest, tmp_path, capsys):
    whisper = save_small_whisper(tmp_path / "whisper", multilingual=False)
    flags = from_whisper(whisper, manifest, tmp_path / "run", "--vectors-per-code", "4")
    result = train_speech_tokenizer.main([*flags, "--lr", "1e-9"])
    assert "32 codes of at most 16,384: the recordings give 202 vectors" in capsys.readouterr().out
    tokenizer = SpeechTokenizer.from_pretrained(result.export)
    assert tokenizer.num_codes == 32  # 4 vectors each; k-means had one pass over the data
    assert tokenizer.config.quantize_position == tokenizer.config.pooling_position == 2
    start = load_file(whisper / "model.safetensors")
    found = load_file(result.export / "model.safetensors")
    assert found["model.encoder.embed_positions2.weight"].abs().max() < 1e-6
    for name, value in start.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert len(tokenizer.text.prompt("en")) == 2  # English only, as the Whisper was
    assert tokenizer.decode_text(tokenizer.encode([np.ones(8000, np.float32) / 9]))
    again = train_speech_tokenizer.main([*flags, "--lr", "1e-9"])
    assert again.finished


def test_what_a_start_from_whisper_cannot_do_is_said_before_reading(whisper, manifest, tmp_path):
    flags = ("--decoder-ffn-dim", "64")
    with pytest.raises(ConfigError, match=r"--decoder-ffn-dim 64 \(it: 40\)"):
        train_speech_tokenizer.main(from_whisper(whisper, manifest, tmp_path / "a", *flags))
    missing = tmp_path / "none.parquet"
    with pytest.raises(CheckpointError, match="folder of a Whisper"):
        train_speech_tokenizer.main(from_whisper(tmp_path, missing, tmp_path / "b"))
    more = ("--vectors-per-code", "0", "--quantize-vocab-size", "512")
    with pytest.raises(ConfigError, match="cannot fill 512 codes; lower --quantize-vocab-size"):
        train_speech_tokenizer.main(from_whisper(whisper, manifest, tmp_path / "c", *more))


def test_recordings_of_unknown_languages_are_said(whisper, manifest, tmp_path, capsys):
    rows = [
        replace(r, language=("de", "en-US")[n % 2]) for n, r in enumerate(read_manifest(manifest))
    ]
    write_manifest(tmp_path / "speech.parquet", rows)
    flags = from_whisper(whisper, tmp_path / "speech.parquet", tmp_path / "run", "--no-quantize")
    with pytest.warns(UserWarning, match="does not know the language 'de'"):
        train_speech_tokenizer.main([*flags, "--train-iters", "1"])
    said = capsys.readouterr().err
    assert "training: 7 of 13 recordings are of a language" in said
    assert "'de' 7" in said


@pytest.fixture(scope="module")
def heard(whisper, tmp_path_factory) -> Path:
    """Recordings in two languages whose texts are what the Whisper reads in them, but for one."""
    folder = tmp_path_factory.mktemp("heard")
    names = ("en", "fr", "fr-CA", "English", "")
    clips = [noise(16_000 + 3_000 * n, n) for n in range(5)]
    texts = Whisper.from_pretrained(whisper).transcribe(clips, names)
    rows = []
    for n, (clip, text, name) in enumerate(zip(clips, texts, names, strict=True)):
        soundfile.write(folder / f"{n}.wav", clip, 16_000, subtype="FLOAT")
        rows.append(ManifestRow(id=str(n), path=folder / f"{n}.wav", text=text, language=name))
    rows[1] = replace(rows[1], text="nothing like it")
    rows.append(ManifestRow(id="gone", path=folder / "gone.wav", text="lost"))
    rows.append(ManifestRow(id="untold", path=folder / "0.wav", text=" "))
    write_manifest(folder / "manifest.parquet", rows)
    return folder / "manifest.parquet"


def evaluate(*flags: object) -> dict:
    return evaluate_codes.main([str(flag) for flag in flags])


def test_a_whisper_reads_recordings_by_set_and_language(whisper, heard, tmp_path, capsys):
    output = tmp_path / "wer.json"
    results = evaluate("--whisper", whisper, "--manifest", heard, "--output", output)
    assert results == read_json(output)
    figures = results[heard.parent.name]
    assert (figures["records"], figures["unreadable"]) == (5, 1)
    languages = figures["by_language"]
    assert languages.keys() == {"en", "fr"}
    assert languages["en"]["wer_whisper"] == 0
    assert languages["fr"]["wer_whisper"] > 0
    assert languages["en"]["words"] + languages["fr"]["words"] == figures["words"]
    assert 0 < figures["wer_whisper"] < languages["fr"]["wer_whisper"]
    assert "gone.wav does not exist" in capsys.readouterr().out


def test_a_tokenizer_is_read_with_and_without_its_codebook(whisper, heard, manifest, tmp_path):
    flags = from_whisper(whisper, manifest, tmp_path / "run", "--vectors-per-code", "8")
    export = train_speech_tokenizer.main(flags).export
    one = evaluate("--speech-tokenizer", export, "--manifest", heard, "--whisper", whisper)
    figures = one[heard.parent.name]
    assert {"wer_whisper", "wer_vectors", "wer_codes"} <= figures.keys()
    tokenizer = SpeechTokenizer.from_pretrained(export)
    rows = [row for row in read_manifest(heard) if row.id.isdigit()]
    clips = [soundfile.read(row.path, dtype="float32")[0] for row in rows]
    codes = tokenizer.encode(clips)
    assert figures["codes"] == sum(map(len, codes))
    used = len(np.unique(np.concatenate(codes)))
    assert figures["codebook_usage"] == pytest.approx(used / tokenizer.num_codes)
    # a codebook that holds every vector of a clip takes nothing away from it
    batch = tokenizer.prepare_batch(clips[:1])
    encoder = tokenizer.model.encoder
    with torch.no_grad():
        hidden = encoder.lower(batch.mel, batch.lengths).hidden[0]
        assert len(hidden) <= tokenizer.num_codes
        encoder.quantizer.codebook.weight[: len(hidden)] = hidden
    tokenizer.save_pretrained(tmp_path / "exact")
    vectors = transcribe_audio(tokenizer.model, tokenizer.text, clips[:1])
    write_manifest(tmp_path / "one.parquet", [replace(rows[0], text=vectors[0])])
    more = ("--speech-tokenizer", tmp_path / "exact", "--manifest", tmp_path / "one.parquet")
    found = evaluate(*more)["one"]
    assert found["wer_codes"] == found["wer_vectors"] == 0


def test_what_cannot_be_evaluated(whisper, heard, tmp_path):
    alone = (["--whisper", whisper], ["--manifest", heard])
    for flags in (*alone, ["--whisper", whisper, "--manifest", heard, "--requests", tmp_path]):
        with pytest.raises(ConfigError):
            evaluate(*flags)
    tiny = save_tiny_tokenizer(tmp_path / "tiny")
    with pytest.raises(ConfigError, match="cannot transcribe"):
        evaluate("--speech-tokenizer", tiny, "--manifest", heard)
    write_manifest(tmp_path / "m.parquet", [ManifestRow(id="a", path=tmp_path / "a", text="x")])
    with pytest.raises(DataError, match="no readable recording"):
        evaluate("--whisper", whisper, "--manifest", tmp_path / "m.parquet")


def test_recordings_get_a_whispers_transcripts(whisper, heard, tmp_path):
    output = tmp_path / "labelled.parquet"
    flags = ["--manifest", str(heard), "--whisper", str(whisper), "--output", str(output)]
    flags += ["--most-repetition", "100"]  # random weights repeat themselves
    made = transcribe_speech.main(flags)
    assert [row.text for row in made] == [row.text for row in read_manifest(output)]
    told = {row.id: row for row in read_manifest(heard)}
    for row in made:
        assert (row.text == told[row.id].text) == (row.id not in ("1", "untold"))
        assert row.path == told[row.id].path
        assert row.duration_s == pytest.approx(soundfile.info(row.path).duration)
    assert '"gone"' in (tmp_path / "labelled.rejected.jsonl").read_text()
    assert len(transcribe_speech.main([*flags, "--limit", "2"])) == 2
    with pytest.raises(ConfigError, match="expected 0 to 30"):
        transcribe_speech.main([*flags, "--silence-s", "31"])


def test_a_whispers_loops_are_no_transcripts(whisper, heard, tmp_path, monkeypatch):
    def transcribe(self, clips, languages, silence_s):
        return ["a fine text", *["y ahora " + "ni " * 80] * (len(clips) - 1)]

    monkeypatch.setattr(Whisper, "transcribe", transcribe)
    output = tmp_path / "labelled.parquet"
    flags = ["--manifest", str(heard), "--whisper", str(whisper), "--output", str(output)]
    assert [row.text for row in transcribe_speech.main(flags)] == ["a fine text"]
    assert '"reason": "repetition"' in (tmp_path / "labelled.rejected.jsonl").read_text()
    assert len(transcribe_speech.main([*flags, "--most-repetition", "100"])) > 1


def test_frozen_codes_stay_what_kmeans_made_and_are_learned_to_be_read(whisper, manifest, tmp_path):
    flags = from_whisper(
        whisper, manifest, tmp_path / "run", "--vectors-per-code", "8", "--quantize-code-dim", "8",
        "--quantize-start-step", "1", "--train-iters", "3", "--save-interval",
        "2", "--no-bf16",
    )  # fmt: skip
    export = train_speech_tokenizer.main(flags).export
    assert read_json(export / "config.json")["quantize_code_dim"] == 8
    first, last = (
        torch.load(tmp_path / "run" / f"iter_{step:07d}" / "state.pt")["model"] for step in (2, 3)
    )
    held = {name for name in first if torch.equal(first[name], last[name])}
    learns = {name for name in first if name not in held}
    assert any("quantizer.codebook" in name for name in held)
    assert any("quantizer.project_in" in name for name in held)
    assert {name for name in held if "encoder.conv" in name or "encoder.layers.0" in name}
    assert any("decoder" in name for name in learns)
    assert not any("conv" in name or "quantizer" in name for name in learns)
    assert last["model.encoder.quantizer.codebook.weight"].shape[1] == 8
    weight = last["model.encoder.quantizer.project_in.weight"]
    assert not torch.equal(weight, torch.eye(*weight.shape))  # directions were chosen
    tokenizer = SpeechTokenizer.from_pretrained(export)
    clip = noise(16_000, 0)
    (codes,) = tokenizer.encode([clip], 16_000)
    again = tmp_path / "again"
    tokenizer.save_pretrained(again)
    assert (SpeechTokenizer.from_pretrained(again).encode([clip], 16_000)[0] == codes).all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--no-kmeans-init"], "add --kmeans-init"),
        (["--no-kmeans-init", "--no-freeze-codes"], "with --kmeans-init"),
        (["--quantizer", "fsq", "--quantize-code-dim", "None"], "only vq"),
        (["--quantizer", "fsq"], "--quantize-code-dim is 64 and --quantizer fsq"),
        (["--quantize-code-dim", "0"], "--quantize-code-dim is 0"),
    ],
)
def test_codes_that_cannot_be_frozen_or_projected_are_refused(
    whisper, manifest, tmp_path, flags, said
):
    with pytest.raises(ConfigError, match=said):
        train_speech_tokenizer.main(from_whisper(whisper, manifest, tmp_path / "run", *flags))


@pytest.mark.parametrize(
    ("output", "message"),
    [("heard.tsv", "ends in .parquet"), ("folder.parquet", "ends in .parquet"),
     ("manifest.parquet", "is --manifest too")],
)  # fmt: skip
def test_transcripts_have_a_place_of_their_own_before_anything_is_read(output, message, tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    manifest = tmp_path / "manifest.parquet"
    manifest.touch()
    with pytest.raises(ConfigError, match=message):
        transcribe_speech.main(["--manifest", str(manifest), "--whisper", "none",
                                "--output", str(tmp_path / output)])  # fmt: skip


def test_recordings_without_transcripts_are_counted(whisper, heard, tmp_path, monkeypatch):
    monkeypatch.setattr(Whisper, "transcribe", lambda self, clips, *_: ["..."] * len(clips))
    output = tmp_path / "labelled.parquet"
    flags = ["--manifest", str(heard), "--whisper", str(whisper), "--output", str(output)]
    with pytest.raises(DataError, match=r"no_text.*labelled\.rejected\.jsonl"):
        transcribe_speech.main(flags)
    assert '"no_text"' in (tmp_path / "labelled.rejected.jsonl").read_text()
