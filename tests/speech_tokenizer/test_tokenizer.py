import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megatron_speech.errors import AudioError, CheckpointError, ConfigError, VocabularyError
from megatron_speech.speech_tokenizer import SpeechTokenizer


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer()


@pytest.fixture
def clips(make_noise):
    return [make_noise(n, seed) for seed, n in enumerate((900, 16000, 33333, 70000, 1280, 24001))]


def test_codes_do_not_depend_on_batch_mates(tokenizer, clips):
    alone = [tokenizer.encode([clip])[0] for clip in clips]
    together = tokenizer.encode(clips)
    reverse = tokenizer.encode(clips[::-1])[::-1]
    assert [len(codes) for codes in alone] == [-(-len(clip) // 1280) for clip in clips]
    assert len({code for codes in alone for code in codes.tolist()}) > 5
    for one, two, three in zip(alone, together, reverse, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
        assert one.dtype == np.int64


def test_long_audio_is_cut_into_windows(make_tokenizer, make_noise):
    tokenizer = make_tokenizer(max_source_positions=100)  # windows of 2 s
    audio = make_noise(16000 * 5)
    parts = [audio[:32000], audio[32000:64000], audio[64000:]]
    whole = tokenizer.encode([audio])[0]
    np.testing.assert_array_equal(whole, np.concatenate(tokenizer.encode(parts)))
    assert tokenizer.decode_text([whole])[0].startswith(tokenizer.decode_text([whole[:25]])[0])


def test_save_and_load_give_the_same_codes(tokenizer, clips, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = SpeechTokenizer.from_pretrained(tmp_path)
    codes = tokenizer.encode(clips)
    for one, two in zip(codes, again.encode(clips), strict=True):
        np.testing.assert_array_equal(one, two)
    assert again.decode_text(codes) == tokenizer.decode_text(codes)
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.frame_rate_hz, again.num_codes) == (12.5, 64)


def test_the_same_tokenizer_is_saved_to_the_same_bytes(tokenizer, tmp_path):
    written = set()
    for number in range(6):  # safetensors orders its metadata by chance
        tokenizer.save_pretrained(tmp_path / str(number))
        written.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0/model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_released_names_and_encoder_only_files(make_tokenizer, clips, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "full")
    tensors = load_file(tmp_path / "full/model.safetensors")
    names = (
        "conv1.weight conv2.bias embed_positions.weight layers.0.self_attn.k_proj.weight "
        "layers.3.final_layer_norm.bias layers.1.fc1.weight layer_norm.weight codebook.weight "
        "embed_positions2.weight ema_count ema_weight"
    )
    assert {f"model.encoder.{name}" for name in names.split()} <= set(tensors)
    assert "model.encoder.layers.0.self_attn.k_proj.bias" not in tensors
    assert "model.decoder.layers.0.encoder_attn.q_proj.weight" in tensors

    kept = {
        name.removeprefix("model.encoder."): value
        for name, value in tensors.items()
        if name.startswith("model.encoder.")
        and not name.startswith(("model.encoder.layers.2", "model.encoder.layers.3"))
    }
    kept = {name: value for name, value in kept.items() if not name.startswith("layer_norm")}
    (tmp_path / "small").mkdir()
    save_file(kept, tmp_path / "small/model.safetensors")
    config = json.loads((tmp_path / "full/config.json").read_text())
    config["quantize_encoder_only"] = True
    (tmp_path / "small/config.json").write_text(json.dumps(config))
    small = SpeechTokenizer.from_pretrained(tmp_path / "small")
    for one, two in zip(tokenizer.encode(clips), small.encode(clips), strict=True):
        np.testing.assert_array_equal(one, two)
    assert small.fingerprint == tokenizer.fingerprint
    with pytest.raises(ConfigError, match="cannot transcribe"):
        small.decode_text([np.array([1])])


def test_fingerprint_follows_weights_and_settings(make_tokenizer):
    tokenizer, other = make_tokenizer(), make_tokenizer()
    assert tokenizer.fingerprint == other.fingerprint
    changed = make_tokenizer()
    changed.model.encoder.quantizer.codebook.weight.data[0, 0] += 1e-3
    assert changed.fingerprint != tokenizer.fingerprint
    assert make_tokenizer(quantize_causal_block_size=32).fingerprint != tokenizer.fingerprint
    upper = make_tokenizer()
    upper.model.encoder.layers[3].fc1.weight.data += 1
    assert upper.fingerprint == tokenizer.fingerprint


def test_text_by_ctc(make_tokenizer, clips):
    tokenizer = make_tokenizer(ctc_head=True, asr_decoding="ctc")
    head = tokenizer.model.ctc_head
    head.weight.data.zero_()
    head.bias.data.zero_()
    head.bias.data[tokenizer.text.encode("cat")[0]] = 1.0
    first = tokenizer.text.decode(tokenizer.text.encode("cat")[:1])
    assert tokenizer.decode_text(tokenizer.encode(clips)) == [first] * len(clips)


def test_text_does_not_depend_on_batch_mates(tokenizer, clips):
    codes = tokenizer.encode(clips)
    alone = [tokenizer.decode_text([one])[0] for one in codes]
    assert tokenizer.decode_text(codes) == alone
    assert tokenizer.decode_text([]) == []
    assert tokenizer.decode_text([np.zeros(0, np.int64)]) == [""]


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros((100, 2), np.float32), "mono"),
        (np.zeros(5000, np.int16), "float"),
        (np.full(5000, np.nan, np.float32), "NaN"),
        (np.full(5000, -np.inf), "infinite"),
        (np.full(5000, 1e300), "32768"),
        (np.full(5000, 12_345.0, np.float32), "32768"),
        (np.zeros(5000, np.complex64), "float"),
        (["text"], "float"),
        (np.float32(0.5), "mono"),
    ],
)
def test_unusable_audio_is_refused(tokenizer, clip, words):
    with pytest.raises(AudioError, match=words):
        tokenizer.encode([np.zeros(2000, np.float32), clip])


def test_one_clip_without_a_list_is_refused(tokenizer, make_noise):
    with pytest.raises(AudioError, match="put it into a list"):
        tokenizer.encode(make_noise(5000))
    assert tokenizer.encode([]) == []


def test_float64_and_strided_audio_give_the_codes_of_float32(tokenizer, make_noise):
    audio = make_noise(20_000)
    wide = np.stack([audio, audio], axis=1).astype(np.float64)[:, 0]
    np.testing.assert_array_equal(tokenizer.encode([wide])[0], tokenizer.encode([audio])[0])


@pytest.mark.parametrize("pool", [1, 8])
def test_the_shortest_clip_and_a_full_window_at_every_rate(make_tokenizer, make_noise, pool):
    """At 6.25 Hz 30 s are no whole number of codes: windows there hold 187."""
    for dynamic_range in ("fixed", "clip_maximum"):
        tokenizer = make_tokenizer(pooling_kernel_size=pool, mel_dynamic_range=dynamic_range)
        per_code = 320 * pool
        lengths = [1, 30 * 16_000, 30 * 16_000 + 1]
        codes = tokenizer.encode([make_noise(n) for n in lengths])
        assert [len(c) for c in codes] == [-(-n // per_code) for n in lengths]
        assert len(tokenizer.decode_text(codes)) == 3


def test_other_sample_rates_and_codes_out_of_range_are_refused(tokenizer):
    with pytest.raises(AudioError, match="8000 Hz"):
        tokenizer.encode([np.zeros(8000, np.float32)], sample_rate_hz=8000)
    with pytest.raises(VocabularyError, match=r"0\.\.63"):
        tokenizer.decode_text([np.array([64])])


def test_damaged_folders_are_refused(tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        SpeechTokenizer.from_pretrained(tmp_path / "none")
    tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(weights).items()}
    whole = weights.read_bytes()
    for place in (len(whole) - 5, len(whole) // 2):  # one bit of one weight
        altered = bytearray(whole)
        altered[place] ^= 4
        weights.write_bytes(altered)
        with pytest.raises(CheckpointError, match=r"altered|NaN"):
            SpeechTokenizer.from_pretrained(tmp_path)
    header_bytes = int.from_bytes(whole[:8], "little")
    for altered in (
        whole.replace(b'"F32"', b'"F99"', 1),
        (header_bytes + (1 << 40)).to_bytes(8, "little") + whole[8:],
        b"",
        b"\x80\x02}q\x00." * 100,  # pickle under another name
    ):
        weights.write_bytes(altered)
        with pytest.raises(CheckpointError, match="damaged"):
            SpeechTokenizer.from_pretrained(tmp_path)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        SpeechTokenizer.from_pretrained(tmp_path)
    broken = {name: value.clone() for name, value in tensors.items()}
    broken["model.encoder.conv2.bias"][3] = float("nan")
    save_file(broken, weights)
    with pytest.raises(CheckpointError, match=r"conv2\.bias holds NaN"):
        SpeechTokenizer.from_pretrained(tmp_path)
    del tensors["model.encoder.conv1.weight"]
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"missing.*conv1"):
        SpeechTokenizer.from_pretrained(tmp_path)
    weights.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        SpeechTokenizer.from_pretrained(tmp_path)


def test_models_without_a_codebook_have_no_codes(make_tokenizer, make_noise):
    tokenizer = make_tokenizer(quantize_vocab_size=None)
    with pytest.raises(ConfigError, match="without quantization"):
        tokenizer.encode([make_noise(5000)])
