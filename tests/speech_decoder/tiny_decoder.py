"""A tiny speech decoder with random weights that do something, and material to train one."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.speech_decoder.config import FlowSamplingConfig, SpeechDecoderConfig
from megatron_speech.speech_decoder.decoder import SpeechDecoder
from megatron_speech.speech_decoder.flow import FlowModel
from megatron_speech.speech_decoder.vocoder import (
    HifiganConfig,
    HifiganVocoder,
    IstftConfig,
    IstftVocoder,
    Vocoder,
)

NUM_CODES = 64
FINGERPRINT = "0123456789abcdef"
SIZES = {
    "num_codes": NUM_CODES,
    "tokenizer_fingerprint": FINGERPRINT,
    "encoder_dim": 32,
    "encoder_layers": 2,
    "encoder_heads": 2,
    "encoder_ffn_dim": 48,
    "regulator_layers": 1,
    "flow_dim": 32,
    "flow_layers": 2,
    "flow_heads": 2,
    "flow_ffn_dim": 48,
    "lookback_blocks": 2,
    "conv_kernel_size": 5,
    "sampling": FlowSamplingConfig(euler_steps=3, guidance=0.5),
}


def tiny_flow(**changes) -> FlowModel:
    """Every weight matters: those that start at zero are drawn too."""
    torch.manual_seed(0)
    flow = FlowModel(SpeechDecoderConfig(**SIZES | changes)).eval()
    with torch.no_grad():
        for name, weight in flow.named_parameters():
            if "flow_out" in name or ".time." in name:
                weight.normal_(std=0.2)
    return flow


def tiny_vocoder(kind: str = "istft") -> Vocoder:
    """One of either kind, loud enough to hear differences."""
    torch.manual_seed(1)
    if kind == "istft":
        return IstftVocoder(IstftConfig(dim=24, layers=2, ffn_dim=32)).eval()
    sizes = HifiganConfig(upsample_initial_channel=16)
    vocoder = HifiganVocoder.new(sizes).eval()
    with torch.no_grad():
        for weight in vocoder.parameters():
            if weight.ndim > 1:
                weight.normal_(std=1.0 / weight[0].numel() ** 0.5)
    return vocoder


def tiny_decoder(vocoder: str = "istft", **changes) -> SpeechDecoder:
    return SpeechDecoder(tiny_flow(**changes), tiny_vocoder(vocoder))


def random_codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, NUM_CODES, count)


def write_material(folder: Path, clips: int = 12, frame_rate_hz: float = 12.5) -> tuple[Path, Path]:
    """A manifest of noise by two speakers and a code shard of the same ids.

    One recording is no audio, one has no codes, one has codes of another length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(3)
    rows, records = [], []
    for number in range(clips):
        samples = 14_000 + 1700 * (number % 7)
        path = folder / f"{number}.flac"
        soundfile.write(path, 0.2 * random.standard_normal(samples), 16_000)
        name = f"u{number}"
        rows.append(
            ManifestRow(
                id=name,
                path=path,
                text="the cat sat on a mat",
                speaker=f"voice-{number % 2}",
                duration_s=samples / 16_000,
            )
        )
        count = -int(-samples * frame_rate_hz // 16_000)
        codes = random.integers(0, NUM_CODES, count + (20 if name == "u2" else 0))
        if name != "u1":
            records.append(CodeRecord(id=name, codes=codes, text="the cat"))
    broken = folder / "broken.flac"
    broken.write_bytes(b"no audio")
    rows.append(ManifestRow(id="broken", path=broken, text="lost", speaker="voice-0", duration_s=1))
    records.append(CodeRecord(id="broken", codes=random_codes(12)))
    write_manifest(folder / "manifest.parquet", rows)
    info = CodeShardInfo(
        frame_rate_hz=frame_rate_hz, num_codes=NUM_CODES, tokenizer_fingerprint=FINGERPRINT
    )
    write_code_shard(folder / "codes.parquet", records, info)
    return folder / "manifest.parquet", folder / "codes.parquet"
