"""Named configs of speech tokenizers.

`tokenizer-debug` and `tokenizer-smoke` fit two CPU cores; `tokenizer-large-v3-*` are the paper's;
`tokenizer-from-whisper-*` start from any Whisper, with little data.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from ..speech_tokenizer.config import SpeechTokenizerConfig
from ..speech_tokenizer.dataset import SpeechDataConfig
from ..speech_tokenizer.objective import ObjectiveConfig
from ..speech_tokenizer.whisper import SecondPositions
from ..training.adamw_config import OptimizerConfig
from ..training.health import HealthConfig
from ..training.loop_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizerRecipe:
    """Everything that makes a speech tokenizer."""

    model: SpeechTokenizerConfig = field(default_factory=SpeechTokenizerConfig)
    data: SpeechDataConfig = field(default_factory=SpeechDataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    health: HealthConfig = field(default_factory=lambda: HealthConfig(bad_step_policy="skip"))
    init_from: Path | None = None
    """Whisper to start from, a folder (transformers, safetensors) or a model of the Hugging Face
    hub (openai/whisper-base). It says the shape, and its text tokenizer is used unless another is
    given; none starts at random."""
    second_positions: SecondPositions = "zero"
    """Positions added above the quantizer at a start from Whisper: zero, so that the model is
    Whisper but for pool and quantizer, or Whisper's sinusoids once more, as in the released code.
    Both are trained."""
    vectors_per_code: int = 0
    """Least vectors of training speech for each code: the codebook is halved until there are as
    many. 0 keeps --quantize-vocab-size."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """Attention of the training. auto: sdpa; in bf16 on a CPU eager (benchmarks/attention.py)."""
    export: Literal["last", "best"] = "last"
    """Which model `save/export` holds in the end. The best one so far is always in `save/best`."""
    best_by: str | None = None
    """Name of the validation set whose word error rate tells the best model; none is the first."""

    def __post_init__(self) -> None:
        if self.attention not in ("auto", "eager", "sdpa"):
            raise ConfigError(f"--attention is {self.attention!r}; expected auto, eager or sdpa")

    def attention_on(self, device_type: str) -> str:
        """eager or sdpa, whichever is faster there (`cpu`, `cuda`) in this precision."""
        if self.attention != "auto":
            return self.attention
        return "eager" if device_type == "cpu" and self.optimizer.bf16 else "sdpa"


def tokenizer_debug() -> SpeechTokenizerRecipe:
    """A 12.5 Hz tokenizer with 512 codes that two CPU cores train in minutes."""
    return SpeechTokenizerRecipe(
        model=SpeechTokenizerConfig(
            d_model=192,
            encoder_layers=5,
            encoder_attention_heads=4,
            encoder_ffn_dim=768,
            decoder_layers=2,
            decoder_attention_heads=4,
            decoder_ffn_dim=768,
            num_mel_bins=80,
            mel_dynamic_range="fixed",
            max_target_positions=128,
            init_std=0.05,
            pooling_position=2,
            quantize_position=3,
            quantize_vocab_size=512,
            quantize_commit_coefficient=1.0,
            quantize_loss_scale=1.0,
            quantize_restart_interval=20,
            quantize_restart_threshold=0.1,
        ),
        data=SpeechDataConfig(words_only=True, cache_features=True, asr_vocab_size=340),
        objective=ObjectiveConfig(
            character_ctc_weight=1.0,
            upper_character_ctc_weight=1.0,
            quantize_start_step=750,
            kmeans_init=True,
        ),
        optimizer=OptimizerConfig(lr=2e-3, lr_warmup_iters=100, lr_decay_start=0.5),
        loop=LoopConfig(train_iters=3000, log_interval=50, eval_interval=750, save_interval=500),
    )


def tokenizer_smoke() -> SpeechTokenizerRecipe:
    """Twenty steps of a tiny tokenizer: shows that the parts fit, learns nothing."""
    debug = tokenizer_debug()
    return replace(
        debug,
        model=replace(
            debug.model,
            d_model=64,
            encoder_layers=2,
            encoder_ffn_dim=128,
            decoder_layers=1,
            decoder_ffn_dim=128,
            pooling_position=1,
            quantize_position=1,
            quantize_vocab_size=64,
        ),
        data=replace(debug.data, asr_vocab_size=512, valid_samples=16),
        objective=replace(debug.objective, quantize_start_step=5, kmeans_vectors=1024),
        optimizer=replace(debug.optimizer, lr_warmup_iters=2),
        loop=replace(debug.loop, train_iters=20, log_interval=5, eval_interval=0, save_interval=10),
    )


def tokenizer_large_v3(pooling_kernel_size: int, num_codes: int) -> SpeechTokenizerRecipe:
    """The paper's settings (sections 2.1 to 2.4) at 50 / pooling_kernel_size codes per second.

    Where it is silent the value is ours: how the codebook starts, AdamW's settings, the number of
    steps. Give `--init-from` the folder of whisper-large-v3; its text tokenizer is used too.
    """
    return SpeechTokenizerRecipe(
        model=SpeechTokenizerConfig(
            pooling_kernel_size=pooling_kernel_size,
            quantize_vocab_size=num_codes,
            quantize_causal_block_size=104 if pooling_kernel_size == 8 else 100,
            quantize_commit_coefficient=1.0,  # times the scale of 10: the paper's 10.0
        ),
        objective=ObjectiveConfig(kmeans_init=True),
        data=SpeechDataConfig(micro_batch_size=16, global_batch_size=4096, num_workers=8),
        optimizer=OptimizerConfig(lr=1e-5, lr_decay_style="constant", bf16=True),
        loop=LoopConfig(train_iters=100_000, save_interval=1000, eval_interval=1000),
    )


def tokenizer_from_whisper(pooling_kernel_size: int, num_codes: int) -> SpeechTokenizerRecipe:
    """Any Whisper, and hours of speech rather than years: `--init-from` says the shape.

    The codebook has at most the paper's size for this rate, and 64 vectors of the data for each
    code. A twentieth of the steps trains without it, so that the pool is learned first. Then codes
    are made once, of the 64 directions that the loss feels most, and what lies above learns to read
    them: with few voices nothing else that was tried could be read (docs/log.md, 2026-11-30).
    """
    large = tokenizer_large_v3(pooling_kernel_size, num_codes)
    return replace(
        large,
        model=replace(
            large.model,
            quantize_code_dim=64,
        ),
        data=SpeechDataConfig(micro_batch_size=16, global_batch_size=16),
        objective=replace(large.objective, quantize_start_step=150, freeze_codes=True),
        optimizer=OptimizerConfig(
            lr=1e-4, lr_warmup_iters=50, lr_decay_style="cosine", lr_decay_start=0.5, bf16=True
        ),
        loop=LoopConfig(train_iters=3000, log_interval=10, eval_interval=250, save_interval=250),
        vectors_per_code=64,
    )


_RATES = {"50hz": (1, 4096), "25hz": (2, 4096), "12.5hz": (4, 16384), "6.25hz": (8, 65536)}
"""Pool and codes of the paper at each rate (section 2.1)."""


def _at_rates(
    make: Callable[[int, int], SpeechTokenizerRecipe], name: str, words: str
) -> dict[str, Callable[[], SpeechTokenizerRecipe]]:
    """A recipe for each rate; `words` are its help, without rate and codes."""
    recipes = {}
    for rate, (pool, codes) in _RATES.items():
        recipe = partial(make, pool, codes)
        recipe.__doc__ = f"{words}: {rate.removesuffix('hz')} codes per second of {codes:,}."
        recipes[f"{name}-{rate}"] = recipe
    return recipes


RECIPES: dict[str, Callable[[], SpeechTokenizerRecipe]] = {
    "tokenizer-debug": tokenizer_debug,
    "tokenizer-smoke": tokenizer_smoke,
    **_at_rates(tokenizer_large_v3, "tokenizer-large-v3", "The paper's, of whisper-large-v3"),
    **_at_rates(
        tokenizer_from_whisper,
        "tokenizer-from-whisper",
        "Out of any Whisper (--init-from), codes at most as named",
    ),
}
