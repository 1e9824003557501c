"""Speech tokenizer and speech decoder on a GPU: what they are on a CPU, and they train there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_speech.audio import read_audio
from megatron_speech.data.code_shards import read_code_shards
from megatron_speech.data.manifest import read_manifest
from megatron_speech.speech_decoder import SpeechDecoder
from megatron_speech.speech_tokenizer import SpeechTokenizer
from megatron_speech.training.reporting import read_metrics
from tests.gpu.device import DEVICE
from tests.speech_decoder.tiny_decoder import random_codes, tiny_decoder
from tests.speech_tokenizer.tiny_tokenizer import save_tiny_tokenizer
from tests.tools import decoder_training, speech_training
from tools import tokenize_speech, train_speech_decoder, train_speech_tokenizer

pytestmark = pytest.mark.gpu

LENGTHS_S = (0.05, 0.4, 1.0, 1.3, 2.0, 3.7, 5.5, 8.0, 31.0)
TOKENIZERS = {
    "tokenizer": "--no-kmeans-init",
    "k-means and restarts": "--quantize-restart-interval 2 --quantize-restart-threshold 0.99",
    "fsq": "--quantizer fsq --fsq-levels 5 4 --quantize-start-step 0",
}
LOSSES = {
    **dict.fromkeys(TOKENIZERS, ("asr loss", "ctc loss")),
    "flow": ("flow loss", "guess loss"),
    "vocoder": ("mel loss", "stft loss"),
}


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Convolutions in fp32, so that what is compared is the algorithm and not TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    sizes = [int(seconds * 16_000) for seconds in LENGTHS_S * 4]
    loudness = random.uniform(0.01, 0.5, len(sizes))
    return [
        (level * random.standard_normal(size)).astype(np.float32)
        for size, level in zip(sizes, loudness, strict=True)
    ]


def differing(one: list[np.ndarray], two: list[np.ndarray]) -> float:
    """Share of codes that differ; lengths must not."""
    assert [len(codes) for codes in one] == [len(codes) for codes in two]
    return float(np.mean(np.concatenate(one) != np.concatenate(two)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mel_dynamic_range": "clip_maximum", "quantize_lookup": "released"},
        {"quantizer": "fsq", "fsq_levels": (5, 4), "quantize_vocab_size": 20},
    ],
    ids=str,
)
def test_codes_are_those_of_a_cpu(changes, clips, tmp_path):
    folder = save_tiny_tokenizer(tmp_path, **changes)
    expected = SpeechTokenizer.from_pretrained(folder).encode(clips)
    assert len(np.unique(np.concatenate(expected))) > 10
    share = differing(SpeechTokenizer.from_pretrained(folder, DEVICE).encode(clips), expected)
    print(f"codes that differ from a CPU's: {share:.1e}")
    assert share <= 2e-3


def test_convolutions_in_tf32_move_few_codes(folder, clips, monkeypatch):
    """Torch's default on a GPU, and what the released code runs with."""
    expected = SpeechTokenizer.from_pretrained(folder).encode(clips)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    share = differing(SpeechTokenizer.from_pretrained(folder, DEVICE).encode(clips), expected)
    print(f"codes that differ from a CPU's with convolutions in TF32: {share:.1e}")
    assert share <= 5e-2


def test_codes_do_not_depend_on_batch_mates(folder, clips):
    tokenizer = SpeechTokenizer.from_pretrained(folder, DEVICE)
    alone = [tokenizer.encode([clip])[0] for clip in clips]
    for together in (tokenizer.encode(clips), tokenizer.encode(clips[::-1])[::-1]):
        share = differing(together, alone)
        print(f"codes that depend on the batch: {share:.1e}")
        assert share <= 2e-3


def test_a_stream_gives_the_codes_of_the_whole_clip(folder, clips):
    tokenizer = SpeechTokenizer.from_pretrained(folder, DEVICE)
    whole, parts = tokenizer.encode(clips), []
    for clip in clips:
        stream = tokenizer.stream()
        found = [stream.feed(clip[start : start + 7_000]) for start in range(0, len(clip), 7_000)]
        parts.append(np.concatenate([*found, stream.finish()]))
    assert differing(parts, whole) <= 2e-3


def test_an_encoder_in_bf16_says_mostly_the_same(folder, clips):
    exact = SpeechTokenizer.from_pretrained(folder, DEVICE)
    rounded = SpeechTokenizer.from_pretrained(folder, DEVICE, torch.bfloat16)
    assert rounded.fingerprint == exact.fingerprint
    share = differing(rounded.encode(clips), exact.encode(clips))
    print(f"codes that differ in bf16: {share:.1e}")
    assert share < 0.5  # of 64 codes of a random encoder; by chance it would be all but one in 64


def test_bulk_tokenization_gives_the_codes_of_the_library(folder, tmp_path):
    manifest = speech_training.write_speech(tmp_path / "speech")
    flags = ["--input", str(manifest), "--speech-tokenizer", str(folder), "--device", DEVICE]
    result = tokenize_speech.main([*flags, "--output", str(tmp_path / "codes")])
    assert result.rejected == {"unreadable": 1}
    records = {r.id: r.codes for r in read_code_shards(tmp_path / "codes")[1]}
    rows = [row for row in read_manifest(manifest) if row.id in records]
    assert len(rows) == 12
    audio = [read_audio(row.path) for row in rows]
    found = SpeechTokenizer.from_pretrained(folder, DEVICE).encode(audio)
    assert differing([records[row.id] for row in rows], found) <= 2e-3


@pytest.mark.parametrize("vocoder", ["istft", "hifigan"])
def test_decoded_speech_is_that_of_a_cpu(vocoder, tmp_path):
    tiny_decoder(vocoder).save_pretrained(tmp_path)
    codes = random_codes(67)
    expected = SpeechDecoder.from_pretrained(tmp_path).decode(codes)
    decoder = SpeechDecoder.from_pretrained(tmp_path, DEVICE)
    found = decoder.decode(codes)
    loudest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-3 * loudest, rtol=0)
    stream = decoder.stream()
    parts = [stream.feed(codes[start : start + 7]) for start in range(0, len(codes), 7)]
    streamed = np.concatenate([*parts, stream.finish()])
    np.testing.assert_allclose(streamed, found, atol=1e-4 * loudest, rtol=0)


def train(kind: str, folder: Path, run: str, *more: str) -> tuple[bool, list[list[float]]]:
    """Eight steps into `folder/run`: whether they are done, and losses by step."""
    if kind in TOKENIZERS:
        manifest = folder / "speech" / "manifest.parquet"
        if not manifest.exists():
            speech_training.write_speech(manifest.parent)
        flags = [*TOKENIZERS[kind].split(), *more]
        command = speech_training.arguments(manifest, folder / run, *flags)
        finished = train_speech_tokenizer.main(command).finished
    else:
        flow, vocoder = decoder_training.flow_arguments, decoder_training.vocoder_arguments
        arguments = {"flow": flow, "vocoder": vocoder}[kind]
        command = arguments(folder / "material", folder / run, *more)
        finished = train_speech_decoder.main(command).finished
    records = read_metrics(folder / run)
    return finished, [[record[name] for name in LOSSES[kind]] for record in records]


@pytest.mark.parametrize("kind", LOSSES)
def test_training_follows_that_on_a_cpu(kind, tmp_path, monkeypatch):
    finished, losses = train(kind, tmp_path, "gpu")
    assert finished
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finished, expected = train(kind, tmp_path, "cpu")
    assert finished
    np.testing.assert_allclose(losses, expected, rtol=2e-2)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_training_in_bf16_is_continued(kind, tmp_path):
    """As good as exactly: sums over a GPU's threads have no fixed order."""
    finished, whole = train(kind, tmp_path, "whole", "--bf16")
    assert finished
    finished, _ = train(kind, tmp_path, "parts", "--bf16", "--exit-interval", "3")
    assert not finished
    finished, losses = train(kind, tmp_path, "parts", "--bf16")
    assert finished
    assert len(losses) == 8
    np.testing.assert_allclose(losses, whole, rtol=2e-2)
