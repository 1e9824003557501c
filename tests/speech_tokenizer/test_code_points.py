"""Where codes lie, and who takes it from a folder."""

import pytest
import torch

from megatron_speech.errors import ConfigError
from megatron_speech.speech_tokenizer.tokenizer import code_points
from tests.model.base_folders import write_base
from tools import convert_checkpoint


@pytest.mark.parametrize("changes", [{}, {"quantizer": "fsq", "fsq_levels": (4, 4, 4)}])
def test_tools_take_a_speech_tokenizer(changes, make_tokenizer, tmp_path):
    tokenizer = make_tokenizer(**changes)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_base(tmp_path / "base", "llama", True, vocab_size=257)
    flags = f"--hf {tmp_path}/base --save {tmp_path}/run --speech-tokenizer {tmp_path}/tokenizer"
    done = convert_checkpoint.main(["hf-to-megatron", *flags.split()])
    assert done.vocab.num_codes == tokenizer.num_codes
    assert done.vocab.speech_tokenizer == tokenizer.fingerprint


def test_points_of_a_quantizer_are_where_its_codes_are_chosen(make_tokenizer):
    for changes in ({}, {"quantize_code_dim": 4}, {"quantizer": "fsq", "fsq_levels": (4, 4, 4)}):
        quantizer = make_tokenizer(**changes).model.encoder.quantizer
        points = quantizer.points()
        assert points.shape[0] == quantizer.num_codes
        assert points.unique(dim=0).shape == points.shape
        if not changes:
            assert torch.equal(quantizer.codes_of(points), torch.arange(len(points)))


def test_a_model_without_codes_is_refused(make_tokenizer, tmp_path):
    make_tokenizer(quantize_vocab_size=None).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="without quantization"):
        code_points(tmp_path)
    assert code_points(None) is None
