"""Files of ours that are damaged, or cannot be written: the file is named, and what is wrong."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_speech.errors import DataError
from megatron_speech.io import files
from megatron_speech.speech_decoder.vocoder import HifiganConfig, HifiganVocoder, load_vocoder
from megatron_speech.speech_tokenizer.weights import write_tensors

NO_JSON = {
    "empty": b"",
    "cut short": b'{"num_codes": 12, "spec',
    "zeros": bytes(64),
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "too deep": b"[" * 200_000,
    "a huge number": b"9" * 10_000,
}


@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON)
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"facts\.json is damaged: .*make it again"):
        files.read_json(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[1]", "list instead of values by name"),
        ("null", "NoneType instead of values by name"),
        ('{"rows": 1}', "it lacks 'name'"),
        ('{"rows": "1", "name": "a"}', "'rows' is '1'"),
        ('{"rows": true, "name": "a"}', "'rows' is 'True'"),
        ('{"rows": 1, "name": null}', "'name' is 'None'"),
    ],
)
@pytest.mark.parametrize("read", [files.read_json_object, files.read_yaml_object])
def test_values_that_are_needed_are_there(tmp_path, read, content, what):
    path = tmp_path / "facts"
    path.write_text(content)
    with pytest.raises(DataError, match=what):
        read(path, rows=int, name=str)
    path.write_text('{"rows": 1, "name": "a", "more": []}')
    assert read(path, rows=int, name=str) == {"rows": 1, "name": "a", "more": []}


@pytest.mark.parametrize("content", [b"a: [1, 2", b"\xff", b"a: b: c", b"\x00", b"- &a [*a, *b]"])
def test_damaged_yaml_is_named(tmp_path, content):
    path = tmp_path / "run_config.yaml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"run_config\.yaml is damaged"):
        files.read_yaml_object(path)


def test_what_cannot_be_written_is_named_by_its_own_name(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.json", tmp_path / ("long" * 60)):
        with pytest.raises(OSError, match=r"File\b|Not a dir|too long") as caught:
            files.write_json(path, {})
        assert str(caught.value.filename) in (str(path), str(path.parent)), caught.value
    with (
        pytest.raises(OSError, match="Input/output") as caught,
        files.atomic_path(tmp_path / "a.json"),
    ):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.__notes__ == [f"while {tmp_path / 'a.json'} was written"]


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        files.write_json(tmp_path / "a.json", {})
    assert caught.value.filename == str(tmp_path / "a.json")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_others_may_read_what_the_umask_lets_them(tmp_path, umask):
    before = os.umask(umask)
    try:
        for path, write in WRITERS.items():
            write(tmp_path / path)
        with open(tmp_path / "plain", "w"):
            pass
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert len(modes) > len(WRITERS)
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)


def _safetensors_itself(path: Path) -> None:
    with files.atomic_path(path) as temporary:
        save_file({"a": torch.zeros(2)}, temporary)
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600, "nothing is left to mend"


def _hifigan(folder: Path) -> None:
    config = HifiganConfig(upsample_initial_channel=16, resblock_kernel_sizes=(3,))
    made = HifiganVocoder.new(config).eval()
    made.save_pretrained(folder)
    again = load_vocoder(folder)
    mel = torch.randn(1, 80, 5)
    assert torch.equal(again(mel), made(mel))


WRITERS = {
    "text": lambda path: files.write_text(path, "a"),
    "safetensors": _safetensors_itself,
    "tensors": lambda path: write_tensors(path, {"a": torch.zeros(2)}, None),
    "shards": lambda path: write_tensors(path, {n: torch.zeros(64) for n in "abc"}, 300),
    "hifigan": _hifigan,
}
