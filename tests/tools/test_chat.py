"""From dialogues to a conversation through the public tools: build, fine-tune, export, talk."""

import json

import numpy as np
import pytest
import soundfile

from megatron_speech.chat import engine
from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.errors import ConfigError
from megatron_speech.speech_tokenizer import tokenizer
from tests.chat.parts import EchoDecoder, ToneTokenizer, question
from tests.data.language_data import NUM_CODES
from tests.tools.pretraining import TINY, start, write_data
from tools import build_dialogues, chat, convert_checkpoint

FINGERPRINT = "codes-a"  # as of the datasets that the model is pre-trained on
INFO = CodeShardInfo(frame_rate_hz=12.5, num_codes=NUM_CODES, tokenizer_fingerprint=FINGERPRINT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pre-trained run, dialogues with recorded codes, and their datasets."""
    folder = tmp_path_factory.mktemp("chat")
    flags = write_data(folder)
    run([*TINY, "--save", str(folder / "lm"), "--train-iters", "4", *flags])
    dialogues = [[f"Say {n}", f"It is {n}."] for n in range(12)]
    roles = ("user", "assistant")
    lines = [
        {
            "id": f"d{n}",
            "messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)],
        }
        for n, turns in enumerate(dialogues)
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = [
        CodeRecord(id=f"d{n}/{turn:03d}", codes=np.arange(4) + n % 8)
        for n in range(len(dialogues))
        for turn in (0, 1)
    ]
    write_code_shard(folder / "codes" / "s.parquet", records, INFO)
    codes = str(folder / "codes")
    build_dialogues.main(
        f"--input {folder}/in.jsonl --vocab {folder}/lm/vocab --output-prefix {folder}/set "
        f"--modes direct streaming --user-codes {codes} --assistant-codes {codes}".split()
    )
    return folder


def run(command, output=None):
    process = start(command, output)
    process.join()
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def tuned(folder):
    """Fine-tuned from the pre-training run's own folder, and exported."""
    sets = [str(folder / f"set-{mode}") for mode in ("direct", "streaming")]
    shape = "--seq-length 64 --global-batch-size 2 --micro-batch-size 2 --no-tensorboard"
    command = f"sft-smoke --pretrained-checkpoint {folder}/lm --save {folder}/sft {shape}"
    run(
        [*command.split(), "--train-iters", "4", "--data-path", *sets],
        folder / "sft.log",
    )
    convert_checkpoint.main(
        ["megatron-to-hf", "--load", str(folder / "sft"), "--hf", str(folder / "hf")]
    )
    return folder / "hf"


def test_fine_tuning_starts_from_the_runs_own_checkpoint(folder, tuned):
    assert "starting from the weights in" in (folder / "sft.log").read_text()
    shapes = [json.loads((tuned / "config.json").read_text())[k] for k in ("hidden_size",)]
    assert shapes == [32]


@pytest.fixture
def parts(monkeypatch):
    class Tones(ToneTokenizer):
        fingerprint = FINGERPRINT

        @classmethod
        def from_pretrained(cls, path, device="cpu"):
            return cls()

    class Echo(EchoDecoder):
        fingerprint = FINGERPRINT

        @classmethod
        def from_pretrained(cls, path, device="cpu"):
            return cls()

    monkeypatch.setattr(tokenizer, "SpeechTokenizer", Tones, raising=False)
    monkeypatch.setattr(engine, "SpeechDecoder", Echo)


@pytest.mark.usefixtures("parts")
def test_a_conversation_in_files(folder, tuned, capsys):
    soundfile.write(folder / "hello.wav", question(3, 5, 7, 9), 16_000)
    flags = ["--model", str(tuned), "--speech-tokenizer", ".", "--decoder", "."]
    flags += ["--output-dir", str(folder / "talk"), "--mode", "streaming"]
    flags += ["--max-new-tokens", "40", "--context-tokens", "200"]
    talk = chat.main([*flags, "--ask", str(folder / "hello.wav"), "Say 3"])
    heard, first, written, _ = talk.session.history
    assert heard.codes.tolist() == [3, 5, 7, 9]
    assert written.text == "Say 3"
    sound, rate_hz = soundfile.read(folder / "talk" / "turn_000.wav", dtype="float32")
    assert rate_hz == 16_000
    assert len(sound) == len(first.codes) * 1280
    shown = capsys.readouterr().out
    assert "prefill" in shown
    assert "real-time factor" in shown


def test_speech_needs_ears(folder, tuned):
    soundfile.write(folder / "hello.wav", question(3, 5, 7, 9), 16_000)
    flags = ["--model", str(tuned), "--ask", str(folder / "hello.wav")]
    with pytest.raises(ConfigError, match="no speech tokenizer"):
        chat.main([*flags, "--max-new-tokens", "5", "--context-tokens", "100"])
