"""What the stages before pre-training cost, and the disk that data and checkpoints take."""

from dataclasses import dataclass

from ..data.mixture import parse_count
from ..errors import ConfigError
from ..recipes.speech_tokenizer import tokenizer_large_v3
from ..speech_tokenizer.config import SpeechTokenizerConfig
from ..training.devices import Gpu
from .shards import checkpoint_bytes

_WINDOW_S = 30.0
_TOKENIZER_MFU = 0.30
_TEXT_TO_TOKEN_RATE = 25_000.0
_TEXT_TOKENS_PER_CORE_S = 14.1e6
# The paper's 1T tokens (docs/paper.md): 300B text, 31.5B speech of recordings, 11B + 3.5B of pairs,
# the rest interleaved, of which 455 in 734 are speech.
_RECORDED = (31.5 + 11.0) / 1000
_SYNTHETIC = (1000 - 300 - 31.5 - 14.5) / 1000 * 455 / (455 + 279)


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """Amounts and speeds of the stages before pre-training; what is not given is assumed."""

    synthetic_speech_tokens: str | None = None
    """Speech tokens to make from text (455B); the paper's share of the budget if not given."""
    audio_hours: float | None = None
    """Hours of recordings to tokenize; the paper's share of the budget if not given."""
    text_to_token_rate: float | None = None
    """Speech tokens a second of one GPU, measured."""
    speech_tokenizer_rate: float | None = None
    """Seconds of audio a second of one GPU, measured."""
    keep_last: int = 2
    """Checkpoints of the run that are kept; while one is written there is one more."""

    def __post_init__(self) -> None:
        for name in ("audio_hours", "text_to_token_rate", "speech_tokenizer_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; give more than 0")
        if self.keep_last < 1:
            raise ConfigError(f"--keep-last is {self.keep_last}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class StageCosts:
    """GPU-hours, core-hours and bytes; `assumptions` says what they rest on."""

    synthetic_speech_tokens: float
    text_to_token_gpu_hours: float
    audio_hours: float
    speech_tokenizer_gpu_hours: float
    text_tokenization_core_hours: float
    dataset_bytes: float
    """.bin and .idx files of the budget, each token once."""
    code_shard_bytes: float
    checkpoint_bytes: float
    """One checkpoint: weights and the optimizer's fp32 state."""
    checkpoints_bytes: float
    """All that exist at once."""
    assumptions: tuple[str, ...]


def tokenizer_flops(config: SpeechTokenizerConfig) -> tuple[float, float]:
    """Operations of encoder (up to the codes) and codebook look-up for a window of 30 s.

    Products only, two operations a multiplication; attention counted in full.
    """
    width, ffn, frames = config.d_model, config.encoder_ffn_dim, config.max_source_positions
    convolutions = 3 * width * (2 * frames * config.num_mel_bins + frames * width)
    pooled = frames // config.pooling_kernel_size
    layers = 0.0
    for layer in range(config.quantize_position):
        length = frames if layer < config.pooling_position else pooled
        layers += length * (4 * width**2 + 2 * width * ffn) + 2 * length**2 * width
    look_up = pooled * (config.quantize_vocab_size or 0) * width
    return 2.0 * (convolutions + layers), 2.0 * look_up


def stage_costs(
    config: StagesConfig, tokens: float, parameters: int, bf16: bool, token_bytes: int, gpu: Gpu
) -> StageCosts:
    """Costs of what comes before a run over `tokens`, and of its files."""
    notes = [f"datasets: {token_bytes} bytes a token, every token of the budget read once"]
    synthetic = _SYNTHETIC * tokens
    if config.synthetic_speech_tokens is not None:
        synthetic = parse_count(config.synthetic_speech_tokens)
    else:
        notes.append(f"synthetic speech: {100 * _SYNTHETIC:.1f}% of the budget, as in the paper")
    rate = config.text_to_token_rate
    if rate is None:
        rate = _TEXT_TO_TOKEN_RATE
        notes.append(
            f"text-to-token: {rate:,.0f} tokens/s/GPU, reported for the paper's 1.5B model on an "
            "H800"
        )
    shape = tokenizer_large_v3(4, 16_384).model
    codes_per_s = shape.max_source_positions / shape.pooling_kernel_size / _WINDOW_S
    hours = config.audio_hours
    if hours is None:
        hours = _RECORDED * tokens / codes_per_s / 3600
        notes.append(f"recordings: {100 * _RECORDED:.2f}% of the budget, as in the paper")
    speed = config.speech_tokenizer_rate
    if speed is None:
        speed = _TOKENIZER_MFU * 1e12 * gpu.bf16_tflops * _WINDOW_S / sum(tokenizer_flops(shape))
        notes.append(
            f"speech tokenizer: {speed:,.0f} x real time a GPU, {100 * _TOKENIZER_MFU:.0f}% of its "
            f"bf16 peak for the {sum(tokenizer_flops(shape)) / 1e9:,.0f} GFLOP of 30 s"
        )
    notes.append(
        f"text tokenization: {_TEXT_TOKENS_PER_CORE_S / 1e6:g}M tokens per core-second, measured "
        "(benchmarks/results/preprocessing.json)"
    )
    checkpoint = checkpoint_bytes(parameters, bf16, distributed_optimizer=True)
    return StageCosts(
        synthetic_speech_tokens=synthetic,
        text_to_token_gpu_hours=synthetic / rate / 3600,
        audio_hours=hours,
        speech_tokenizer_gpu_hours=hours / speed,
        text_tokenization_core_hours=max(tokens - synthetic, 0) / _TEXT_TOKENS_PER_CORE_S / 3600,
        dataset_bytes=token_bytes * tokens,
        code_shard_bytes=2 * (synthetic + 3600 * codes_per_s * hours),
        checkpoint_bytes=checkpoint,
        checkpoints_bytes=checkpoint * (config.keep_last + 1),
        assumptions=tuple(notes),
    )
