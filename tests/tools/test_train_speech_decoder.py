import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_speech.data.code_shards import CodeShardInfo, read_code_shard, write_code_shard
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.io.files import read_json, write_json
from megatron_speech.speech_decoder import SpeechDecoder
from megatron_speech.training.checkpoint import iteration_directory
from megatron_speech.training.reporting import read_metrics
from tests.speech_decoder.tiny_decoder import (
    FINGERPRINT,
    NUM_CODES,
    random_codes,
    tiny_decoder,
    tiny_vocoder,
    write_material,
)
from tests.tools.decoder_training import (
    BATCHES,
    SHORT,
    flow_arguments,
    material,
    vocoder_arguments,
)
from tools import train_speech_decoder

COMMANDS = {"flow": flow_arguments, "vocoder": vocoder_arguments}


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    write_material(folder)
    return folder


def reasons(save: Path) -> dict[str, str]:
    lines = (save / "rejected.jsonl").read_text().splitlines()
    return {item["id"]: item["reason"] for item in map(json.loads, lines)}


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("cached", [True, False])
def test_resume_is_exact(speech, tmp_path, kind, cached):
    more = [
        "--cache-audio" if cached else "--no-cache-audio",
        "--valid-manifest",
        str(speech / "manifest.parquet"),
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    whole = train_speech_decoder.main(COMMANDS[kind](speech, one, *more))
    stopped = train_speech_decoder.main(COMMANDS[kind](speech, two, *more, "--exit-interval", "3"))
    assert not stopped.finished
    assert stopped.export is None
    done = train_speech_decoder.main(COMMANDS[kind](speech, two, *more))
    assert done.finished
    assert done.metrics == whole.metrics
    assert read_metrics(one) == read_metrics(two)
    states = [torch.load(iteration_directory(run, 8) / "state.pt") for run in (one, two)]
    assert all(torch.equal(v, states[1]["model"][k]) for k, v in states[0]["model"].items())
    exports = [load_file(run / "export/model.safetensors") for run in (one, two)]
    assert len(exports[0]) > 10
    assert all(torch.equal(v, exports[1][k]) for k, v in exports[0].items())
    assert reasons(one) == reasons(two)


@pytest.mark.parametrize("kind", COMMANDS)
def test_two_processes_train_as_one(speech, tmp_path, kind):
    """The same micro-batches, hence the same weights up to the order of sums."""
    more = ["--valid-manifest", str(speech / "manifest.parquet")]
    one = train_speech_decoder.main(COMMANDS[kind](speech, tmp_path / "one", *more))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(train_speech_decoder.__file__)]
    command += COMMANDS[kind](speech, tmp_path / "two", *more)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = [tmp_path / "one", tmp_path / "two"]
    tensors = [load_file(run / "export/model.safetensors") for run in runs]
    assert len(tensors[0]) > 10
    for name, value in tensors[0].items():
        torch.testing.assert_close(tensors[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
    two = read_metrics(tmp_path / "two", "valid")[-1]
    assert {name: two[name] for name in one.metrics} == pytest.approx(one.metrics, rel=1e-3)
    assert reasons(runs[0]) == reasons(runs[1])


def test_what_cannot_be_learned_from_is_set_aside(speech, tmp_path):
    train_speech_decoder.main(flow_arguments(speech, tmp_path, "--no-cache-audio"))
    expected = {"u1": "no_codes", "u2": "other_length", "broken": "unreadable"}
    assert reasons(tmp_path) == expected
    train_speech_decoder.main(vocoder_arguments(speech, tmp_path / "v", "--cache-audio"))
    assert reasons(tmp_path / "v") == {"broken": "unreadable"}


def test_two_stages_make_a_decoder_that_speaks(speech, tmp_path):
    vocoder = train_speech_decoder.main(vocoder_arguments(speech, tmp_path / "vocoder"))
    more = ["--speaker-embedding", "--vocoder", str(vocoder.export)]
    first = train_speech_decoder.main(flow_arguments(speech, tmp_path / "first", *more))
    decoder = SpeechDecoder.from_pretrained(first.export)
    assert decoder.config.speakers == ("voice-0", "voice-1")
    facts = (decoder.fingerprint, decoder.num_codes, decoder.frame_rate_hz)
    assert facts == (FINGERPRINT, NUM_CODES, 12.5)
    voice = [
        "--init-from",
        str(first.export),
        "--voice",
        "voice-1",
        "--prefix-share",
        "1",
        "--vocoder",
        str(vocoder.export),
        "--lr",
        "1e-9",
    ]
    second = train_speech_decoder.main(flow_arguments(speech, tmp_path / "second", *voice))
    again = SpeechDecoder.from_pretrained(second.export)
    codes = random_codes(25)
    one, other = (d.decode(codes, speaker="voice-1") for d in (decoder, again))
    assert len(one) > 0
    np.testing.assert_allclose(one, other, atol=1e-3)  # it went on from there
    unknown = flow_arguments(speech, tmp_path / "third", *voice[:2], "--voice", "nobody")
    with pytest.raises(DataError, match="of the voice 'nobody'"):
        train_speech_decoder.main(unknown)


def second_stage(speech: Path, save: Path, first: Path, *more: str) -> list[str]:
    manifest, codes = material(speech)
    files = ["--manifest", str(manifest), "--codes", str(codes), "--save", str(save)]
    files += ["--init-from", str(first), "--vocoder", str(first / "vocoder")]
    return ["decoder-smoke-voice", *files, *SHORT, *BATCHES, "--voice", "voice-1", *more]


@pytest.mark.parametrize("known", [(), ("ann",)])
def test_a_new_voice_gets_a_row_of_its_own(speech, tmp_path, known, capsys):
    first = tiny_decoder(speakers=known)
    first.save_pretrained(tmp_path / "first")
    start = [speech, tmp_path / "run", tmp_path / "first"]
    more = ["--speaker-embedding", "--lr", "1e-2", "--weight-decay", "0", "--nameless-share", "0"]
    result = train_speech_decoder.main(second_stage(*start, *more))
    found = SpeechDecoder.from_pretrained(result.export)
    assert found.config.speakers == (*known, "voice-1")
    assert len(found.decode(random_codes(5), speaker="voice-1"))
    rows = found.flow.speaker.weight.detach()
    nobody = first.flow.speaker.weight[0] if known else torch.zeros(rows.shape[1])
    torch.testing.assert_close(rows[0], nobody)  # the voice is not nobody
    assert (rows[-1] - nobody).abs().max() > 1e-2
    assert "row of nobody" not in capsys.readouterr().out
    if known:
        train_speech_decoder.main(second_stage(speech, tmp_path / "no", tmp_path / "first"))
        assert "train the row of nobody (voice-1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--encoder-dim", "16"], r"--encoder-dim 16 \(it: 32\)"),
        (["--euler-steps", "7", "--flow-layers", "2"], r"--euler-steps 7 \(it: 3\) would"),
        (["--codebook-of", "somewhere"], "--codebook-of somewhere would have no effect"),
    ],
)
def test_another_model_than_the_first_stage_s_is_refused(speech, tmp_path, flags, said):
    tiny_decoder().save_pretrained(tmp_path / "first")
    with pytest.raises(ConfigError, match=said):
        train_speech_decoder.main(
            second_stage(speech, tmp_path / "run", tmp_path / "first", *flags)
        )


@pytest.mark.parametrize(
    ("kind", "flag", "there", "other"),
    [("istft", "--dim", "24", "48"), ("hifigan", "--upsample-initial-channel", "16", "32")],
)
def test_another_vocoder_than_the_first_is_refused(tmp_path, kind, flag, there, other):
    tiny_vocoder(kind).save_pretrained(tmp_path / "first")
    recipe = {"istft": "vocoder-smoke", "hifigan": "vocoder-hifigan"}[kind]
    files = {"--init-from": "first", "--manifest": "none.parquet", "--save": "run"}
    command = [recipe, *(part for k, v in files.items() for part in (k, str(tmp_path / v)))]
    with pytest.raises(ConfigError, match=rf"{flag} {other} \(it: {there}\)"):
        train_speech_decoder.main([*command, flag, other])
    with pytest.raises(DataError, match=r"none\.parquet"):  # the same again does no harm
        train_speech_decoder.main([*command, flag, there])


def test_a_vocoder_can_be_put_in_later(speech, tmp_path):
    flow = train_speech_decoder.main(flow_arguments(speech, tmp_path / "flow"))
    with pytest.raises(CheckpointError, match="has no vocoder inside"):
        SpeechDecoder.from_pretrained(flow.export)
    vocoder = train_speech_decoder.main(vocoder_arguments(speech, tmp_path / "vocoder"))
    more = ["--vocoder", str(vocoder.export)]
    again = train_speech_decoder.main(flow_arguments(speech, tmp_path / "flow", *more))
    assert again.finished
    assert len(SpeechDecoder.from_pretrained(again.export).decode(random_codes(5)))


def test_samples_are_heard_and_seen(speech, tmp_path):
    more = ["--tensorboard", "--valid-manifest", str(speech / "manifest.parquet")]
    for kind, sound in (("flow", "decoded/0"), ("vocoder", "vocoder/0")):
        save = tmp_path / kind
        train_speech_decoder.main(COMMANDS[kind](speech, save, *more))
        (file,) = (save / "tensorboard").glob("*.samples")
        events = EventAccumulator(str(file), {"audio": 0, "images": 0}).Reload()
        tags = events.Tags()
        assert {sound, "recording/0"} <= set(tags["audio"])
        assert "mel/0" in tags["images"]
        heard = events.Audio(sound)[0]
        assert heard.sample_rate == 22_050
        assert heard.length_frames > 10_000


def test_training_is_learning(speech, tmp_path):
    more = ["--train-iters", "30", "--save-interval", "30", "--lr", "1e-2"]
    train_speech_decoder.main(flow_arguments(speech, tmp_path / "flow", *more))
    losses = [record["guess loss"] for record in read_metrics(tmp_path / "flow")]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    train_speech_decoder.main(vocoder_arguments(speech, tmp_path / "vocoder", *more))
    losses = [record["mel loss"] for record in read_metrics(tmp_path / "vocoder")]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def other_codes(folder: Path, info: CodeShardInfo) -> Path:
    _, records = read_code_shard(material(folder)[1])
    path = folder / f"{info.frame_rate_hz}-{info.tokenizer_fingerprint}.codes"
    write_code_shard(path, records, info)
    return path


def test_codes_of_another_tokenizer_are_refused(speech, tmp_path):
    first = train_speech_decoder.main(flow_arguments(speech, tmp_path / "first"))
    info = CodeShardInfo(frame_rate_hz=12.5, num_codes=NUM_CODES, tokenizer_fingerprint="other")
    command = flow_arguments(speech, tmp_path / "second", "--init-from", str(first.export))
    command[command.index("--codes") + 1] = str(other_codes(speech, info))
    with pytest.raises(ConfigError, match="of other"):
        train_speech_decoder.main(command)


def test_bad_input(speech, tmp_path):
    with pytest.raises(ConfigError, match="--manifest"):
        train_speech_decoder.main(["decoder-smoke", "--save", str(tmp_path)])
    manifest, _ = material(speech)
    with pytest.raises(ConfigError, match="--codes"):
        train_speech_decoder.main(
            ["decoder-smoke", "--manifest", str(manifest), "--save", str(tmp_path)]
        )
    with pytest.raises(CheckpointError, match=r"config\.json"):
        train_speech_decoder.main(flow_arguments(speech, tmp_path, "--vocoder", str(tmp_path)))
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        train_speech_decoder.main(flow_arguments(speech, tmp_path, "--prefix-share", "2"))
    train_speech_decoder.main(flow_arguments(speech, tmp_path / "run"))
    shutil.rmtree(tmp_path / "run/export")
    with pytest.raises(ConfigError, match="begun with"):
        train_speech_decoder.main(flow_arguments(speech, tmp_path / "run", "--seed", "5"))
    values = read_json(
        train_speech_decoder.main(flow_arguments(speech, tmp_path / "run")).export / "config.json"
    )
    write_json(tmp_path / "run/export/config.json", values | {"model_type": "none"})
    with pytest.raises(ConfigError, match="model_type"):
        SpeechDecoder.from_pretrained(tmp_path / "run/export")
