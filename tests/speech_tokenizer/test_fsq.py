from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.speech_tokenizer import SpeechTokenizer
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.fsq import FiniteScalarQuantizer

FSQ = {"quantizer": "fsq", "fsq_levels": (4, 3, 5)}


def make(config, **changes) -> FiniteScalarQuantizer:
    torch.manual_seed(0)
    return FiniteScalarQuantizer(replace(config, **FSQ | changes))


def test_every_code_is_a_point_of_the_grid_and_leads_back_to_itself(tiny_config):
    quantizer = make(tiny_config)
    assert quantizer.num_codes == quantizer.config.quantize_vocab_size == 60
    codes = torch.arange(60)
    # The identity on the first dimensions: what lookup gives is the grid, slightly below its edge.
    with torch.no_grad():
        for layer in (quantizer.project_in, quantizer.project_out):
            layer.bias.zero_()
            layer.weight.copy_(torch.eye(*layer.weight.shape))
    grid = quantizer.lookup(codes)[:, :3]
    assert len(grid.unique(dim=0)) == 60
    for column, levels in enumerate((4, 3, 5)):
        torch.testing.assert_close(grid[:, column].unique(), torch.linspace(-1, 1, levels))
    assert grid[1, 0] > grid[0, 0]  # the first dimension counts least
    vectors = torch.zeros(60, 32)
    vectors[:, :3] = (0.99 * grid).atanh()
    assert torch.equal(quantizer.codes_of(vectors), codes)


def test_gradient_goes_through_the_rounding_and_padding_has_none(tiny_config):
    quantizer = make(tiny_config)
    hidden = torch.randn(2, 5, 32, requires_grad=True)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 3:] = False
    result = quantizer(hidden, valid)
    torch.testing.assert_close(result.vectors[valid], quantizer.lookup(result.codes[valid]))
    assert torch.equal(result.codes[valid], quantizer.codes_of(hidden[valid]))
    assert result.codes[1, 3:].tolist() == [0, 0]
    assert result.commitment_loss == 0
    result.vectors[valid].sum().backward()
    slope = 1 - quantizer.project_in(hidden).tanh().square()
    expected = (quantizer.project_out.weight.sum(dim=0) * slope) @ quantizer.project_in.weight
    torch.testing.assert_close(hidden.grad[valid], expected[valid])
    assert hidden.grad[~valid].abs().max() == 0


def test_a_start_from_real_vectors_uses_all_codes_and_keeps_the_vectors(tiny_config):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(4000, 3, generator=generator) @ torch.randn(3, 32, generator=generator)
    vectors = vectors + 5 + 0.01 * torch.randn(4000, 32, generator=generator)

    def error(quantizer: FiniteScalarQuantizer) -> float:
        back = quantizer.lookup(quantizer.codes_of(vectors))
        return ((back - vectors).square().mean() / vectors.var(dim=0).mean()).item()

    quantizer = make(tiny_config)
    before = error(quantizer)
    quantizer.initialise(vectors)
    assert error(quantizer) < 0.2 < before
    valid = torch.ones(1, 4000, dtype=torch.bool)
    quantizer.train()(vectors[None], valid)
    metrics = quantizer.update(1)
    assert metrics["codebook usage"] == 1.0
    assert metrics["codebook perplexity"] > 45
    with pytest.raises(ConfigError, match="--kmeans-vectors"):
        quantizer.initialise(vectors[:3])


def test_vectors_that_are_not_finite_do_no_harm(tiny_config):
    quantizer = make(tiny_config).train()
    hidden = torch.full((1, 3, 32), float("nan"))
    assert quantizer(hidden, torch.ones(1, 3, dtype=torch.bool)).vectors.isnan().all()
    assert np.isfinite(quantizer.update(1)["codebook perplexity"])
    with pytest.raises(DataError, match="NaN"):
        quantizer.codes_of(hidden[0])


def test_tokenizer_round_trip_stream_and_text(make_tokenizer, make_noise, tmp_path):
    tokenizer = make_tokenizer(**FSQ)
    clips = [make_noise(n, n) for n in (900, 33333, 70000)]
    codes = tokenizer.encode(clips)
    assert len(set(np.concatenate(codes).tolist())) > 5
    assert max(c.max() for c in codes) < tokenizer.num_codes == 60
    stream = tokenizer.stream()
    parts = [stream.feed(chunk) for chunk in np.array_split(clips[2], 9)]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.finish()]), codes[2])
    tokenizer.save_pretrained(tmp_path)
    again = SpeechTokenizer.from_pretrained(tmp_path)
    for one, two in zip(codes, again.encode(clips), strict=True):
        np.testing.assert_array_equal(one, two)
    assert again.decode_text(codes) == tokenizer.decode_text(codes)
    assert again.fingerprint == tokenizer.fingerprint
    rounded = SpeechTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert rounded.model.encoder.quantizer.project_in.weight.dtype == torch.float32
    assert len(rounded.encode(clips)[2]) == len(codes[2])


def test_fingerprint_follows_levels_and_the_way_in(make_tokenizer):
    tokenizer = make_tokenizer(**FSQ)
    assert tokenizer.fingerprint != make_tokenizer().fingerprint
    assert tokenizer.fingerprint != make_tokenizer(**FSQ | {"fsq_levels": (3, 4, 5)}).fingerprint
    changed = make_tokenizer(**FSQ)
    changed.model.encoder.quantizer.project_in.weight.data[0, 0] += 1e-3
    assert tokenizer.fingerprint != changed.fingerprint
    same = make_tokenizer(**FSQ)
    same.model.encoder.quantizer.project_out.weight.data[0, 0] += 1e-3
    assert tokenizer.fingerprint == same.fingerprint


def test_settings():
    config = SpeechTokenizerConfig(**FSQ)
    values = config.to_dict()
    assert SpeechTokenizerConfig.from_dict(values) == config
    assert "quantizer" not in SpeechTokenizerConfig().to_dict()  # the released layout as it is
    with pytest.raises(ConfigError, match="contradicts itself"):
        SpeechTokenizerConfig.from_dict(values | {"quantize_vocab_size": 61})
    with pytest.raises(ConfigError, match="whole numbers"):
        SpeechTokenizerConfig.from_dict(values | {"fsq_levels": [4, "x"]})
    with pytest.raises(ConfigError, match="--fsq-levels"):
        SpeechTokenizerConfig(quantizer="fsq", fsq_levels=(4, 1))
    with pytest.raises(ConfigError, match="quantizer"):
        SpeechTokenizerConfig.from_dict(values | {"quantizer": "rvq"})
