"""Connects a recipe's model, data and trainer for the training of a language model."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import yaml

from ..errors import ConfigError
from ..io.files import write_text
from ..model.card import RUN_CONFIG
from ..model.code_rows import start_code_rows
from ..model.families import export_obstacle
from ..model.lora_config import rows_to_train
from ..text.vocab import SpeechTextVocab
from ..training.installed import installed
from ..training.loop import LoopResult, train
from ..training.megatron.backend import MegatronTrainer, TrainingData
from ..training.megatron.checkpoint_check import BASE_KEY, SPEECH_TOKENIZER_KEY
from ..training.megatron.parallel import (
    is_launched_main_rank,
    kernels_in_order,
    launched_world_size,
    session,
    userbuffers,
)
from .base_model import shape_of
from .lm_check import check_packing, check_settings
from .lm_recipes import RECIPES, LMConfig, lm_debug
from .resume import check_resume, continuation, plain, sole_trainer

__all__ = ["RECIPES", "LMConfig", "build", "check", "lm_debug", "pretrain"]


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
    if not vocab.num_codes:
        raise ConfigError(
            f"the vocabulary {config.data.vocab} has no speech codes; import the base model again "
            "with --num-codes"
        )
    check_settings(config, vocab.padded_size, launched_world_size(), installed())
    config.data.check()
    check_packing(config)
    notes = (export_obstacle(config.model), check_resume(config.loop.save, plain(config)))
    for note in notes:
        if note is not None and is_launched_main_rank():
            print(note, flush=True)
    return vocab


@contextmanager
def build(config: LMConfig) -> Iterator[MegatronTrainer]:
    """Process groups, data, model and trainer for the time of a `with` block."""
    config = resolve(config)
    vocab = check(config)
    assert config.loop.save is not None
    data = config.data
    if data.data_cache_path is None:
        data = replace(data, data_cache_path=config.loop.save / "data_cache")
    train_samples = config.batch.schedule(data.seq_length).first(config.loop.train_iters)
    samples = (train_samples, config.batch.eval_iters * config.batch.global_batch_size)
    graphs = config.precision.cuda_graph_impl != "none"
    formats = config.precision.product_formats
    with (
        session(config.parallel, config.batch.seed, graphs) as layout,
        userbuffers(config.parallel, _activations(config), formats),
    ):
        from ..data.dataset import build_datasets  # needs the session: core warns on import
        from ..model.gpt import BuildOptions, build_model
        from ..model.lora import add_lora

        going_on = continuation(config)
        datasets = build_datasets(data, vocab, samples, config.batch.seed, going_on)
        options = BuildOptions(
            padded_vocab_size=vocab.padded_size,
            vocab_rows=vocab.embedding_rows,
            precision=config.precision,
        )
        if layout.is_main_rank:
            print(options.implementation.describe(), flush=True)
        chunks = build_model(config.model, config.parallel, options)
        _start_codes(config, chunks, vocab, datasets.speech_tokenizer)
        if config.lora.lora_rank is not None:
            rows = rows_to_train(config.lora, vocab)
            add_lora(chunks, config.model, config.lora, rows, config.batch.seed)
            if layout.is_main_rank:
                print(config.lora.describe(config.model, rows), flush=True)
        yield MegatronTrainer(
            chunks,
            TrainingData(
                train=datasets.train,
                valid=datasets.valid,
                test=datasets.test,
                seq_length=data.seq_length,
                code_offset=vocab.code_offset,
                num_codes=vocab.num_codes,
                separate_documents=datasets.separate_documents,
                train_flops_per_token=config.lora.train_flops_per_token(
                    config.model, data.seq_length, vocab.padded_size
                ),
                loss_weights=(data.text_loss_weight, data.speech_loss_weight),
                dpo_beta=data.dpo_beta if datasets.preferences else None,
                dpo_nll_weight=data.dpo_nll_weight,
                position=datasets.position,
            ),
            config.batch,
            config.parallel,
            layout,
            config.loop.train_iters,
            _identity(config, vocab, datasets.speech_tokenizer or vocab.speech_tokenizer),
        )


def _start_codes(
    config: LMConfig, chunks: Sequence[Any], vocab: SpeechTextVocab, speech_tokenizer: str | None
) -> None:
    """Lay the rows of codes out as their speech tokenizer does, in a new run that asks for it."""
    assert config.loop.save is not None
    codes = config.base.codes(config.loop.save)
    if codes is not None:
        codes.require_fit(vocab.num_codes, speech_tokenizer or vocab.speech_tokenizer)
        start_code_rows(chunks, codes, vocab, config.model.init_method_std, config.batch.seed)


def _activations(config: LMConfig) -> tuple[int, int]:
    """Rows and columns of what a layer takes of a micro-batch."""
    tokens = config.batch.micro_batch_size * config.data.seq_length
    return tokens // config.parallel.context_parallel_size, config.model.hidden_size


def _identity(
    config: LMConfig, vocab: SpeechTextVocab, speech_tokenizer: str | None
) -> dict[str, Any]:
    """What a checkpoint of the run is of: the model, and what its adapters belong to."""
    found = config.model.identity(vocab, speech_tokenizer) | config.lora.identity(vocab)
    if config.lora.lora_rank is not None:
        found[BASE_KEY] = config.base.identity()
    return found


def resolve(config: LMConfig, given: Collection[str] = ()) -> LMConfig:
    """The config with what its files decide filled in: blend, and a base's shape and vocabulary.

    `given` are the fields that were set by hand; a shape among them has to be the base's.

    Raises:
        ConfigError: the base model's folder is none, or its shape is another than the given one.
    """
    batch = replace(config.batch, min_lr=config.batch.lowest_lr)
    config = replace(config, data=config.data.resolve(), batch=batch)
    source = config.base.source(config.loop.save)
    if source is None:
        return config
    data = replace(config.data, vocab=config.data.vocab or source / "vocab")
    return replace(config, model=shape_of(source, config.model, given), data=data)


def pretrain(
    config: LMConfig, recipe: str | None = None, given: Collection[str] = ()
) -> LoopResult:
    """Train or continue a run; the resolved config and the vocabulary are kept in its folder.

    `recipe` is the name the config was made by, for the model card; `given` are the fields set by
    hand. Raises what `resolve` and `check` do, and `InUseError` where another process trains into
    the folder.
    """
    config = resolve(config, given)
    save = config.loop.save
    if save is None:
        raise ConfigError("--save is missing: give the folder of the run")
    with kernels_in_order(config.parallel), sole_trainer(save), build(config) as trainer:
        assert config.data.vocab is not None
        config.base.load_weights(trainer, save, stays=config.lora.lora_rank is not None)
        if trainer.is_main_rank:
            kept = {"recipe": recipe, **plain(config)}
            write_text(save / RUN_CONFIG, yaml.safe_dump(kept, sort_keys=False))
            vocab = SpeechTextVocab.from_pretrained(config.data.vocab)
            vocab = replace(vocab, speech_tokenizer=trainer.identity[SPEECH_TOKENIZER_KEY])
            vocab.save_pretrained(save / "vocab")
        return train(trainer, config.loop, config.health)
