"""Folders in the released layout, against a second implementation of the released forward pass."""

import json

import numpy as np
import pytest
import torch
from transformers import WhisperModel

from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.encoder import SpeechTokenizerEncoder
from megatron_speech.speech_tokenizer.lookup import released_codes as codes_by_released_rule
from tests.speech_tokenizer.conftest import noise
from tests.speech_tokenizer.released import (
    SMALL,
    encoder_only,
    make_released,
    released_codes,
    write_weights,
)

LENGTHS = (700, 16_000, 1281, 40_500, 99_999)
"""Samples. All but the last leave the 200 samples of padding that a frame may look into."""


def clips() -> list[np.ndarray]:
    return [noise(length, seed) for seed, length in enumerate(LENGTHS)]


def check(folder, made, audio=None, at_least: int = 15) -> SpeechTokenizer:
    """Our codes of the folder are those of the second implementation.

    Convolutions that look ahead see the padding of a batch: there, each clip is its own batch.
    """
    audio = clips() if audio is None else audio
    tensors, config = made["tensors"], made["config"]
    if config["encoder_causal_convolution"]:
        expected = released_codes(tensors, config, audio)
    else:
        expected = [released_codes(tensors, config, [clip])[0] for clip in audio]
    tokenizer = SpeechTokenizer.from_pretrained(folder)
    for ours, theirs in zip(tokenizer.encode(audio), expected, strict=True):
        either = np.where(ours == theirs[:, 1], theirs[:, 1], theirs[:, 0])
        np.testing.assert_array_equal(ours, either)
    together = np.concatenate(expected)
    assert np.mean(together[:, 0] != together[:, 1]) < 0.02
    assert len(set(together[:, 0].tolist())) >= at_least
    assert tokenizer.config.quantize_lookup == "released"
    return tokenizer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling_type": "max"},
        {"quantize_position": 3, "quantize_causal_block_size": 16},
        {"pooling_kernel_size": 8, "quantize_vocab_size": 48},
        {"pooling_kernel_size": None, "quantize_position": 3},
        {"pooling_kernel_size": 2, "quantize_causal_block_size": None},
        {"encoder_causal_convolution": False, "pooling_position": 1},
    ],
    ids=str,
)
def test_same_codes_as_the_released_forward_pass(tmp_path, changes):
    made = make_released(tmp_path, clips(), **changes)
    write_weights(tmp_path, made["tensors"])
    check(tmp_path, made)


def test_a_clip_of_whole_codes_and_one_of_more_than_a_window(tmp_path):
    made = make_released(tmp_path, clips(), d_model=24, quantize_causal_block_size=200)
    write_weights(tmp_path, made["tensors"])
    check(tmp_path, made, [noise(12_800, 7)], at_least=5)
    tokenizer = check(tmp_path, made, [noise(480_000 + 20_000, 8)])
    assert len(tokenizer.encode([noise(480_000 + 20_000, 8)])[0]) == 375 + 16


@pytest.mark.parametrize("prefix", ["model.encoder.", ""])
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("said", [True, False])
def test_encoder_only_files(tmp_path, prefix, files, said):
    made = make_released(tmp_path, clips(), quantize_encoder_only=said, quantize_position=3)
    write_weights(tmp_path, encoder_only(made["tensors"], 3, prefix), files)
    tokenizer = check(tmp_path, made)
    assert tokenizer.config.quantize_encoder_only
    with pytest.raises(ConfigError, match="cannot transcribe"):
        tokenizer.decode_text([np.array([1])])


def test_a_whole_model_read_as_encoder_only_is_the_same_tokenizer(tmp_path):
    made = make_released(tmp_path / "a", clips(), quantize_encoder_only=True)
    write_weights(tmp_path / "a", made["tensors"], files=2)
    part = check(tmp_path / "a", made)
    made = make_released(tmp_path / "b", clips())
    write_weights(tmp_path / "b", made["tensors"])
    whole = check(tmp_path / "b", made)
    assert part.fingerprint == whole.fingerprint
    assert len(part.model.encoder.layers) == 2
    assert len(whole.model.encoder.layers) == 4


def test_saved_again_it_is_the_same_tokenizer(tmp_path):
    made = make_released(tmp_path / "theirs", clips())
    write_weights(tmp_path / "theirs", made["tensors"], files=2)
    tokenizer = check(tmp_path / "theirs", made)
    tokenizer.save_pretrained(tmp_path / "ours", max_shard_bytes=100_000)
    shards = sorted((tmp_path / "ours").glob("model-*.safetensors"))
    assert len(shards) > 1
    again = SpeechTokenizer.from_pretrained(tmp_path / "ours")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.config == tokenizer.config
    again.save_pretrained(tmp_path / "ours")  # one file takes the place of the shards
    assert [p.name for p in (tmp_path / "ours").glob("model*")] == ["model.safetensors"]
    once_more = SpeechTokenizer.from_pretrained(tmp_path / "ours")
    for a, b in zip(tokenizer.encode(clips()), once_more.encode(clips()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_codebook_trained_by_gradient_has_no_statistics(tmp_path):
    made = make_released(tmp_path, clips(), quantize_ema_decay=None)
    kept = {name: v for name, v in made["tensors"].items() if "ema_" not in name}
    write_weights(tmp_path, kept)
    check(tmp_path, made)


def test_half_precision_files_are_read_as_float32(tmp_path):
    made = make_released(tmp_path, clips())
    made["tensors"] = {name: value.bfloat16() for name, value in made["tensors"].items()}
    write_weights(tmp_path, made["tensors"])
    made["tensors"] = {name: value.float() for name, value in made["tensors"].items()}
    assert check(tmp_path, made).dtype == torch.float32


def test_encoder_in_bfloat16_keeps_most_codes_and_its_name(tmp_path):
    made = make_released(tmp_path, clips(), init_std=0.05)
    write_weights(tmp_path, made["tensors"])
    exact = check(tmp_path, made)
    rounded = SpeechTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    pairs = zip(exact.encode(clips()), rounded.encode(clips()), strict=True)
    equal = np.concatenate([a == b for a, b in pairs])
    assert equal.mean() > 0.8
    assert rounded.fingerprint == exact.fingerprint
    with pytest.raises(ConfigError, match="float32"):
        rounded.save_pretrained(tmp_path / "rounded")


def test_without_pool_and_mask_it_is_whisper(tmp_path):
    """The encoder is transformers' own where every change to it is off."""
    shape = {name: SMALL[name] for name in SMALL if name not in ("pad_token_id", "bos_token_id")}
    config = SpeechTokenizerConfig(
        **shape | {"max_source_positions": 100},
        pooling_kernel_size=1,
        pooling_position=0,
        quantize_position=4,
        quantize_vocab_size=None,
        quantize_causal_block_size=None,
        encoder_causal_convolution=False,
    )
    torch.manual_seed(0)
    encoder = SpeechTokenizerEncoder(config).eval()
    whisper = WhisperModel(encoder.config).encoder.eval()
    ours = {name: value for name, value in encoder.state_dict().items() if "positions2" not in name}
    whisper.load_state_dict(ours)
    mel = torch.randn(2, 128, 200)
    with torch.no_grad():
        expected = whisper(mel).last_hidden_state
        found = encoder.layer_norm(encoder.lower(mel, torch.tensor([200, 200])).hidden)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_released_rule_rounds_and_takes_the_first():
    codebook = torch.tensor([[256.0, 1.0], [256.0, 0.0], [0.0, 0.0]])
    x = torch.tensor([[256.0, 0.0], [0.1, 0.0]])
    assert codes_by_released_rule(x, codebook).tolist() == [1, 2]
    # In bfloat16 256^2 + 1 is 256^2: the first two codes are equal, and the first is taken.
    assert codes_by_released_rule(x.bfloat16(), codebook).tolist() == [0, 2]
    assert codes_by_released_rule(x[:0], codebook).shape == (0,)


def test_tampered_shards_and_indexes_are_refused(tmp_path):
    made = make_released(tmp_path, clips())
    write_weights(tmp_path, made["tensors"], files=2)
    index_path = tmp_path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    names = sorted(set(index["weight_map"].values()))

    def refused(words: str, content: str) -> None:
        index_path.write_text(content)
        with pytest.raises(CheckpointError, match=words):
            SpeechTokenizer.from_pretrained(tmp_path)

    refused("is damaged", "{not json")
    refused("is damaged.*weight_map", '{"metadata": {}}')
    refused("names 1; expected names of files", '{"weight_map": {"a": 1}}')
    moved = {**index["weight_map"], "model.encoder.conv1.weight": "../other.safetensors"}
    refused("expected names of files beside it", json.dumps({"weight_map": moved}))
    first = min(index["weight_map"])
    swapped = {**index["weight_map"], first: names[1]}
    refused(f"promises {first}", json.dumps({"weight_map": swapped}))
    whole = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(whole[:-100])
    refused("damaged", json.dumps(index))
    (tmp_path / names[1]).unlink()
    refused("lacks 1 of the 2 shards", json.dumps(index))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantize_position": 1}, "must not decrease"),
        ({"quantize_position": 9}, "must not decrease"),
        ({"d_model": "48"}, "d_model = '48'; expected int"),
        ({"pooling_type": "median"}, "expected avg or max"),
        ({"quantize_causal_block_size": 0}, "positive multiple"),
        ({"activation_function": "relu"}, "gelu"),
        ({"encoder_causal_convolution": 1}, "expected bool"),
    ],
)
def test_tampered_configs_are_refused(tmp_path, changes, words):
    made = make_released(tmp_path, clips()[:2], quantize_vocab_size=8)
    write_weights(tmp_path, made["tensors"])
    (tmp_path / "config.json").write_text(json.dumps(made["config"] | changes))
    with pytest.raises(ConfigError, match=words):
        SpeechTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(DataError, match="list instead of values by name"):
        SpeechTokenizer.from_pretrained(tmp_path)


def test_tensors_the_config_does_not_describe_are_refused(tmp_path):
    made = make_released(tmp_path, clips()[:2], quantize_vocab_size=8)
    tensors = made["tensors"]
    write_weights(tmp_path, {**tensors, "model.encoder.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no place for.*extra"):
        SpeechTokenizer.from_pretrained(tmp_path)
    half = {n: v for n, v in tensors.items() if "encoder.layers.3." not in n}
    write_weights(tmp_path, half)
    with pytest.raises(CheckpointError, match=r"missing.*layers\.3"):
        SpeechTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(made["config"] | {"d_model": 96}))
    write_weights(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="do not fit"):
        SpeechTokenizer.from_pretrained(tmp_path)
