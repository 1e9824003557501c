from pathlib import Path

import pytest

from megatron_speech.data.manifest import ManifestRow
from megatron_speech.speech_tokenizer.dataset import AsrDataset, SpeechDataConfig
from megatron_speech.speech_tokenizer.text import AsrText


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
