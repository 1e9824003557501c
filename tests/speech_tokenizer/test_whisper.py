"""A released Whisper in our code is that Whisper, and what starts from it starts there."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from megatron_speech.errors import CheckpointError, ConfigError
from megatron_speech.io.files import read_json, write_json
from megatron_speech.recipes.speech_tokenizer import RECIPES
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.features import batch_features, with_silence
from megatron_speech.speech_tokenizer.model import SpeechTokenizerModel
from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer
from megatron_speech.speech_tokenizer.whisper import Whisper, load_whisper, shaped_as_whisper
from tests.speech_tokenizer.conftest import noise
from tests.speech_tokenizer.small_whisper import save_small_whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_whisper(tmp_path_factory.mktemp("whisper"))


def clips() -> list[np.ndarray]:
    return [noise(9_000 + 7_001 * n, n) * (0.1 + 0.1 * n) for n in range(6)]


def theirs(folder, audio, **more) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-mels, encoder outputs and tokens of transformers."""
    extractor = WhisperFeatureExtractor(feature_size=80)
    mel = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        return mel, model.model.encoder(mel).last_hidden_state, model.generate(mel, **more)


@pytest.mark.parametrize("multilingual", [True, False])
def test_whisper_untouched_is_that_of_transformers(tmp_path, multilingual):
    folder = save_small_whisper(tmp_path, multilingual)
    whisper, audio = Whisper.from_pretrained(folder), clips()
    more = {"language": "fr", "task": "transcribe"} if multilingual else {}
    most = 40 - len(whisper.text.prompt("en"))  # a text ends where the positions do
    mel, hidden, tokens = theirs(folder, audio, max_new_tokens=most, **more)
    padded = [with_silence(clip, 30, 480_000) for clip in audio]
    ours, lengths = batch_features(padded, whisper.model.config, torch.device("cpu"))
    assert torch.equal(ours, mel)
    with torch.no_grad():
        encoded = whisper.model.encoder(ours, lengths).hidden
    assert (encoded - hidden).abs().max() <= 1e-4
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [text.strip() for text in tokenizer.decode_batch(tokens.tolist())]
    spoken = "fr" if multilingual else "en"
    assert whisper.transcribe(audio, [spoken] * len(audio)) == expected
    assert len(set(expected)) > 1
    assert all(re.fullmatch("[a-w ]+", text) for text in expected)


def test_long_recordings_are_read_window_by_window(folder):
    whisper = Whisper.from_pretrained(folder)
    clip = noise(500_000)
    parts = whisper.transcribe([clip[:480_000], clip[480_000:]])
    assert whisper.transcribe([clip]) == [" ".join(parts).strip()]


def untouched(**changes) -> SpeechTokenizerConfig:
    settings = {"pooling_kernel_size": 1, "quantize_vocab_size": None}
    settings |= {"quantize_causal_block_size": None, "encoder_causal_convolution": False}
    return SpeechTokenizerConfig(**settings | changes)


def test_positions_above_the_quantizer_decide_whether_the_start_is_whisper(folder):
    _, hidden, _ = theirs(folder, clips())
    padded = [with_silence(clip, 30, 480_000) for clip in clips()]
    distance = {}
    for positions in ("zero", "sinusoids"):
        model = SpeechTokenizerModel(shaped_as_whisper(untouched(), folder)).eval()
        load_whisper(model, folder, positions)
        mel, lengths = batch_features(padded, model.config, torch.device("cpu"))
        with torch.no_grad():
            distance[positions] = (model.encoder(mel, lengths).hidden - hidden).abs().max().item()
        second = model.encoder.embed_positions2
        assert second.weight.requires_grad
        rows = model.encoder.embed_positions.weight
        expected = torch.zeros_like(rows) if positions == "zero" else rows
        assert torch.equal(second.weight, expected)
    assert distance["zero"] <= 1e-4
    assert distance["sinusoids"] > 0.1


def test_either_start_is_saved_and_read_bit_for_bit(folder, tmp_path):
    recipe = RECIPES["tokenizer-from-whisper-12.5hz"]()
    for positions in ("zero", "sinusoids"):
        model = SpeechTokenizerModel(shaped_as_whisper(recipe.model, folder))
        load_whisper(model, folder, positions)
        SpeechTokenizer(model).save_pretrained(tmp_path / positions)
        again = SpeechTokenizer.from_pretrained(tmp_path / positions).model.state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(again[name], value), name


@pytest.mark.parametrize("rate", ["50hz", "25hz", "12.5hz", "6.25hz"])
@pytest.mark.parametrize("family", ["from-whisper", "large-v3"])
def test_the_shape_is_the_folders(folder, rate, family):
    recipe = RECIPES[f"tokenizer-{family}-{rate}"]()
    config = shaped_as_whisper(recipe.model, folder)
    there = read_json(folder / "config.json")
    for name in ("d_model", "encoder_layers", "decoder_ffn_dim", "num_mel_bins", "vocab_size"):
        assert getattr(config, name) == there[name]
    assert (config.pooling_position, config.quantize_position) == (2, 2)
    assert config.frame_rate_hz == float(rate[:-2])
    elsewhere = SpeechTokenizerConfig(pooling_position=1, quantize_position=3)
    found = shaped_as_whisper(elsewhere, folder)
    assert (found.pooling_position, found.quantize_position) == (1, 3)


def test_another_shape_than_the_folders_is_refused(folder):
    with pytest.raises(ConfigError, match=r"--d-model 192 \(it: 32\).*from-whisper"):
        shaped_as_whisper(RECIPES["tokenizer-debug"]().model, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "config.json.* expected the folder of a Whisper"),
        ({"d_model": None}, "'d_model' is 'None'.* expected the folder of a Whisper"),
        ({"encoder_layers": True}, "'encoder_layers' is 'True'"),
        ({"activation_function": "relu"}, "activation_function 'relu'"),
        ({"scale_embedding": True}, "scale_embedding True"),
    ],
)
def test_what_is_no_whisper_is_told_from_its_config(folder, tmp_path, change, message):
    if change is not None:
        write_json(tmp_path / "config.json", read_json(folder / "config.json") | change)
    with pytest.raises(CheckpointError, match=message):
        Whisper.from_pretrained(tmp_path)


def test_weights_of_another_whisper_are_told_in_one_line(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.encoder.conv1.weight"] = torch.zeros(7, 80, 3)
    del tensors["model.encoder.layers.0.fc1.bias"]
    tensors["model.other"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckpointError) as error:
        Whisper.from_pretrained(tmp_path)
    text = str(error.value)
    assert "1 tensors are missing, first model.encoder.layers.0.fc1.bias" in text
    assert "1 tensors are unknown, first model.other" in text
    assert "1 tensors have another shape, first model.encoder.conv1.weight" in text
    assert "\n" not in text
