import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch.distributed as dist

from megatron_speech.data.manifest import ManifestRow
from megatron_speech.errors import ConfigError
from megatron_speech.io.files import read_json, write_json
from megatron_speech.speech_tokenizer import dataset
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.dataset import AsrDataset, SpeechDataConfig
from megatron_speech.speech_tokenizer.text import AsrText
from tests.speech_tokenizer.small_whisper import save_small_whisper


def row(name: str, text: str, **changes) -> ManifestRow:
    fields = {"id": name, "path": Path(name), "text": text, "duration_s": 1.0}
    return ManifestRow(**fields | changes)


@pytest.mark.parametrize("words_only", [True, False])
def test_unusable_transcripts_are_set_aside(tiny_config, text_folder, words_only):
    """Byte-level BPE has up to three tokens for a Chinese character, none of them rare."""
    text, room = AsrText(text_folder, words_only), tiny_config.max_target_positions - 2
    rows = [
        row("fits", "the cat"),
        row("letters", "x" * 200),
        row("characters", "龘" * (room - 1)),
        row("fitting_characters", "龘" * 15),
        row("many_letters_few_tokens", "the cat sat on the mat " * 4),
        row("empty", ""),
        row("blank", " \n"),
        row("long", "the cat", duration_s=31.0),
    ]
    found = AsrDataset([rows], text, tiny_config, SpeechDataConfig())
    assert [item.id for item in found.rows] == [
        "fits",
        "fitting_characters",
        "many_letters_few_tokens",
    ]
    assert all(len(text.encode(item.text)) <= room for item in found.rows)
    assert [(item.id, item.reason) for item in found.rejected] == [
        ("letters", "text_too_long"),
        ("characters", "text_too_long"),
        ("empty", "no_text"),
        ("blank", "no_text"),
        ("long", "too_long"),
    ]


def read_as_rank(rank: int, folder: Path, text_folder: Path, config: SpeechTokenizerConfig) -> None:
    """Note which files this one of two ranks looks at, and what it takes the recordings for."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    opened: list[str] = []
    duration_s = dataset.duration_s
    dataset.duration_s = lambda path: opened.append(path.name) or duration_s(path)
    rows = [row(f"{n}", "the cat", path=folder / f"{n}.wav", duration_s=0.0) for n in range(7)]
    rows.insert(2, row("told", "the cat"))
    found = AsrDataset([rows], AsrText(text_folder), config, SpeechDataConfig())
    rejected = [(item.id, item.reason) for item in found.rejected]
    write_json(folder / f"{rank}.json", [opened, found.durations_s, rejected])
    dist.destroy_process_group()


def test_ranks_share_the_reading_of_lengths(tiny_config, text_folder, tmp_path):
    for n in range(6):
        soundfile.write(tmp_path / f"{n}.wav", np.zeros(1600 * (n + 1)), 16_000)
    (tmp_path / "6.wav").write_bytes(b"no audio")
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=read_as_rank, args=(rank, tmp_path, text_folder, tiny_config))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    opened, durations, rejected = zip(
        *(read_json(tmp_path / f"{rank}.json") for rank in range(2)), strict=True
    )
    assert sorted(opened[0]) == ["0.wav", "2.wav", "4.wav", "6.wav"]
    assert sorted(opened[1]) == ["1.wav", "3.wav", "5.wav"]
    expected = [0.1, 0.2, 1.0, 0.3, 0.4, 0.5, 0.6]
    assert durations[0] == durations[1] == pytest.approx(expected)
    assert rejected[0] == rejected[1] == [["6", "unreadable"]]


def test_silence_behind_a_recording_is_heard_up_to_the_window(tiny_config, text_folder, tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(16_000), 16_000)
    soundfile.write(tmp_path / "b.wav", 0.1 * np.ones(29 * 16_000), 16_000)
    rows = [row(n, "the cat", path=tmp_path / f"{n}.wav") for n in "ab"]
    lengths = {}
    for silence_s in (0.0, 2.0, 30.0):
        data = SpeechDataConfig(trailing_silence_s=silence_s)
        batch = AsrDataset([rows], AsrText(text_folder), tiny_config, data).batch([0, 1])
        lengths[silence_s] = batch.mel_lengths.tolist()
        if silence_s == 2:
            assert (batch.mel[0, :, 120:300] == batch.mel[0, 0, 200]).all()
            assert (batch.mel[0, :, :80] != batch.mel[0, 0, 200]).any()
    assert lengths == {0.0: [100, 2900], 2.0: [300, 3000], 30.0: [3000, 3000]}
    with pytest.raises(ConfigError, match="--trailing-silence-s is 31"):
        SpeechDataConfig(trailing_silence_s=31)


def test_languages_without_a_token_are_counted(tiny_config, tmp_path):
    text = AsrText(save_small_whisper(tmp_path))
    names = ("en-US", "de", "French", "", "de", "xx")
    rows = [row(str(n), "the cat", language=name) for n, name in enumerate(names)]
    found = AsrDataset([rows], text, tiny_config, SpeechDataConfig())
    assert found.unknown_languages() == {"de": 2, "xx": 1}
