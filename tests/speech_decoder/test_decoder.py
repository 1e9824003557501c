import numpy as np
import pytest
import torch

from megatron_speech.errors import CheckpointError, ConfigError, VocabularyError
from megatron_speech.io.files import read_json, write_json
from megatron_speech.speech_decoder import SpeechDecoder, SpeechDecoderConfig
from megatron_speech.speech_decoder.config import FlowSamplingConfig
from megatron_speech.speech_decoder.vocoder import HifiganVocoder, load_vocoder
from tests.speech_decoder.tiny_decoder import (
    FINGERPRINT,
    NUM_CODES,
    random_codes,
    tiny_decoder,
    tiny_vocoder,
)


@pytest.mark.parametrize("vocoder", ["istft", "hifigan"])
def test_a_saved_decoder_is_the_same(tmp_path, vocoder):
    decoder, codes = tiny_decoder(vocoder, speakers=("ann",)), random_codes(23)
    decoder.save_pretrained(tmp_path / "a")
    again = SpeechDecoder.from_pretrained(tmp_path / "a")
    assert again.config == decoder.config
    assert again.sample_rate_hz == 22_050
    np.testing.assert_array_equal(again.decode(codes, 3, "ann"), decoder.decode(codes, 3, "ann"))
    assert isinstance(again.config, SpeechDecoderConfig)
    again.save_pretrained(tmp_path / "b")
    for name in ("model.safetensors", "config.json", "vocoder/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_seeds_and_sampling():
    decoder, codes = tiny_decoder(), random_codes(12)
    one = decoder.decode(codes, seed=1)
    np.testing.assert_array_equal(one, decoder.decode(codes, seed=1))
    assert np.abs(one - decoder.decode(codes, seed=2)).max() > 1e-3
    decoder.sample_by(FlowSamplingConfig(euler_steps=1))
    assert np.abs(one - decoder.decode(codes, seed=1)).max() > 1e-3


@pytest.mark.parametrize(
    "codes",
    [np.array([0, NUM_CODES]), np.array([-1]), np.array([0.5]), np.zeros((2, 2), np.int64)],
)
def test_what_are_no_codes_is_refused(codes):
    decoder = tiny_decoder()
    with pytest.raises(VocabularyError, match="codes"):
        decoder.decode(codes)
    with pytest.raises(VocabularyError, match="codes"):
        decoder.stream().feed(codes)


def test_another_speech_tokenizer_is_refused():
    decoder = tiny_decoder()
    decoder.check_codes_of(12.5, NUM_CODES, FINGERPRINT)
    for facts in ((25.0, NUM_CODES, FINGERPRINT), (12.5, 32, FINGERPRINT), (12.5, NUM_CODES, "x")):
        with pytest.raises(ConfigError, match="was trained on"):
            decoder.check_codes_of(*facts)


def test_unknown_voices_are_refused():
    with pytest.raises(ConfigError, match="knows no voice 'eve'; it knows none"):
        tiny_decoder().decode(random_codes(3), speaker="eve")
    with pytest.raises(ConfigError, match="it knows ann, bob"):
        tiny_decoder(speakers=("ann", "bob")).stream(speaker="eve")


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        SpeechDecoder.from_pretrained(tmp_path)
    tiny_decoder().save_pretrained(tmp_path)
    values = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", values | {"flow_dim": 64})
    with pytest.raises(CheckpointError, match="do not fit"):
        SpeechDecoder.from_pretrained(tmp_path)
    write_json(tmp_path / "config.json", values)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered"):
        SpeechDecoder.from_pretrained(tmp_path)


def test_a_vocoder_is_needed_and_may_be_another(tmp_path):
    decoder = tiny_decoder()
    decoder.save_pretrained(tmp_path / "decoder")
    other = tmp_path / "other"
    tiny_vocoder("hifigan").save_pretrained(other)
    changed = SpeechDecoder.from_pretrained(tmp_path / "decoder", vocoder=other)
    assert isinstance(changed.vocoder, HifiganVocoder)
    (tmp_path / "decoder/vocoder").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="has no vocoder inside"):
        SpeechDecoder.from_pretrained(tmp_path / "decoder")


def test_vocoders_for_other_audio_are_refused(tmp_path):
    tiny_vocoder("hifigan").save_pretrained(tmp_path)
    values = read_json(tmp_path / "config.json")
    for name, value in (("sampling_rate", 16_000), ("upsample_rates", [4, 4, 4, 4, 2])):
        write_json(tmp_path / "config.json", values | {name: value})
        with pytest.raises(ConfigError, match="expected 22050 Hz, 80 bands, 256 samples"):
            load_vocoder(tmp_path)
    write_json(tmp_path / "config.json", values | {"model_type": "bigvgan"})
    with pytest.raises(CheckpointError, match="bigvgan"):
        load_vocoder(tmp_path)


def test_hifigan_is_transformers_own(tmp_path):
    from transformers import SpeechT5HifiGan

    vocoder = tiny_vocoder("hifigan")
    vocoder.save_pretrained(tmp_path)
    mel = torch.randn(1, 80, 20)
    theirs = SpeechT5HifiGan.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(vocoder(mel)[0], theirs(mel[0].T))
