"""Named configs of language models, and what binds model, data and trainer into a run.

`*-smoke` and `*-debug` fit two CPU cores; `t2t-*` are text-to-token models, `lm-*` speech-text
language models. Where the paper (arXiv 2411.17607, section 6) is silent, the value is ours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import yaml

from ..data.config import DataConfig
from ..errors import ConfigError
from ..files import write_text
from ..model.config import ModelConfig
from ..model.families import export_obstacle
from ..training.loop import LoopConfig, LoopResult, train
from ..training.megatron import MegatronTrainer, TrainingData
from ..training.megatron_checkpoint import SPEECH_TOKENIZER_KEY
from ..training.megatron_optimizer import BatchConfig
from ..training.parallel import (
    ParallelConfig,
    is_launched_main_rank,
    launched_world_size,
    session,
)
from ..vocab import SpeechTextVocab
from .resume import CONFIG_NAME, check_resume, continuation, plain


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Everything a pre-training run is made of."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def lm_debug() -> LMConfig:
    """3.5M parameters, 3M tokens: minutes on two CPU cores."""
    return LMConfig(
        model=ModelConfig(
            num_layers=4,
            hidden_size=256,
            ffn_hidden_size=704,
            num_attention_heads=4,
            num_query_groups=2,
            max_position_embeddings=512,
            init_method_std=0.06,
        ),
        # A window holds several short stories. Kept apart, and in many small steps, the model
        # learns within a million tokens to read codes; run together it does not in three.
        data=DataConfig(seq_length=256, reset_attention_mask=True),
        batch=BatchConfig(
            micro_batch_size=4,
            global_batch_size=4,
            adam_beta2=0.98,
            lr_warmup_iters=100,
            eval_iters=32,
        ),
        loop=LoopConfig(train_iters=2928, save_interval=500, eval_interval=0),
    )


def lm_smoke() -> LMConfig:
    """lm-debug for 20 steps."""
    return _shortened(lm_debug())


def t2t_debug() -> LMConfig:
    """2M parameters, packed whole documents: the text-to-token model of the demo."""
    return LMConfig(
        model=ModelConfig(
            num_layers=4,
            hidden_size=192,
            ffn_hidden_size=512,
            num_attention_heads=3,
            num_query_groups=3,
            max_position_embeddings=512,
        ),
        data=DataConfig(seq_length=256),
        batch=BatchConfig(lr_warmup_iters=30, eval_iters=8),
        loop=LoopConfig(train_iters=700, save_interval=200, eval_interval=0),
    )


def t2t_smoke() -> LMConfig:
    """t2t-debug for 20 steps."""
    return _shortened(t2t_debug())


def lm_1_5b() -> LMConfig:
    """The paper's small speech-text model: 1.5B parameters, sequences of 8,192."""
    return LMConfig(
        model=_MODEL_1_5B,
        data=DataConfig(seq_length=8192),
        batch=BatchConfig(
            micro_batch_size=1,
            global_batch_size=256,
            lr=2e-4,
            min_lr=2e-5,
            lr_warmup_iters=1000,
            bf16=True,
            eval_iters=16,
        ),
        parallel=ParallelConfig(
            use_distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True
        ),
        loop=LoopConfig(train_iters=100_000, save_interval=1000, eval_interval=1000),
    )


def lm_9b() -> LMConfig:
    """The paper's model: GLM-4-9B's shape, 1T tokens, learning rate 6e-5 to 6e-6.

    There is no Hugging Face layout for its family yet: checkpoints train on but cannot be exported.
    """
    return LMConfig(
        model=ModelConfig(
            num_layers=40,
            hidden_size=4096,
            ffn_hidden_size=13696,
            num_attention_heads=32,
            num_query_groups=2,
            kv_channels=128,
            max_position_embeddings=8192,
            rotary_percent=0.5,
            rotary_interleaved=True,
            untie_embeddings_and_output_weights=True,
            add_qkv_bias=True,
            norm_epsilon=1.5625e-07,
            family="glm",
        ),
        data=DataConfig(seq_length=8192),
        batch=BatchConfig(
            micro_batch_size=1,
            global_batch_size=512,
            lr=6e-5,
            min_lr=6e-6,
            lr_warmup_iters=500,
            bf16=True,
            eval_iters=16,
        ),
        parallel=ParallelConfig(
            tensor_model_parallel_size=2,
            sequence_parallel=True,
            use_distributed_optimizer=True,
            overlap_grad_reduce=True,
            overlap_param_gather=True,
        ),
        loop=LoopConfig(train_iters=238_419, save_interval=1000, eval_interval=1000),
    )


def t2t_1_5b() -> LMConfig:
    """The paper's text-to-token model: 1.5B parameters, text in and codes out."""
    base = lm_1_5b()
    return replace(
        base,
        data=DataConfig(seq_length=4096),
        loop=LoopConfig(train_iters=50_000, save_interval=1000, eval_interval=1000),
    )


_MODEL_1_5B = ModelConfig(
    num_layers=28,
    hidden_size=1536,
    ffn_hidden_size=8960,
    num_attention_heads=12,
    num_query_groups=2,
    max_position_embeddings=8192,
    rotary_base=1_000_000,
)

RECIPES: dict[str, Callable[[], LMConfig]] = {
    "lm-smoke": lm_smoke,
    "lm-debug": lm_debug,
    "lm-1.5b": lm_1_5b,
    "lm-9b": lm_9b,
    "t2t-smoke": t2t_smoke,
    "t2t-debug": t2t_debug,
    "t2t-1.5b": t2t_1_5b,
}


def _shortened(config: LMConfig) -> LMConfig:
    return replace(
        config,
        batch=replace(config.batch, lr_warmup_iters=2, eval_iters=2),
        loop=replace(config.loop, train_iters=20, log_interval=5),
    )


def check(config: LMConfig) -> SpeechTextVocab:
    """Refuse what cannot work before any process group starts; returns the vocabulary.

    Prints what works and should be known: a model without a layout for exports, settings that
    changed since the run was saved.

    Raises:
        ConfigError, VocabularyError: names the setting to change.
    """
    if config.data.vocab is None:
        raise ConfigError("--vocab is missing: give the vocabulary folder of the datasets")
    if config.loop.save is None:
        raise ConfigError("--save is missing: give the folder of the run")
    vocab = SpeechTextVocab.from_pretrained(config.data.vocab)
    replicas = config.parallel.data_parallel_size(launched_world_size())
    config.batch.micro_batches(replicas)
    config.model.check_layout(config.parallel, config.data.seq_length, vocab.padded_size)
    config.data.check()
    notes = (export_obstacle(config.model), check_resume(config.loop.save, plain(config)))
    for note in notes:
        if note is not None and is_launched_main_rank():
            print(note, flush=True)
    return vocab


def identity(
    config: LMConfig, vocab: SpeechTextVocab, speech_tokenizer: str | None
) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that loads it.

    `speech_tokenizer` is the fingerprint of the one whose codes the model learns, if known.
    """
    training_only = ("hidden_dropout", "attention_dropout", "init_method_std")
    model = {k: v for k, v in asdict(config.model).items() if k not in training_only}
    return {
        **model,
        "padded_vocab_size": vocab.padded_size,
        "vocab": vocab.fingerprint,
        SPEECH_TOKENIZER_KEY: speech_tokenizer,
    }


@contextmanager
def build(config: LMConfig) -> Iterator[MegatronTrainer]:
    """Process groups, data, model and trainer for the time of a `with` block."""
    config = replace(config, data=config.data.resolve())
    vocab = check(config)
    assert config.loop.save is not None
    data = config.data
    if data.data_cache_path is None:
        data = replace(data, data_cache_path=config.loop.save / "data_cache")
    size = config.batch.global_batch_size
    samples = (config.loop.train_iters * size, config.batch.eval_iters * size)
    with session(config.parallel, config.batch.seed) as layout:
        from ..data.dataset import build_datasets  # needs the session: core warns on import
        from ..model.gpt import BuildOptions, build_model

        going_on = continuation(config)
        datasets = build_datasets(data, vocab, samples, config.batch.seed, going_on)
        options = BuildOptions(padded_vocab_size=vocab.padded_size, bf16=config.batch.bf16)
        yield MegatronTrainer(
            build_model(config.model, config.parallel, options),
            TrainingData(
                train=datasets.train,
                valid=datasets.valid,
                test=datasets.test,
                seq_length=data.seq_length,
                code_offset=vocab.code_offset,
                num_codes=vocab.num_codes,
                separate_documents=datasets.separate_documents,
                loss_weights=(data.text_loss_weight, data.speech_loss_weight),
                position=datasets.position,
            ),
            config.batch,
            config.parallel,
            layout,
            config.loop.train_iters,
            identity(config, vocab, datasets.speech_tokenizer or vocab.speech_tokenizer),
        )


def pretrain(config: LMConfig) -> LoopResult:
    """Train or continue a run; the resolved config and the vocabulary are kept in its folder."""
    config = replace(config, data=config.data.resolve())
    with build(config) as trainer:
        save = config.loop.save
        assert save is not None
        assert config.data.vocab is not None
        if trainer.is_main_rank:
            write_text(save / CONFIG_NAME, yaml.safe_dump(plain(config), sort_keys=False))
            vocab = SpeechTextVocab.from_pretrained(config.data.vocab)
            vocab = replace(vocab, speech_tokenizer=trainer.identity[SPEECH_TOKENIZER_KEY])
            vocab.save_pretrained(save / "vocab")
        return train(trainer, config.loop)
