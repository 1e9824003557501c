"""Named configs of speech decoders: flow models and vocoders.

`*-debug` and `*-smoke` fit two CPU cores. The others have the sizes of what the paper names; it
prints no depth, width, batch or learning rate of the decoder, so these are the released code's
defaults or ours (docs/speech_decoder.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import ConfigError
from ..speech_decoder.config import FlowSamplingConfig, SpeechDecoderConfig
from ..speech_decoder.dataset import DecoderDataConfig
from ..speech_decoder.objective import FlowObjectiveConfig
from ..speech_decoder.vocoder import HifiganConfig, IstftConfig
from ..speech_decoder.vocoder_objective import VocoderObjectiveConfig
from ..training.adamw_config import OptimizerConfig
from ..training.health import HealthConfig
from ..training.loop_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class SpeechDecoderRecipe:
    """Everything that makes a flow model: codes to spectrograms."""

    model: SpeechDecoderConfig = field(default_factory=SpeechDecoderConfig)
    data: DecoderDataConfig = field(default_factory=DecoderDataConfig)
    objective: FlowObjectiveConfig = field(default_factory=FlowObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    health: HealthConfig = field(default_factory=lambda: HealthConfig(bad_step_policy="skip"))
    codes: tuple[Path, ...] = ()
    """Code shards of the recordings of --manifest and --valid-manifest, by id."""
    speaker_embedding: bool = False
    """Learn an embedding of every speaker of the manifests; a voice can then be asked for. Those
    that --init-from does not know are added to it."""
    init_from: Path | None = None
    """Export of an earlier decoder to start from: the second stage starts from the first."""
    codebook_of: Path | None = None
    """Speech tokenizer whose codebook the embeddings of codes start from; none starts at random."""
    vocoder: Path | None = None
    """Vocoder to put into the export and to make samples with."""


@dataclass(frozen=True, kw_only=True)
class VocoderRecipe:
    """Everything that makes a vocoder: spectrograms to audio. One of `istft`, `hifigan` is set."""

    istft: IstftConfig | None = None
    hifigan: HifiganConfig | None = None
    data: DecoderDataConfig = field(default_factory=DecoderDataConfig)
    objective: VocoderObjectiveConfig = field(default_factory=VocoderObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    health: HealthConfig = field(default_factory=lambda: HealthConfig(bad_step_policy="skip"))
    init_from: Path | None = None
    """Vocoder to start from: an export, or a folder of transformers' SpeechT5HifiGan."""

    def __post_init__(self) -> None:
        if (self.istft is None) == (self.hifigan is None):
            raise ConfigError("a vocoder recipe has either istft or hifigan")


def decoder_debug() -> SpeechDecoderRecipe:
    """A flow model that two CPU cores train in minutes."""
    return SpeechDecoderRecipe(
        model=SpeechDecoderConfig(
            lookback_blocks=2,
            encoder_dim=192,
            encoder_layers=4,
            encoder_heads=4,
            encoder_ffn_dim=768,
            regulator_layers=1,
            flow_dim=128,
            flow_layers=2,
            flow_heads=2,
            flow_ffn_dim=512,
            # a flow of so few steps adds errors where it adds noise
            sampling=FlowSamplingConfig(euler_steps=2, guidance=0.0, temperature=0.0),
        ),
        data=DecoderDataConfig(cache_audio=True, micro_batch_size=8, global_batch_size=8),
        objective=FlowObjectiveConfig(
            crop_codes=40, unconditional_share=0.1, guess_loss_weight=3.0
        ),
        optimizer=OptimizerConfig(lr=2e-3, lr_warmup_iters=50, lr_decay_start=0.4),
        loop=LoopConfig(train_iters=2000, log_interval=50, eval_interval=500, save_interval=500),
    )


def decoder_debug_voice() -> SpeechDecoderRecipe:
    """Second stage of decoder-debug: one --voice, from --init-from, with early starts."""
    first = decoder_debug()
    return replace(
        first,
        objective=replace(first.objective, prefix_share=0.5),
        optimizer=OptimizerConfig(lr=1e-3, lr_warmup_iters=20, lr_decay_start=0.3),
        loop=replace(first.loop, train_iters=300, eval_interval=150, save_interval=150),
    )


def decoder_smoke() -> SpeechDecoderRecipe:
    """Twenty steps of a tiny flow model: shows that the parts fit, learns nothing."""
    debug = decoder_debug()
    return replace(
        debug,
        model=replace(
            debug.model,
            encoder_dim=64,
            encoder_layers=1,
            encoder_ffn_dim=128,
            regulator_layers=1,
            flow_dim=64,
            flow_layers=1,
            flow_ffn_dim=128,
        ),
        data=replace(debug.data, micro_batch_size=4, global_batch_size=4, valid_samples=4),
        optimizer=replace(debug.optimizer, lr_warmup_iters=2),
        loop=replace(debug.loop, train_iters=20, log_interval=5, eval_interval=0, save_interval=10),
    )


def decoder_smoke_voice() -> SpeechDecoderRecipe:
    """Second stage of decoder-smoke: twenty steps more, with early starts."""
    first = decoder_smoke()
    return replace(first, objective=replace(first.objective, prefix_share=0.5))


def decoder_large() -> SpeechDecoderRecipe:
    """First stage at the paper's size, on all speakers: about 155 M weights."""
    return SpeechDecoderRecipe(
        data=DecoderDataConfig(micro_batch_size=16, global_batch_size=256, num_workers=16),
        optimizer=OptimizerConfig(
            lr=1e-4, lr_warmup_iters=10_000, lr_decay_style="cosine", bf16=True
        ),
        loop=LoopConfig(train_iters=400_000, save_interval=5000, eval_interval=5000),
    )


def decoder_large_voice() -> SpeechDecoderRecipe:
    """Second stage at the paper's size: one good --voice, from --init-from, with early starts."""
    first = decoder_large()
    return replace(
        first,
        objective=replace(first.objective, prefix_share=0.5),
        optimizer=replace(first.optimizer, lr=1e-5, lr_warmup_iters=500),
        loop=LoopConfig(train_iters=20_000, save_interval=1000, eval_interval=1000),
    )


def vocoder_debug() -> VocoderRecipe:
    """A small iSTFT vocoder with spectral losses that two CPU cores train in minutes."""
    return VocoderRecipe(
        istft=IstftConfig(dim=192, layers=4, ffn_dim=576),
        data=DecoderDataConfig(
            cache_audio=True, micro_batch_size=16, global_batch_size=16, valid_samples=8
        ),
        objective=VocoderObjectiveConfig(gan=False, gan_width=0.125),
        optimizer=OptimizerConfig(lr=2e-3, lr_warmup_iters=50, lr_decay_start=0.4, clip_grad=10.0),
        loop=LoopConfig(train_iters=1500, log_interval=50, eval_interval=500, save_interval=500),
    )


def vocoder_smoke() -> VocoderRecipe:
    """Twenty steps of a tiny vocoder, its discriminators included."""
    debug = vocoder_debug()
    return replace(
        debug,
        istft=IstftConfig(dim=32, layers=1, ffn_dim=64),
        data=replace(debug.data, micro_batch_size=4, global_batch_size=4, valid_samples=2),
        objective=replace(debug.objective, gan=True, gan_start_step=10, gan_width=0.03125),
        optimizer=replace(debug.optimizer, lr_warmup_iters=2),
        loop=replace(debug.loop, train_iters=20, log_interval=5, eval_interval=0, save_interval=10),
    )


def vocoder_hifigan() -> VocoderRecipe:
    """HiFi-GAN V1 at 22,050 Hz with discriminators."""
    return VocoderRecipe(
        hifigan=HifiganConfig(),
        data=DecoderDataConfig(micro_batch_size=16, global_batch_size=128, num_workers=16),
        optimizer=OptimizerConfig(
            lr=2e-4,
            adam_beta1=0.8,
            adam_beta2=0.99,
            weight_decay=0.01,
            lr_decay_style="cosine",
            clip_grad=1000.0,
        ),
        loop=LoopConfig(train_iters=1_000_000, save_interval=5000, eval_interval=5000),
    )


RECIPES: dict[str, Callable[[], SpeechDecoderRecipe | VocoderRecipe]] = {
    "decoder-debug": decoder_debug,
    "decoder-debug-voice": decoder_debug_voice,
    "decoder-smoke": decoder_smoke,
    "decoder-smoke-voice": decoder_smoke_voice,
    "decoder-large": decoder_large,
    "decoder-large-voice": decoder_large_voice,
    "vocoder-debug": vocoder_debug,
    "vocoder-smoke": vocoder_smoke,
    "vocoder-hifigan": vocoder_hifigan,
}
