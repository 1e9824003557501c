"""Weights in several files, written over older ones and killed at every instant."""

import os

import pytest
import torch

from megatron_speech.errors import CheckpointError
from megatron_speech.speech_tokenizer.weights import read_tensors, write_tensors

MAX_BYTES = 500


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full((10, 10), value) for name in "abc"}


class Killed(BaseException):
    """Nobody catches it."""


def values(folder) -> set[float]:
    return {float(number) for tensor in read_tensors(folder).values() for number in tensor.unique()}


@pytest.mark.parametrize("after", range(5))
def test_a_killed_save_over_an_older_one_is_no_mixture(tmp_path, monkeypatch, after):
    write_tensors(tmp_path, tensors(1.0), MAX_BYTES)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 4
    replace, done = os.replace, []

    def killed(source, target):
        if len(done) == after:
            raise Killed
        done.append(target)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        if after < len(names):
            with pytest.raises(Killed):
                write_tensors(tmp_path, tensors(2.0), MAX_BYTES)
        else:
            write_tensors(tmp_path, tensors(2.0), MAX_BYTES)
    if 0 < after < len(names):
        with pytest.raises(CheckpointError, match="saving was interrupted"):
            read_tensors(tmp_path)
        write_tensors(tmp_path, tensors(2.0), MAX_BYTES)
    assert values(tmp_path) == {1.0 if after == 0 else 2.0}


def test_shards_of_others_have_no_digests(tmp_path):
    write_tensors(tmp_path, tensors(3.0), MAX_BYTES)
    index = tmp_path / "model.safetensors.index.json"
    text = index.read_text()
    start = text.index('"metadata"')
    index.write_text(text[:start] + text[text.index('"weight_map"') :])
    assert values(tmp_path) == {3.0}
