"""The chat server's command: what it says when something is missing."""

import pytest

from megatron_speech.errors import ConfigError
from tools import serve_chat


def flags(**paths):
    return [part for name, path in paths.items() for part in (f"--{name}", str(path))]


def test_missing_folders_are_named_with_the_commands_that_make_them(tmp_path):
    (tmp_path / "model").mkdir()
    named = flags(model=tmp_path / "model", **{"speech-tokenizer": tmp_path / "ears"})
    with pytest.raises(ConfigError, match="voice-demo") as error:
        serve_chat.main([*named, "--decoder", str(tmp_path / "mouth")])
    assert "--speech-tokenizer" in str(error.value)
    assert "--decoder" in str(error.value)
    assert "--model" not in str(error.value)


def test_settings_are_checked_before_anything_is_loaded(tmp_path, capsys):
    with pytest.raises((SystemExit, ConfigError)):
        serve_chat.main(
            [*flags(model=tmp_path, **{"speech-tokenizer": tmp_path}), "--max-sessions", "0"]
        )
